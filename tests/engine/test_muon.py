"""Muon: orthogonal updates for matrices, AdamW for everything else."""

import copy

import torch
from torch import nn

from unival.engine.muon import Muon, orthogonal
from unival.engine.optim import build_optimizer
from unival.engine.settings import OptimizerConfig


def stack():
    torch.manual_seed(0)
    model = nn.Module()
    model.embedding, model.head, model.norm = nn.Embedding(5, 6), nn.Linear(6, 5), nn.LayerNorm(6)
    model.media = nn.ModuleDict({"image": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))})
    model.layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 6)])
    return model


def steps(model, optimizer, count=3):
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_singular_values_become_one_and_vectors_stay():
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(4, 20, 12, generator=generator, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    found = u.mT @ orthogonal(matrices) @ v.mT
    diagonal = found.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found, torch.diag_embed(diagonal))
    assert (s.max() / s.min()) > 4
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3


def test_only_matrices_of_layers_differ_from_adamw():
    one, other = stack(), stack()
    for model, name in ((one, "muon"), (other, "adamw")):
        steps(model, build_optimizer(OptimizerConfig(lr=0.01, name=name), model))
    same = {name for name, p in one.named_parameters() if torch.equal(p, other.get_parameter(name))}
    assert {name for name, _ in one.named_parameters()} - same == {
        "layers.0.weight",
        "layers.1.weight",
        "media.image.0.weight",
    }


def test_updates_are_about_as_large_as_those_of_adamw():
    moved = {}
    for name in ("muon", "adamw"):
        model = nn.ModuleList([nn.Linear(48, 96)])
        start = model[0].weight.detach().clone()
        steps(model, build_optimizer(OptimizerConfig(lr=0.01, name=name, weight_decay=0.0), model), 1)
        moved[name] = float((model[0].weight.detach() - start).square().mean().sqrt())
    assert 0.1 < moved["muon"] / moved["adamw"] < 0.4  # RMS 0.2 against 1 at the very first step


def test_goes_on_from_a_saved_state():
    whole = stack()
    steps(whole, optimizer := build_optimizer(OptimizerConfig(lr=0.01, name="muon"), whole), 2)
    resumed = copy.deepcopy(whole)
    again = build_optimizer(OptimizerConfig(lr=0.01, name="muon"), resumed)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert isinstance(again, Muon)
    for model, one in ((whole, optimizer), (resumed, again)):
        steps(model, one)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
