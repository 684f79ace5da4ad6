"""Merging rules that look at one element at a time: pure functions on equally shaped floating tensors.

Everything is computed in the type of the arguments (float32, or float64 where the recipe says so); the caller
rounds once. theta_i are models, theta_0 the base, tau_i = theta_i - theta_0 the task vectors, N their number.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def linear(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i theta_i, written around the tensor with the largest weight: W a + sum_i w_i (theta_i - a).

    W is the sum of the weights. So equal tensors, a single tensor and a weight of one come out bit-exact when
    W = 1, and for finetunings of one base the differences are small and nearly free of rounding.
    """
    total = math.fsum(weights)
    anchor = max(range(len(weights)), key=lambda i: abs(weights[i]))
    out = tensors[anchor].clone() if abs(total - 1) < 1e-9 else tensors[anchor] * total
    difference = torch.empty_like(out)
    for i, weight in enumerate(weights):
        if i != anchor and weight != 0:
            torch.sub(tensors[i], tensors[anchor], out=difference)
            out.add_(difference, alpha=weight)
    return out


def interpolate(first: Tensor, second: Tensor, t: float) -> Tensor:
    """(1 - t) first + t second by `torch.lerp`, bit-exact at both ends (WiSE-FT, Wortsman et al. 2022)."""
    return torch.lerp(first, second, t)


def task_arithmetic(base: Tensor, models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """theta_0 + sum_i lambda_i tau_i (Ilharco et al. 2023, arXiv 2212.04089); negative lambda_i forget.

    Evaluated as (1 - sum lambda) theta_0 + sum lambda_i theta_i, so lambda = 0 gives the base and one model
    with lambda = 1 that model, bit for bit.
    """
    return linear([base, *models], [1.0 - math.fsum(weights), *weights])
