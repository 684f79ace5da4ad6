"""Schedules against values worked out by hand, rate factors, the moving average."""

import math

import pytest
import torch
from torch import nn

from unival import config
from unival.engine.optim import Ema, build_optimizer, freeze, learning_rate, set_rate
from unival.engine.settings import OptimizerConfig
from unival.errors import UserError

from . import standins


def rates(steps=100, **values):
    chosen = OptimizerConfig(lr=2.0, **{"warmup": 0.1, **values})
    return [learning_rate(chosen, step, steps) for step in range(steps)]


def test_linear_decay_as_fairseq_counts():
    found = rates()
    # the first two updates use 1 / warm-up; the peak is the update after the warm-up; the last is above 0
    assert found[:3] == pytest.approx([0.2, 0.2, 0.4])
    assert found[10] == 2.0 and found[55] == pytest.approx(1.0) and found[99] == pytest.approx(2.0 / 90)


def test_other_schedules():
    assert rates(schedule="constant")[50] == 2.0
    assert rates(schedule="cosine")[55] == pytest.approx(1.0)
    assert rates(schedule="cosine")[10 + 30] == pytest.approx(1 + math.cos(math.pi / 3))
    assert rates(power=2.0)[55] == pytest.approx(0.5)
    assert rates(warmup=0.0)[0] == 2.0


def test_horizon_beyond_the_end():
    # docs/reference.md 2.2, stage 1: stopped at 150k of 500k steps, where the rate is still 1.41e-4 of 2e-4
    stage1 = OptimizerConfig(lr=2e-4, warmup=0.01, horizon=500_000)
    assert learning_rate(stage1, 150_000, 150_000) == pytest.approx(1.41e-4, rel=4e-3)


def test_rate_factors_and_frozen_parameters():
    model = standins.model()
    held = freeze(model, ["image_encoder"], batch_norm=False)
    chosen = OptimizerConfig(lr=1.0, lr_scale={"*_encoder*": 0.1, "hidden.*": 3.0})
    optimizer = build_optimizer(chosen, model)
    set_rate(optimizer, 0.5)
    by_rate = {group["lr"]: len(group["params"]) for group in optimizer.param_groups}
    assert by_rate == {0.05: 4, 1.5: 2, 0.5: 1}
    assert held == [model.image_encoder[1]]


def test_a_rate_factor_that_nothing_has():
    with pytest.raises(UserError, match="lr_scale: pattern 'encoders' matches no parameter"):
        build_optimizer(OptimizerConfig(lr=1.0, lr_scale={"encoders": 0.1}), nn.Linear(2, 2))


def test_moving_average_swaps_and_comes_back():
    model = standins.model()
    average = Ema(model, 0.5)
    before = model.hidden.weight.detach().clone()
    with torch.no_grad():
        model.hidden.weight += 1.0
    average.update()
    average.swap()
    torch.testing.assert_close(model.hidden.weight, before + 0.5)
    average.swap()
    torch.testing.assert_close(model.hidden.weight, before + 1.0)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": 1.0, "warmup": 2.0}, "warmup is 2.0"),
        ({"lr": 1.0, "betas": [0.9]}, "betas has 1"),
        ({"lr": 1.0, "schedule": "cosin"}, "did you mean 'cosine'"),
        ({"lr": 1.0, "weight_decai": 0.1}, "did you mean 'weight_decay'"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(UserError, match=message):
        config.build(OptimizerConfig, values, "phase.yaml: optimizer")


@pytest.mark.fault
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_16_bits_are_not_trained(dtype):
    model = standins.model()
    model.hidden.to(dtype)
    with pytest.raises(UserError, match=rf"'hidden.weight' is {dtype}: load the model in float32"):
        build_optimizer(OptimizerConfig(lr=1e-4), model)
    model.hidden.requires_grad_(False)
    build_optimizer(OptimizerConfig(lr=1e-4), model)  # frozen parts may be
