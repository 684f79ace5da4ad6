"""The streaming engine: inputs by chunks through a method to a file, a live model or a state dict.

Elements are worked on in blocks of a fixed size that start at fixed places of each tensor, on one thread, so
the result does not depend on chunk size, number of threads or order of the models. Worker threads take whole
chunks; the main thread writes them in order.
"""

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unival import config
from unival.errors import UserError
from unival.merging.align import ESTIMATED, Assignment, align, tied_names
from unival.merging.checkpoint import TensorSource
from unival.merging.job import Job, Scratch, Settings, finite
from unival.merging.method import Method
from unival.merging.methods import METHODS
from unival.merging.options import OPTIONS, Options
from unival.merging.recipe import Recipe, coefficients
from unival.weights import cast


@dataclass
class Plan:
    """A recipe applied to sources: what happens to each tensor, ready to stream."""

    recipe: Recipe
    models: dict[str, TensorSource]
    base: TensorSource | None
    settings: Settings = field(default_factory=Settings)
    statistics: Mapping[str, TensorSource] = field(default_factory=dict)
    estimated: TensorSource | None = None
    by_token: bool = False
    """Whether the sources have the recipe's vocabulary rows matched by token."""

    def __post_init__(self) -> None:
        kind = METHODS[self.recipe.method]
        known = OPTIONS[self.recipe.method]
        options: Any = config.build(known, self.recipe.options, "merge recipe: options")
        self._check_models(kind, known.ordered)
        order = self.recipe.models if known.ordered else sorted(self.recipe.models)
        self.models = {name: self.models[name] for name in order}
        self.method = kind(options, self.recipe.seed, self.statistics)
        self.mean = METHODS["average"](Options())
        self.assignments = align(self.recipe, self.models, self.base, kind.needs_base, self.estimated)
        self.settings.dtype = self._arithmetic()
        self.tied = tied_names(self.models, self.base, self.assignments)
        table = coefficients(self.recipe, [assignment.name for assignment in self.assignments])
        self.jobs = {
            assignment.name: self._job(assignment, *table[assignment.name], kind)
            for assignment in self.assignments
            if assignment.copy_from is None and assignment.name not in self.tied
        }

    def _arithmetic(self) -> torch.dtype:
        """Means of 16-bit numbers are often halfway between two of them: float64 decides these rightly."""
        if self.recipe.accumulate is not None:
            return torch.float32 if self.recipe.accumulate == "float32" else torch.float64
        specs = [spec for source in self.models.values() for spec in source.specs.values()]
        short = any(spec.dtype.is_floating_point and spec.dtype.itemsize < 4 for spec in specs)
        long = any(spec.dtype == torch.float64 for spec in specs)
        return torch.float64 if short or long else torch.float32

    def _check_models(self, kind: type[Method], ordered: bool) -> None:
        if self.recipe.vocabulary is not None and not self.by_token:
            raise UserError("merge recipe: 'vocabulary' needs the tokenizers of model folders: use `merge`")
        missing = sorted(set(self.recipe.models) - set(self.models))
        if missing:
            raise UserError(f"merge recipe: no checkpoint was given for {', '.join(missing)}")
        if kind.needs_base and self.base is None:
            raise UserError(f"merge recipe: method '{self.recipe.method}' needs a base checkpoint: give one")
        lacking = sorted(set(self.recipe.models) - set(self.statistics)) if kind.needs_statistics else []
        if lacking:
            raise UserError(
                f"merge recipe: method '{self.recipe.method}' needs statistics of {', '.join(lacking)}: "
                "collect them (unival.merging.collect) and give them"
            )
        weighted = self.recipe.weights or any(rule.weights for rule in self.recipe.modules)
        if ordered and weighted:
            raise UserError(
                f"merge recipe: method '{self.recipe.method}' takes no weights: option 't' says where on the "
                "way between its two models the merge lies"
            )
        uses_scale = self.recipe.depth is not None or any(rule.scale != 1 for rule in self.recipe.modules)
        if uses_scale and not kind.needs_base:
            raise UserError(
                f"merge recipe: depth and module scales act on task vectors, which '{self.recipe.method}' "
                "does not have: use 'task_arithmetic', or module weights"
            )

    def _job(
        self, assignment: Assignment, weights: dict[str, float] | None, scale: float, kind: type[Method]
    ) -> Job:
        sources = [self.models[owner] for owner in assignment.owners]
        if assignment.rule == "mean":
            return Job(assignment, sources, None, (1.0,) * len(sources), 1.0, self.settings)
        chosen = tuple(weights[owner] if weights else 1.0 for owner in assignment.owners)
        return Job(assignment, sources, self.base if kind.needs_base else None, chosen, scale, self.settings)

    def _method(self, job: Job) -> Method:
        return self.mean if job.assignment.rule == "mean" else self.method

    def stream(self) -> Generator[tuple[Assignment, int, Tensor]]:
        """(assignment, first element, merged elements in the output type) in the order of `assignments`.

        The order is the caller's: sort `assignments` first. A tensor is overwritten by the next step.
        """
        with single_threaded():
            self.method.prepare([job for job in self.jobs.values() if job.assignment.rule != "mean"])
            if self.settings.threads == 1:
                for part in self._parts():
                    yield part.assignment, part.start, self._work(part, self.settings.scratch)
            else:
                yield from self._pooled()

    def _parts(self) -> Iterator["TensorSlice"]:
        for assignment in self.assignments:
            job = self.jobs.get(self.tied.get(assignment.name, assignment.name))
            state = self._method(job).start(job) if job else None
            for start in range(0, max(assignment.spec.count, 1), self.settings.chunk):  # an empty tensor, too
                yield TensorSlice(
                    assignment, start, min(start + self.settings.chunk, assignment.spec.count), job, state
                )

    def _pooled(self) -> Iterator[tuple[Assignment, int, Tensor]]:
        threads = self.settings.threads
        scratches: SimpleQueue[Scratch] = SimpleQueue()
        for _ in range(threads):
            scratches.put(Scratch())

        def work(part: TensorSlice) -> Tensor:
            scratch = scratches.get()
            try:
                return self._work(part, scratch)
            finally:
                scratches.put(scratch)

        waiting: deque[tuple[TensorSlice, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for part in self._parts():
                waiting.append((part, pool.submit(work, part)))
                while len(waiting) > 2 * threads:
                    first, done = waiting.popleft()
                    yield first.assignment, first.start, done.result()
            for part, done in waiting:
                yield part.assignment, part.start, done.result()

    def _work(self, part: "TensorSlice", scratch: Scratch) -> Tensor:
        assignment, job, start = part.assignment, part.job, part.start
        out = torch.empty(part.end - start, dtype=assignment.dtype)
        if job is None:
            source = {"": self.base, ESTIMATED: self.estimated, **self.models}[assignment.copy_from or ""]
            assert source is not None
            buffer = scratch.buffer(0, len(out), source.specs[assignment.name].dtype)
            values = source.read(assignment.name, start, len(out), buffer)
            return out.copy_(cast(values, assignment.dtype, f"{source.label}: {assignment.name}"))
        method = self._method(job)
        checked = not method.propagates
        for first, models, base in job.blocks(start, part.end, scratch, checked):
            merged = method.block(job, part.state, first, models, base)  # type: ignore[arg-type]
            if not finite(merged):
                if not checked:
                    job.require_finite([*models, *([base] if base is not None else [])], first)
                raise UserError(
                    f"{assignment.name}: merged values leave the range of {str(merged.dtype)[6:]}, the type "
                    "of the arithmetic: lower scale or weights, or set the recipe's accumulate"
                )
            kept = cast(merged, assignment.dtype, f"{assignment.name}: merged")
            out[first - start : first - start + len(merged)] = kept
        return out


class TensorSlice(NamedTuple):
    """Elements start .. end of a tensor of the output; without a job they are copied."""

    assignment: Assignment
    start: int
    end: int
    job: Job | None
    state: Any
    """What the method's `start` said of the tensor."""


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Torch on one thread: its reductions and matrix products then do not depend on the machine's threads.

    Freeing one large tensor teaches glibc to keep freed memory (mallopt(3), M_MMAP_THRESHOLD): without it
    each temporary of a block is new memory, and the page faults take longer than the arithmetic.
    """
    torch.empty(30 << 20, dtype=torch.uint8)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def merge_states(
    recipe: Recipe,
    models: Mapping[str, TensorSource],
    base: TensorSource | None = None,
    statistics: Mapping[str, TensorSource] | None = None,
) -> dict[str, Tensor]:
    """Merge in memory; the result is a new state dict."""
    plan = Plan(recipe, dict(models), base, statistics=statistics or {})
    merged: dict[str, Tensor] = {}
    for assignment, start, block in plan.stream():
        if start == 0:
            merged[assignment.name] = torch.empty(assignment.spec.count, dtype=assignment.dtype)
        merged[assignment.name][start : start + len(block)] = block
    return {
        assignment.name: merged[assignment.name].view(assignment.shape) for assignment in plan.assignments
    }
