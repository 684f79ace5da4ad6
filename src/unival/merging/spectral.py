"""Merging rules for matrices: singular values (Iso-C, TSV-M) and least squares (RegMean, WUDI).

Weights are (out, in) as in `torch.nn.Linear`; tau_i are task vectors, G_i Gram matrices (in, in).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SINGULAR_CUT = 1e-6
"""Singular values below this share of the largest are noise of the decomposition."""


def iso_c(deltas: Sequence[Tensor]) -> Tensor:
    """U mean(s) V^T of sum tau_i: all singular values equal (Iso-C, Marczak et al. 2025, arXiv 2502.04959).

    Directions whose singular value is zero stay out.
    """
    total = sum(deltas[1:], deltas[0])
    u, s, vh = torch.linalg.svd(total, full_matrices=False)
    kept = s > SINGULAR_CUT * s[0]
    if not kept.any():
        return torch.zeros_like(total)
    return (u[:, kept] * s[kept].mean()) @ vh[kept]


def tsv_m(deltas: Sequence[Tensor]) -> Tensor:
    """TSV-Merge (Gargiulo et al. 2025, arXiv 2412.00081): the top 1/N of each task's singular triplets, side
    by side, with the joint left and right vectors made orthogonal (Procrustes), multiplied again.

    Triplets of vanishing singular values are left out before: their directions are arbitrary and would bend
    the others.
    """
    lefts, values, rights = [], [], []
    for delta in deltas:
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
        rank = max(len(s) // len(deltas), 1)
        kept = (s > SINGULAR_CUT * s[0]) & (torch.arange(len(s), device=s.device) < rank)
        lefts.append(u[:, kept])
        values.append(s[kept])
        rights.append(vh[kept])
    s = torch.cat(values)
    if len(s) == 0:
        return torch.zeros_like(deltas[0])
    return (_orthogonal(torch.cat(lefts, 1)) * s) @ _orthogonal(torch.cat(rights))


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (or rows)."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    kept = s > SINGULAR_CUT * s[0]
    return u[:, kept] @ vh[kept]


def gram_solve(
    weights: Sequence[Tensor], grams: Sequence[Tensor], anchor: Tensor, ridge: float
) -> tuple[Tensor, float]:
    """argmin_W sum_i tr((W - W_i) G_i (W - W_i)^T) + rho |W - anchor|^2, by Cholesky in float64.

    rho = ridge * the mean of the diagonal of sum_i G_i: relative, so a common factor of the G_i changes
    nothing, and towards `anchor`, so directions without data keep its values instead of blowing up.

    Returns:
        W (out, in), and a lower bound of the condition number of the solved system, from its Cholesky pivots.
    """
    total = sum(grams[1:], grams[0]).double()
    size = len(total)
    scale = float(total.diagonal().mean())
    if scale == 0:
        return anchor.clone(), 1.0
    rho = ridge * scale
    system = total + rho * torch.eye(size, dtype=total.dtype, device=total.device)
    # Differences to the anchor keep what all models agree on exact.
    right = sum(
        ((w - anchor).double() @ g.double() for w, g in zip(weights, grams, strict=True)), total.new_zeros(())
    )
    factor, failed = torch.linalg.cholesky_ex(system)
    while failed:
        rho = max(rho * 10, 1e-12 * scale)
        system = total + rho * torch.eye(size, dtype=total.dtype, device=total.device)
        factor, failed = torch.linalg.cholesky_ex(system)
    solved = torch.cholesky_solve(right.mT, factor).mT
    pivots = factor.diagonal()
    return (anchor.double() + solved).to(anchor.dtype), float((pivots.max() / pivots.min()) ** 2)


def shrink_off_diagonal(gram: Tensor, alpha: float) -> Tensor:
    """Off-diagonal elements times alpha (RegMean, Jin et al. 2023, arXiv 2212.09849: 0.9)."""
    return gram * alpha + torch.diag(gram.diagonal() * (1 - alpha))


def wudi_gram(delta: Tensor) -> Tensor:
    """tau^T tau / |tau|^2: with it `gram_solve` minimises WUDI's sum_i |(tau - tau_i) tau_i^T|^2 / |tau_i|^2
    (Cheng et al. 2025, arXiv 2503.08099) in closed form."""
    norm = float(delta.double().square().sum())
    return delta.mT @ delta / norm if norm > 0 else torch.zeros_like(delta.mT @ delta)
