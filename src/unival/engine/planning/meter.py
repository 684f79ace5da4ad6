"""Counts what PyTorch's operators do inside a `with`: FLOPs by part of the model, memory by kind, bytes sent.

It sees fake tensors and real ones alike. A tensor's memory counts as long as PyTorch keeps it: the model's
weights, then what `label` says of it, else activations (all that a step computes and drops again).
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from unival.model.positions import encoder_relative_index, text_relative_index

ACTIVATIONS = "activations"
OPENING = "head"
"""Where a backward pass begins."""
FUSED = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)  # type: ignore[no-any-return, no-untyped-call]


def _attention_backward(_: Tensor, *inputs: Any, **__: Any) -> int:
    """Two products for each of the forward pass; what a fused kernel computes again does not count."""
    return 2 * _attention(*inputs)


def _linear(states: Tensor, weight_OI: Tensor, *_: Any, **__: Any) -> int:
    return 2 * states.numel() * weight_OI.shape[0]


FORMULAS: dict[str, Callable[..., int]] = {
    "mkldnn::_linear_pointwise": _linear,
    **{f"aten::_scaled_dot_product_{kernel}": _attention for kernel in FUSED},
    **{f"aten::_scaled_dot_product_{kernel}_backward": _attention_backward for kernel in FUSED},
}
"""Of operators that PyTorch's table lacks, or counts by what a kernel does instead of what is asked of it."""


def _again() -> bool:
    """Whether a backward pass computes what checkpointing has dropped: only then gradients are recorded."""
    return torch.is_grad_enabled() and torch._C._current_graph_task_id() != -1  # type: ignore[attr-defined]


@contextmanager
def without_values(mode: FakeTensorMode) -> Iterator[None]:
    """Operators give shapes alone; tables that the model worked out meanwhile are forgotten at the end."""
    try:
        with mode:
            yield
    finally:
        for table in (encoder_relative_index, text_relative_index):
            table.cache_clear()


class Meter(TorchDispatchMode):
    """FLOPs (a multiplication and an addition are two), live and peak bytes, bytes of collectives."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        """Of each part, forward and backward."""
        self.recomputed = 0
        """FLOPs of what checkpointing has dropped and computes again, which are not among the others."""
        self.live: Counter[str] = Counter()
        """Bytes of each kind now."""
        self.peak: Counter[str] = Counter()
        """The same when their sum was largest."""
        self.sent: Counter[str] = Counter()
        """Bytes that one rank gives into collectives or gets out of them, the larger; by operator."""
        self.part = OPENING
        self._kinds: dict[int, list[Any]] = {}  # of each live storage: kind, bytes
        self._resize = torch.UntypedStorage.resize_

    def __enter__(self) -> "Meter":
        """Begin; FSDP frees and makes room by resizing storages, which no operator does."""
        meter, resize = self, self._resize

        def resized(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
            resize(storage, size)
            meter._enter(storage)
            return storage

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign, assignment]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """End."""
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)

    @contextmanager
    def following(self, parts: Iterable[tuple[str, nn.Module]]) -> Iterator[None]:
        """Name parts of the model: FLOPs inside one, and those of its backward pass, count as the part's."""
        hooks: list[Any] = []
        for name, module in parts:
            outer: list[str] = []

            def enter(_: nn.Module, __: Any, name: str = name, outer: list[str] = outer) -> None:
                outer.append(self.part)
                self.part = name

            def leave(_: nn.Module, __: Any, output: Any, name: str = name, outer: list[str] = outer) -> None:
                self.part = outer.pop()
                for tensor in tree_leaves(list(output.values()) if isinstance(output, dict) else output):
                    if isinstance(tensor, Tensor) and tensor.requires_grad:
                        tensor.register_hook(lambda _: setattr(self, "part", name))

            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def label(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Count these tensors as of a kind from now on."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._enter(storage)
            entry = self._kinds[id(storage)]
            self.live[entry[0]] -= entry[1]
            entry[0] = kind
            self.live[kind] += entry[1]

    def restart(self) -> None:
        """Forget FLOPs, peak and bytes sent so far."""
        self.flops.clear()
        self.recomputed = 0
        self.sent.clear()
        self.peak = self.live.copy()

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._kinds:
            self._kinds[key] = [ACTIVATIONS, 0]
            weakref.finalize(storage, self._leave, key)
        entry = self._kinds[key]
        if entry[1] != size:  # new, or FSDP has resized it
            self.live[entry[0]] += size - entry[1]
            entry[1] = size
            if self.live.total() > self.peak.total():
                self.peak = self.live.copy()

    def _leave(self, key: int) -> None:
        kind, size = self._kinds.pop(key)
        self.live[kind] -= size

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        """Run an operator and enter what it does."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it calls operators on its shard, which come here
        options = options or {}
        result = operator(*arguments, **options)
        packet, name = operator._overloadpacket, operator._schema.name
        formula: Any = FORMULAS.get(name) or flop_registry.get(packet)
        if formula is not None:
            count = formula(*arguments, **options, out_val=result)
            if _again():
                self.recomputed += count
            else:
                self.flops[self.part] += count
        leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if operator.namespace in ("c10d", "_c10d_functional"):
            given = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
            self.sent[packet.__name__.strip("_")] += max(
                (tensor.nbytes for tensor in [*given, *leaves]), default=0
            )
        for tensor in leaves:
            self._enter(tensor.untyped_storage())
        return result
