"""Merging rules that look at one element at a time: pure functions on equally shaped floating tensors.

Everything is computed in the type of the arguments (float32, or float64 where the recipe says so); the caller
rounds once. theta_i are models, theta_0 the base, tau_i = theta_i - theta_0 the task vectors, N their number.
No function writes to its arguments.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import hardshrink


def linear(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i theta_i, written around the tensor with the largest weight: W a + sum_i w_i (theta_i - a).

    W is the sum of the weights. So equal tensors, a single tensor and a weight of one come out bit-exact when
    W = 1, and for finetunings of one base the differences are small and nearly free of rounding. Equal
    weights are applied by one division, so a mean that is a number of the type is that number.
    """
    used = [i for i, weight in enumerate(weights) if weight != 0] or [0]
    anchor = max(used, key=lambda i: abs(weights[i]))
    total = math.fsum(weights)
    affine = abs(total - 1) < 1e-9
    others = [i for i in used if i != anchor]
    if affine and others and len({weights[i] for i in used}) == 1:
        out = _changes(tensors, anchor, others, [1.0] * len(others))
        return out.div_(len(used)).add_(tensors[anchor])
    start = tensors[anchor] if affine else tensors[anchor] * total
    if not others:
        return start.clone()
    return _changes(tensors, anchor, others, [weights[i] for i in others]).add_(start)


def _changes(
    tensors: Sequence[Tensor], anchor: int, others: Sequence[int], weights: Sequence[float]
) -> Tensor:
    """sum_i w_i (theta_i - a)."""
    out = tensors[others[0]] - tensors[anchor]
    if weights[0] != 1:
        out.mul_(weights[0])
    change = torch.empty_like(out)
    for i, weight in zip(others[1:], weights[1:], strict=True):
        torch.sub(tensors[i], tensors[anchor], out=change)
        out.add_(change, alpha=weight)
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


def trim(delta: Tensor, threshold: float, limit: float = math.inf) -> Tensor:
    """Zero where |delta| < threshold, and where |delta| > limit."""
    low = torch.nextafter(torch.tensor(threshold, dtype=delta.dtype), torch.tensor(-1.0, dtype=delta.dtype))
    kept = hardshrink(delta, float(low))
    return kept if limit == math.inf else kept.sub_(hardshrink(delta, limit))


def elect(deltas: Sequence[Tensor], weights: Sequence[float], mean: bool = True) -> Tensor:
    """The election of TIES (Yadav et al. 2023, arXiv 2306.01708): the sign with the larger mass wins.

    The sign is that of the plain sum, so weights do not vote; the result is the weighted mean (or sum) of the
    non-zero entries that have it. Where the masses are exactly equal there is no winner and the result is 0
    (the paper takes the sign that the whole model has most).

    Arithmetic instead of masks: filling by a mask takes torch twenty times as long as an addition.
    """
    sign = deltas[0].clone()
    for delta in deltas[1:]:
        sign.add_(delta)
    sign.sign_()
    total, share = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, weight in zip(deltas, weights, strict=True):
        agreeing = (delta * sign).relu_()
        total.add_(agreeing, alpha=weight)
        if mean:
            share.add_(agreeing.sign_(), alpha=weight)
    total.mul_(sign)
    if mean:
        total.div_(share.add_(share.abs().sign_().neg_().add_(1)))  # where nobody agrees 0 / 1, not 0 / 0
    return total


def drop_and_rescale(delta: Tensor, mask: Tensor, density: float) -> Tensor:
    """DARE (Yu et al. 2024, arXiv 2311.03099): mask * delta / density; its expectation is delta.

    `mask` holds zeros and ones.
    """
    return delta.mul(mask).div_(density)


def fisher(models: Sequence[Tensor], fishers: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i F_i theta_i / sum_i w_i F_i (Matena & Raffel 2022, arXiv 2111.09832), F_i >= 0.

    F is divided by its largest value over the models, element by element: no additive floor, so a common
    factor changes nothing and tiny values do not underflow. Where all F_i are 0: the weighted mean.
    """
    largest = fishers[0].clone()
    for other in fishers[1:]:
        torch.maximum(largest, other, out=largest)
    none = largest == 0
    largest.masked_fill_(none, 1)
    shares = [torch.where(none, 1.0, f / largest) * w for f, w in zip(fishers, weights, strict=True)]
    total = sum(shares[1:], shares[0])
    out = models[0].clone()
    for model, share in zip(models[1:], shares[1:], strict=True):
        out.addcmul_(model - models[0], share / total)
    # A model that holds all the mass is returned exactly, which the difference form above cannot promise.
    for model, share in zip(models, shares, strict=True):
        out = torch.where(share == total, model, out)
    return out


def tall_mask(delta: Tensor, merged: Tensor, threshold: float) -> Tensor:
    """TALL mask (Wang et al. 2024, arXiv 2405.07813): |tau_t| > threshold |tau_merged - tau_t|."""
    return delta.abs() > threshold * (merged - delta).abs()


def consensus(deltas: Sequence[Tensor], threshold: float, agreeing: int) -> Tensor:
    """The sum of the task vectors where at least `agreeing` TALL masks are set, else 0 (same paper)."""
    merged = deltas[0].clone()
    for delta in deltas[1:]:
        merged.add_(delta)
    votes = torch.zeros_like(merged)
    for delta in deltas:
        votes.add_(tall_mask(delta, merged, threshold))
    return merged.masked_fill_(votes < agreeing, 0)
