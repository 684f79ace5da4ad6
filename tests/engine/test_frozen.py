"""Frozen weights that move are noticed, whatever moves them."""

import copy

import pytest
import torch
from torch import nn

from unival.engine.batches.mixture import Mixture, MixtureConfig, StreamConfig
from unival.engine.frozen import Frozen
from unival.engine.optim import freeze


def model():
    """A frozen part with batch norm, and one that is trained."""
    parts = {"body": nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "head": nn.Linear(3, 2)}
    return nn.ModuleDict(parts)


def test_training_the_rest_moves_nothing_frozen():
    net = model()
    frozen = Frozen(net, freeze(net, ["body"], False))
    with torch.no_grad():
        net["head"].weight += 1
    assert frozen.moved(net) == []


@pytest.mark.parametrize("name", ["body.0.weight", "body.1.bias", "body.1.running_mean"])
def test_what_moves_is_named(name):
    """In the model, or in a copy that is filled with its weights, as of a model in shards."""
    net = model()
    copied = copy.deepcopy(net)
    frozen = Frozen(net, freeze(net, ["body"], False))
    with torch.no_grad():
        net.state_dict()[name][0] += 1e-6
    assert frozen.moved(net) == [name] and frozen.moved(copied) == []
    copied.load_state_dict(net.state_dict())
    assert frozen.moved(copied) == [name]


def test_a_stream_shorter_than_its_quota_is_named():
    streams = [StreamConfig("vqa", 32), StreamConfig("caption", 4), StreamConfig("matching", every=2)]
    mixture = Mixture(MixtureConfig(36, streams), {"vqa": 1, "caption": 4, "matching": 1})
    (line,) = mixture.repeated()
    assert line.startswith("stream 'vqa' has 1 rows and a quota of 32 a step")
