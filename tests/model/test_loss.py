"""The losses on padded batches: the same values and gradients as token by token."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from unival.model.loss import BONUS_FLOOR, sequence_loss

ROWS, TOKENS, VOCABULARY = 3, 7, 11
LENGTHS = (7, 4, 1)
OPTIONS = list(itertools.product((0.0, 0.1), (False, True), (False, True), (False, True), (0.0, 0.4)))


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, targets with padding, confidences, and tokens allowed: none where nothing counts."""
    random = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(ROWS, TOKENS, VOCABULARY, generator=random, dtype=dtype)
    targets = torch.randint(0, VOCABULARY, (ROWS, TOKENS), generator=random)
    allowed = torch.rand(ROWS, TOKENS, VOCABULARY, generator=random) < 0.5
    allowed.scatter_(2, targets[..., None], True)
    for row, length in enumerate(LENGTHS):
        targets[row, length:] = -100
        allowed[row, length:] = False
    return logits.requires_grad_(), targets, torch.rand(ROWS, generator=random, dtype=dtype), allowed


def one_by_one(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    smoothing: float,
    allowed: Tensor | None,
    encouraging: bool,
    drop_worst: float,
) -> tuple[Tensor, int]:
    """The formulas of `sequence_loss`, on the tokens that count alone."""
    found = []
    for row, place in (targets != -100).nonzero().tolist():
        target, score = targets[row, place], logits[row, place]
        chosen = torch.ones(VOCABULARY, dtype=torch.bool) if allowed is None else allowed[row, place]
        logp = torch.log_softmax(score.masked_fill(~chosen, -math.inf), 0)
        logp = logp if weights is None else logp * weights[row]
        share = smoothing / max(int(chosen.sum()) - 1, 1)
        loss = -(1 - smoothing - share) * logp[target] - share * logp[chosen].sum()
        p = logp.exp()
        bonus = torch.where(
            p > 0.75, math.log(0.25) - (p - 0.75) / 0.25, (1 - p).clamp(min=BONUS_FLOOR).log()
        )
        found.append((loss, (1 - smoothing) * bonus[target] + smoothing / VOCABULARY * bonus.sum()))
    kept = sorted(found, key=lambda pair: pair[0].item())[: int(len(found) * (1 - drop_worst))]
    return sum((loss + bonus * encouraging for loss, bonus in kept), logits.new_zeros(())), len(kept)


@pytest.mark.parametrize(("smoothing", "weighted", "constrained", "encouraging", "drop_worst"), OPTIONS)
def test_padding_changes_neither_value_nor_gradient(
    smoothing: float, weighted: bool, constrained: bool, encouraging: bool, drop_worst: float
) -> None:
    logits, targets, weights_B, allowed_BTV = batch()
    weights, allowed = weights_B if weighted else None, allowed_BTV if constrained else None
    loss, count = sequence_loss(
        logits, targets, weights_B=weights, smoothing=smoothing, allowed_BTV=allowed,
        encouraging=encouraging, drop_worst=drop_worst,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(loss, logits)
    expected, kept = one_by_one(logits, targets, weights, smoothing, allowed, encouraging, drop_worst)
    assert int(count) == kept
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    assert not gradient[targets == -100].any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_dropping_the_worst_does_not_hide_a_bad_loss(bad: float) -> None:
    """More of them than are dropped: the sum is not finite, however much padding there is."""
    logits, targets, _, _ = batch()
    logits = logits.detach()
    logits[0, :5, 0] = bad
    loss, _ = sequence_loss(logits, targets, drop_worst=0.2)
    assert not loss.isfinite()


def test_half_precision_is_summed_in_float32() -> None:
    logits, targets, weights_B, _ = batch()
    half = logits.detach().bfloat16()
    loss, _ = sequence_loss(half, targets, weights_B=weights_B.float(), smoothing=0.1)
    expected, _ = sequence_loss(half.float(), targets, weights_B=weights_B.float(), smoothing=0.1)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
