"""Checkpoints in shards, taken up by another number of ranks: to the bit, whatever the ranks divide."""

from functools import partial

import pytest
import torch
from torch import nn

from unival.engine import sharding
from unival.engine.machine import launch
from unival.engine.machine.distributed import world
from unival.engine.optim import Ema

pytestmark = [pytest.mark.distributed, pytest.mark.resume]


def parts(seed):
    """Model, optimiser and average on this rank; of 5 and 3 rows some of 8 ranks have none."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3), nn.Linear(3, 17))
    sharding.shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1), Ema(model, 0.9)


def step(model, optimizer, ema):
    """An update on the same rows on all ranks."""
    model(torch.linspace(-1, 1, 24).reshape(6, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    ema.update()


def whole(model, optimizer, average):
    """All tensors, on rank 0."""
    tensors = {f"weights {name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average {name}": tensor for name, tensor in average.items()}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state[parameter].items():
            tensors[f"{kind} {name}"] = value
    return {
        name: sharding.gather(tensor)
        if isinstance(tensor, sharding.DTensor)
        else sharding.local(tensor).clone()
        for name, tensor in tensors.items()
    }


def save(folder):
    """Three updates, then a checkpoint."""
    with world(torch.device("cpu")) as ranks:
        model, optimizer, ema = parts(1)
        for _ in range(3):
            step(model, optimizer, ema)
        state, meta = {"ema": ema.average}, {"average": True}
        sharding.ShardedCheckpoints(folder / "checkpoints", 2, optimizer).save(3, model, state, meta)
        tensors = whole(model, optimizer, ema.average)
        if ranks.is_main:
            torch.save(tensors, folder / "saved.pt")


def load(folder):
    """Into a run with other weights."""
    with world(torch.device("cpu")) as ranks:
        model, optimizer, _ = parts(2)
        checkpoints = sharding.ShardedCheckpoints(folder / "checkpoints", 2, optimizer)
        path, meta = checkpoints.latest()
        average = checkpoints.restore(path, meta, model)["ema"]
        tensors = whole(model, optimizer, average)
        if ranks.is_main:
            torch.save(tensors, folder / "loaded.pt")


@pytest.mark.parametrize(("before", "after"), [(8, 2), (2, 3)])
def test_another_number_of_ranks_takes_them_up_to_the_bit(tmp_path, before, after):
    assert launch.fork(before, partial(save, tmp_path)) == 0
    assert launch.fork(after, partial(load, tmp_path)) == 0
    saved, loaded = (torch.load(tmp_path / f"{name}.pt") for name in ("saved", "loaded"))
    assert saved.keys() == loaded.keys() and {"exp_avg_sq 2.weight", "average 1.running_var"} <= saved.keys()
    for name, tensor in saved.items():
        assert torch.equal(tensor, loaded[name]), name
    assert saved["weights 2.weight"].shape == (3, 5) and saved["step 2.weight"] == 3
