"""Token losses of the original, as sums: the caller divides by its global number of tokens.

No shape depends on the values of a tensor: to find out which tokens count the host would have to wait for
the device.

B rows, T target tokens, V vocabulary.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""Label of a place without loss."""
BONUS_FLOOR = 1e-5  # smallest 1 - p of the encouraging bonus


def sequence_loss(
    logits_BTV: Tensor,
    targets_BT: Tensor,
    *,
    ignore_id: int = IGNORED,
    weights_B: Tensor | None = None,
    smoothing: float = 0.0,
    allowed_BTV: Tensor | None = None,
    encouraging: bool = False,
    log_end: float = 0.75,
    drop_worst: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Label-smoothed cross-entropy, optionally with the "encouraging" bonus (reference: UnIVAL, sec. 4; OFA).

    Per token: (1 - eps - e) * -log p(target) + e * sum_v -log p(v), with e = eps / (V - 1), or over the
    allowed tokens only. The bonus adds log(1 - p), which keeps a gradient on confident tokens.

    Args:
        logits_BTV: unnormalised scores.
        targets_BT: target ids; positions equal to `ignore_id` do not count.
        ignore_id: the padding id of the targets.
        weights_B: confidence of each row; multiplies its log-probabilities.
        smoothing: eps.
        allowed_BTV: bool, the tokens a constraint leaves (the target among them); softmax and smoothing live
            on these. (V,) or (B, 1, V) broadcast.
        encouraging: add the bonus.
        log_end: probability above which the bonus continues as its tangent; 1 switches the tangent off.
        drop_worst: share of the tokens with the largest loss to leave out (before the bonus).

    Returns:
        The summed loss and the number of tokens in it, both scalars.
    """
    plain = weights_B is None and allowed_BTV is None and not encouraging and drop_worst == 0.0
    if plain:
        return _plain_loss(logits_BTV, targets_BT, ignore_id, smoothing)
    counted_BT = targets_BT != ignore_id
    targets_BT = targets_BT.masked_fill(~counted_BT, 0)
    logits_BTV = at_least_float(logits_BTV)
    if allowed_BTV is not None:
        # any token where nothing counts: a softmax over none would give NaN, to the gradients too
        allowed_BTV = allowed_BTV | ~counted_BT[..., None]
        logits_BTV = logits_BTV.masked_fill(~allowed_BTV, -math.inf)
    logp_BTV = F.log_softmax(logits_BTV, dim=-1)
    if weights_B is not None:
        logp_BTV = logp_BTV * weights_B[:, None, None]
    loss_BT = _smoothed(logp_BTV, targets_BT, smoothing, allowed_BTV)
    kept_BT = _smallest(loss_BT.detach(), counted_BT, 1.0 - drop_worst) if drop_worst else counted_BT
    if encouraging:
        loss_BT = loss_BT + _bonus(logp_BTV, targets_BT, smoothing, log_end)
    return loss_BT.masked_fill(~kept_BT, 0.0).sum(), kept_BT.sum()


def _plain_loss(
    logits_BTV: Tensor, targets_BT: Tensor, ignore_id: int, smoothing: float
) -> tuple[Tensor, Tensor]:
    """The same by torch's fused kernel, whose smoothing spreads over all V tokens, not the V - 1 others."""
    vocabulary = logits_BTV.shape[-1]
    loss = F.cross_entropy(
        at_least_float(logits_BTV.flatten(0, 1)),
        targets_BT.flatten(),
        ignore_index=ignore_id,
        reduction="sum",
        label_smoothing=smoothing * vocabulary / (vocabulary - 1),
    )
    return loss, (targets_BT != ignore_id).sum()


def at_least_float(logits: Tensor) -> Tensor:
    """Half precisions to float32; the others as they are."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _smoothed(logp_BTV: Tensor, targets_BT: Tensor, smoothing: float, allowed_BTV: Tensor | None) -> Tensor:
    nll_BT = -logp_BTV.gather(-1, targets_BT[..., None])[..., 0]
    if smoothing == 0.0:
        return nll_BT
    if allowed_BTV is None:
        share: Tensor | float = smoothing / (logp_BTV.shape[-1] - 1)
        smooth_BT = -logp_BTV.sum(-1)
    else:
        share = smoothing / (allowed_BTV.sum(-1) - 1).clamp(min=1)
        smooth_BT = -logp_BTV.masked_fill(~allowed_BTV, 0.0).sum(-1)
    return (1.0 - smoothing - share) * nll_BT + share * smooth_BT


def _smallest(loss_BT: Tensor, counted_BT: Tensor, share: float) -> Tensor:
    """Bool (B, T): the places with the smallest loss, so many of those that count, rounded down.

    NaN sorts as the largest, behind no padding: a loss with more of it than is dropped stays NaN.
    """
    order = loss_BT.flatten().argsort(stable=True)
    counted = counted_BT.flatten()[order]
    limit = (counted.sum().double() * share).floor()  # in double, as the host works it out
    kept = counted & (counted.cumsum(0) <= limit)
    return torch.empty_like(kept).scatter_(0, order, kept).view_as(counted_BT)


def _bonus(logp_BTV: Tensor, targets_BT: Tensor, smoothing: float, log_end: float) -> Tensor:
    p_BTV = logp_BTV.exp()
    bonus_BTV = (1.0 - p_BTV).clamp(min=BONUS_FLOOR).log()
    if log_end != 1.0:
        tangent_BTV = math.log(1.0 - log_end) - (p_BTV - log_end) / (1.0 - log_end)
        bonus_BTV = torch.where(p_BTV > log_end, tangent_BTV, bonus_BTV)
    bonus_BT = (1.0 - smoothing) * bonus_BTV.gather(-1, targets_BT[..., None])[..., 0]
    return bonus_BT + smoothing / logp_BTV.shape[-1] * bonus_BTV.sum(-1) if smoothing else bonus_BT
