"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/; the scale of Liu et al. 2025, arXiv:2502.16982, eq. 4).

Written here because `torch.optim.Muon` computes in bfloat16, which CPUs without such units emulate: for the
tiny model its update took longer than the forward and backward pass together.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = ((7.711, -22.1138, 16.2487), (3.2153, -2.4112, 0.5013), (2.2183, -1.594, 0.4107))
"""Of the quintic iteration, a line a step. Of all polynomials made of three such steps this one comes nearest
to 1, to within 0.1, on singular values from 0.02 of the norm on; smaller ones grow up to 55 times.
Found as in "Polar Express" (Amsel et al. 2025, arXiv:2505.16932)."""
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
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        directions = self._directions(weights, group["momentum"])
        by_shape: dict[torch.Size, list[int]] = {}
        for number, direction in enumerate(directions):
            by_shape.setdefault(direction.flatten(1).shape, []).append(number)
        for shape, numbers in by_shape.items():
            stack_KRC = orthogonal(torch.stack([directions[number].flatten(1) for number in numbers]))
            stack_KRC *= RMS * max(shape) ** 0.5
            for number, direction_RC in zip(numbers, stack_KRC, strict=True):
                directions[number] = direction_RC.reshape(weights[number].shape)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, directions, alpha=-group["lr"])

    def _directions(self, weights: list[Tensor], momentum: float) -> list[Tensor]:
        for weight in weights:
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
                state["step"] = torch.zeros(())  # AdamW looks for it when a state is loaded
        gradients: list[Tensor] = [weight.grad for weight in weights]  # type: ignore[misc]
        momenta = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, momenta, momentum))


def orthogonal(matrices_KRC: Tensor) -> Tensor:
    """Matrices (K, R, C) with the same singular vectors and singular values near 1, by Newton and Schulz."""
    if matrices_KRC.shape[1] > matrices_KRC.shape[2]:
        return orthogonal(matrices_KRC.mT).mT
    x = matrices_KRC / (torch.linalg.matrix_norm(matrices_KRC, keepdim=True) + 1e-7)
    for a, b, c in COEFFICIENTS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
