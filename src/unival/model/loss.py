"""Token losses of the original, as sums: the caller divides by its global number of tokens.

B rows, T target tokens, V vocabulary, N tokens that count.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

BONUS_FLOOR = 1e-5  # smallest 1 - p of the encouraging bonus


def sequence_loss(
    logits_BTV: Tensor,
    targets_BT: Tensor,
    *,
    ignore_id: int = -100,
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
    logits_NV, targets_N = at_least_float(logits_BTV[counted_BT]), targets_BT[counted_BT]
    allowed_NV = None
    if allowed_BTV is not None:
        allowed_NV = allowed_BTV.expand(logits_BTV.shape)[counted_BT]
        logits_NV = logits_NV.masked_fill(~allowed_NV, -math.inf)
    logp_NV = F.log_softmax(logits_NV, dim=-1)
    if weights_B is not None:
        weights_N = weights_B[:, None].expand(targets_BT.shape)[counted_BT]
        logp_NV = logp_NV * weights_N[:, None]
    loss_N = _smoothed(logp_NV, targets_N, smoothing, allowed_NV)
    if drop_worst > 0.0:
        kept = int(len(loss_N) * (1.0 - drop_worst))
        loss_N, index = torch.topk(loss_N, kept, largest=False)
        logp_NV, targets_N = logp_NV[index], targets_N[index]
    loss = loss_N.sum()
    if encouraging:
        loss = loss + _bonus(logp_NV, targets_N, smoothing, log_end)
    return loss, torch.tensor(len(loss_N), device=loss.device)


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


def _smoothed(logp_NV: Tensor, targets_N: Tensor, smoothing: float, allowed_NV: Tensor | None) -> Tensor:
    nll_N = -logp_NV.gather(1, targets_N[:, None])[:, 0]
    if smoothing == 0.0:
        return nll_N
    if allowed_NV is None:
        share: Tensor | float = smoothing / (logp_NV.shape[1] - 1)
        smooth_N = -logp_NV.sum(1)
    else:
        share = smoothing / (allowed_NV.sum(1) - 1).clamp(min=1)
        smooth_N = -logp_NV.masked_fill(~allowed_NV, 0.0).sum(1)
    return (1.0 - smoothing - share) * nll_N + share * smooth_N


def _bonus(logp_NV: Tensor, targets_N: Tensor, smoothing: float, log_end: float) -> Tensor:
    p_NV = logp_NV.exp()
    bonus_NV = (1.0 - p_NV).clamp(min=BONUS_FLOOR).log()
    if log_end != 1.0:
        tangent_NV = math.log(1.0 - log_end) - (p_NV - log_end) / (1.0 - log_end)
        bonus_NV = torch.where(p_NV > log_end, tangent_NV, bonus_NV)
    target_N = bonus_NV.gather(1, targets_N[:, None])[:, 0]
    bonus = (1.0 - smoothing) * target_N.sum()
    return bonus + smoothing / logp_NV.shape[1] * bonus_NV.sum() if smoothing else bonus
