"""Compiled steps: what takes the time of an update, each part on its own.

Compiled are the encoders of media, the layers of the transformer and the loss, each as one graph without a
break. What lies between them stays as it is: how media are laid out on rows differs from batch to batch. A
part is compiled once, for tensors of any size but 1, for which PyTorch compiles anew: the collator sees to it
that no group has one row or one token (`multiple`).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as shapes

from unival.engine.objective import LossModule, TokenLoss
from unival.errors import UserError
from unival.model.configuration import UnivalConfig
from unival.model.decoder import DecoderLayer
from unival.model.encoder import EncoderLayer, MediaEmbedding

MULTIPLE = 8
"""Tokens. Matrices of such sizes go to the tensor cores of a GPU as they are."""


def padded_to(config: UnivalConfig) -> int:
    """Texts are padded to a multiple of this, which never goes beyond the model's longest."""
    return math.gcd(MULTIPLE, config.max_source_positions, config.max_target_positions)


def compile_parts(module: LossModule) -> None:
    """Have the parts of the model with its loss compiled when they are first used.

    Raises:
        UserError: this machine has no compiler.
    """
    _require_compiler()
    # else sizes that happen to be equal when a part is compiled would have to stay so
    shapes.use_duck_shape = False
    module.register_forward_pre_hook(_their_number_varies)
    for part in module.modules():
        if isinstance(part, MediaEmbedding):
            part.compile(fullgraph=True, isolate_recompiles=True)
        elif isinstance(part, EncoderLayer | DecoderLayer | TokenLoss):
            part.compile(backend=_inductor, fullgraph=True, dynamic=True, isolate_recompiles=True)


def _inductor(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """PyTorch's compiler. By itself it chooses how to sum from the first sizes, on a CPU, and compiles again
    for others; here the code must fit all."""
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    def generate(*arguments: Any, **options: Any) -> Any:
        with shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            return compile_fx_inner(*arguments, **options)

    return compile_fx(graph, inputs, inner_compile=generate)  # type: ignore[return-value]


def _their_number_varies(_: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Media of a kind are of one size, and only how many there are differs from batch to batch. PyTorch would
    find images, videos and sounds of different sizes, since one module's code takes them all."""
    for values in inputs[0].media.values():
        torch._dynamo.maybe_mark_dynamic(values, 0)
        torch._dynamo.mark_static(values, list(range(1, values.dim())))


def eager() -> AbstractContextManager[Any]:
    """Inside, nothing is compiled: generation would want many graphs."""
    return torch.compiler.set_stance("force_eager")


def _require_compiler() -> None:
    from torch._inductor import cpp_builder, exc
    from torch.utils._triton import has_triton

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        raise UserError("train.compile: no C++ compiler: install g++, or leave compile at false") from None
    if torch.cuda.is_available() and not has_triton():
        raise UserError("train.compile: no triton for the GPU: install triton, or leave compile at false")
