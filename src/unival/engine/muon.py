"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/; the scale of Liu et al. 2025, arXiv:2502.16982, eq. 4).

Written here because `torch.optim.Muon` computes in bfloat16, which CPUs without such units emulate: for the
tiny model its update took longer than the forward and backward pass together.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: they bring singular values near 1 quickly, not to 1."""
ITERATIONS = 5
RMS = 0.2
"""Root mean square of an update, about AdamW's: one learning rate then serves both."""


class Muon(torch.optim.AdamW):
    """Muon for the parameters of groups with `muon: True`, which are matrices; AdamW for the rest.

    All groups share learning rate and weight decay. `momentum` is Nesterov's.
    """

    def __init__(self, params: Any, momentum: float = 0.95, **adamw: Any) -> None:
        super().__init__(params, **adamw)
        for group in self.param_groups:
            group.setdefault("muon", False)
            group.setdefault("momentum", momentum)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update."""
        for group in self.param_groups:
            if group["muon"]:
                self._update(group)
                for matrix in group["params"]:
                    matrix.grad = None  # AdamW skips what has no gradient
        return super().step(closure)

    def _update(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for matrix in group["params"]:
            if matrix.grad is not None:
                by_shape.setdefault(tuple(matrix.shape), []).append(matrix)
        for shape, matrices in by_shape.items():
            directions_KRC = orthogonal(torch.stack([self._direction(m, group) for m in matrices]))
            scale = RMS * max(shape) ** 0.5
            for matrix, direction_RC in zip(matrices, directions_KRC, strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(direction_RC, alpha=-group["lr"] * scale)

    def _direction(self, matrix: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
            state["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
        state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])  # type: ignore[arg-type]
        return matrix.grad.lerp(state["momentum"], group["momentum"])  # type: ignore[union-attr]


def orthogonal(matrices_KRC: Tensor) -> Tensor:
    """Matrices (K, R, C) with the same singular vectors and singular values near 1, by Newton and Schulz."""
    if matrices_KRC.shape[1] > matrices_KRC.shape[2]:
        return orthogonal(matrices_KRC.mT).mT
    a, b, c = COEFFICIENTS
    x = matrices_KRC / (torch.linalg.matrix_norm(matrices_KRC, keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
