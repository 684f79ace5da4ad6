"""One tensor to merge, streamed from its sources in blocks of floats.

Blocks have a fixed size and start at fixed places of the tensor whatever the chunk that was read, so sums
over blocks and the tails of vector instructions fall the same way for every chunk size and number of threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unival.errors import UserError
from unival.merging.align import Assignment
from unival.merging.checkpoint import TensorSource

CHUNK = 1 << 18
"""Elements read at once from each model."""
BLOCK = 1 << 17
"""Elements worked on at once on the CPU: the working set stays in the cache, calls are few."""
DEVICE_BLOCK = 1 << 22
"""The same on an accelerator."""
SUB_BLOCK = 1 << 14
"""Elements whose products are summed in float64 at once."""
SAMPLED = 256
"""One in this many elements is looked at to guess where thresholds lie."""


class Scratch:
    """Reused memory of one worker."""

    def __init__(self) -> None:
        self._buffers: dict[int, Tensor] = {}

    def buffer(self, slot: int, count: int, dtype: torch.dtype) -> Tensor:
        """At least `count` elements of `dtype` as bytes; one buffer per slot."""
        size = count * dtype.itemsize
        if slot not in self._buffers or len(self._buffers[slot]) < size:
            self._buffers[slot] = torch.empty(size, dtype=torch.uint8)
        return self._buffers[slot]


@dataclass
class Settings:
    """How to stream; only `dtype` (of the arithmetic) changes results."""

    dtype: torch.dtype = torch.float32
    chunk: int = CHUNK
    threads: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    scratch: Scratch = field(default_factory=Scratch)

    def __post_init__(self) -> None:
        self.block = BLOCK if self.device.type == "cpu" else DEVICE_BLOCK
        self.chunk = max(self.chunk // self.block, 1) * self.block


@dataclass
class Job:
    """One tensor of the output that is computed."""

    assignment: Assignment
    sources: list[TensorSource]
    base: TensorSource | None
    weights: tuple[float, ...]
    """Per model; one each where the recipe gives none."""
    scale: float
    """Factor on the task vector, from module rules and depth."""
    settings: Settings

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.assignment.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.assignment.shape

    @property
    def models(self) -> tuple[str, ...]:
        """The models that take part, in canonical order."""
        return self.assignment.owners

    @property
    def count(self) -> int:
        """Number of its elements."""
        return self.assignment.spec.count

    def blocks(
        self,
        begin: int = 0,
        end: int | None = None,
        scratch: Scratch | None = None,
        check: bool = True,
    ) -> Iterator[tuple[int, list[Tensor], Tensor | None]]:
        """(first element, models, base): float blocks, only to be read; the next step overwrites them.

        Raises:
            UserError: NaN or infinity in an input.
        """
        settings = self.settings
        scratch = scratch or settings.scratch
        end = self.count if end is None else end
        inputs = [*self.sources, *([self.base] if self.base else [])]
        for chunk in range(begin, end, settings.chunk):
            count = min(settings.chunk, end - chunk)
            raw = [
                source.read(self.name, chunk, count, scratch.buffer(i, count, source.specs[self.name].dtype))
                for i, source in enumerate(inputs)
            ]
            for start in range(0, count, settings.block):
                parts = [t[start : start + settings.block].to(settings.device, settings.dtype) for t in raw]
                if check:
                    self.require_finite(parts, chunk + start)
                yield chunk + start, parts[: len(self.sources)], parts[-1] if self.base else None

    def sample(self) -> Iterator[tuple[int, list[Tensor], Tensor | None]]:
        """A part of about 1/SAMPLED of the tensor, taken in short runs from every block; as `blocks`.

        Runs start at multiples of eight, from a place that moves from block to block.
        """
        for number, begin in enumerate(range(0, self.count, BLOCK)):
            length = min(BLOCK, self.count - begin)
            run = max(length // SAMPLED, 1)
            start = begin + (number * 7919 % SAMPLED) * (length - run) // SAMPLED // 8 * 8
            yield from self.blocks(start, start + run)

    def whole(self) -> tuple[list[Tensor], Tensor | None]:
        """(models, base): the complete tensors, for methods that need them."""
        dtype, device = self.settings.dtype, self.settings.device
        models = [torch.empty(self.count, dtype=dtype, device=device) for _ in self.sources]
        base = torch.empty_like(models[0]) if self.base else None
        for start, parts, part in self.blocks():
            for model, values in zip(models, parts, strict=True):
                model[start : start + len(values)] = values
            if base is not None and part is not None:
                base[start : start + len(part)] = part
        shaped = [model.view(self.shape) for model in models]
        return shaped, base.view(self.shape) if base is not None else None

    def require_finite(self, parts: list[Tensor], start: int) -> None:
        """Check the blocks of models and base that begin at element `start`.

        Raises:
            UserError: NaN or infinity, with model, tensor and place.
        """
        for source, part in zip([*self.sources, *([self.base] if self.base else [])], parts, strict=True):
            if not finite(part):
                bad = (~torch.isfinite(part)).nonzero()[:, 0]
                raise UserError(
                    f"{source.label}: {self.name}: NaN or infinite values, the first of {len(bad)} in this "
                    f"block at element {start + int(bad[0])}: leave the checkpoint out or train it again"
                )


def finite(tensor: Tensor) -> bool:
    """Whether all elements are finite; one cheap sum in the usual case."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def gram(job: Job) -> Tensor:
    """tau_i . tau_j of one tensor, (N, N) in float64."""
    return gram_and_norm(job)[0]


def gram_and_norm(job: Job) -> tuple[Tensor, float]:
    """The Gram matrix of the task vectors, and the squared norm of the base."""
    total = torch.zeros(len(job.models), len(job.models), dtype=torch.float64)
    norm = 0.0
    for _, models, base in job.blocks():
        assert base is not None
        for start in range(0, len(base), SUB_BLOCK):
            origin = base[start : start + SUB_BLOCK]
            deltas = torch.stack([model[start : start + SUB_BLOCK] - origin for model in models]).double()
            total += (deltas @ deltas.mT).cpu()
            norm += float(origin.double().square().sum())
    return total, norm
