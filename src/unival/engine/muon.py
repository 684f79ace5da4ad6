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
    """Muon for the parameters of groups with `muon: True`; AdamW for the rest.

    A kernel of a convolution is the matrix from its input window to its outputs.

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
                for weight in group["params"]:
                    weight.grad = None  # AdamW skips what has no gradient
        return super().step(closure)

    def _update(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for weight in group["params"]:
            if weight.grad is not None:
                by_shape.setdefault(tuple(weight.flatten(1).shape), []).append(weight)
        for shape, weights in by_shape.items():
            directions_KRC = orthogonal(torch.stack([self._direction(w, group) for w in weights]))
            scale = RMS * max(shape) ** 0.5
            for weight, direction_RC in zip(weights, directions_KRC, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction_RC.reshape(weight.shape), alpha=-group["lr"] * scale)

    def _direction(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
            state["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
        state["momentum"].lerp_(weight.grad, 1 - group["momentum"])  # type: ignore[arg-type]
        return weight.grad.lerp(state["momentum"], group["momentum"]).flatten(1)  # type: ignore[union-attr]


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
