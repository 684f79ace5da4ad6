"""Linear maps, on CPUs with AVX-512 by oneDNN.

PyTorch computes products in float32 by MKL, which has no AVX-512 for processors of other makers than its own:
oneDNN, which PyTorch has for convolutions, takes half the time there (benchmarks/results/model-cpu.md).

N rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LARGE = 2**18
"""Weights of a matrix from which on it is worth it: oneDNN compiles a kernel for each new number of rows."""
FEW = 8
"""Rows below which the product only waits for the weights."""
LONG = 2**24
"""Multiplications from which on it is worth it with a smaller matrix, where no gradient is recorded; with
gradients it is not (benchmarks/results/study-cpu.md)."""
ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


class Linear(nn.Linear):
    """As PyTorch's, by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return linear(input, self.weight, self.bias)


def linear(states: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: (..., I) -> (..., O)."""
    if (
        not ONEDNN
        or torch.compiler.is_compiling()  # first: nothing below may become a condition of a graph
        or not states.dtype == weight_OI.dtype == torch.float32
        or not states.device.type == weight_OI.device.type == "cpu"
        or torch.is_autocast_enabled("cpu")
        or not _worth_it(states, weight_OI)
    ):
        return F.linear(states, weight_OI, bias_O)
    return _Linear.apply(states, weight_OI, bias_O)  # type: ignore[no-any-return]


def _worth_it(states: Tensor, weight_OI: Tensor) -> bool:
    rows = states.numel() // max(states.shape[-1], 1)
    if weight_OI.numel() >= LARGE:
        return rows >= FEW
    return rows * weight_OI.numel() >= LONG and not torch.is_grad_enabled()


def _product(states: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, weight_OI, bias_O, "none", [], "")  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(states, weight_OI)
        return _product(states, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, weight_OI = ctx.saved_tensors
        of_states, of_weight, of_bias = ctx.needs_input_grad
        grad_NO, states_NI = grad.flatten(0, -2), states.flatten(0, -2)
        return (
            _product(grad, weight_OI.t()) if of_states else None,
            _product(grad_NO.t(), states_NI.t()) if of_weight else None,
            grad_NO.sum(0) if of_bias else None,
        )
