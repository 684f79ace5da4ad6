"""What a merge method is, and the registry of all methods.

A method is made once per merge. The engine calls `prepare` with all tensors (first pass: statistics over the
whole model), then for each tensor `start` (statistics of this tensor) and `block` for each block of elements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from unival.errors import UserError
from unival.merging.checkpoint import Source
from unival.merging.job import Job
from unival.registry import Registry


@dataclass
class NoOptions:
    """A method without options."""


@dataclass
class Method:
    """Base of all methods."""

    Options: ClassVar[type] = NoOptions
    needs_base: ClassVar[bool] = False
    needs_statistics: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    """Whether the order of the models has a meaning (pairwise methods)."""
    propagates: ClassVar[bool] = False
    """Whether NaN in any input shows in the output, so that only the output has to be looked at."""

    options: Any
    seed: int = 0
    statistics: Mapping[str, Source] = field(default_factory=dict)
    """Per model, its Fisher or Gram statistics."""
    notes: dict[str, int | float] = field(default_factory=dict)
    """For the record: how often something was clamped or fell back, the worst condition number."""

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Statistics over all tensors."""

    def start(self, job: Job) -> Any:
        """Statistics of one tensor; what it returns is handed to `block`."""

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor) -> Tensor:
        """The merged elements start .. start + len(models[0]). `base` is there when `needs_base` is set."""
        raise NotImplementedError

    def count(self, what: str) -> None:
        """Count an event for the record."""
        self.notes[what] = self.notes.get(what, 0) + 1

    def worst(self, what: str, value: float) -> None:
        """Keep the largest value for the record."""
        self.notes[what] = max(self.notes.get(what, value), value)


METHODS: Registry[type[Method]] = Registry("merge method")


def normalized(job: Job) -> list[float]:
    """The weights of the models of this tensor, divided by their sum."""
    weights = weights_of(job)
    total = sum(weights)
    if total == 0:
        raise UserError(f"merge recipe: {job.name}: the weights of {', '.join(job.models)} sum to zero")
    return [weight / total for weight in weights]


def weights_of(job: Job) -> list[float]:
    """The weights of the models of this tensor, one each where the recipe gives none."""
    return list(job.weights) if job.weights is not None else [1.0] * len(job.models)


def pair(job: Job, models: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The two models of a pairwise method."""
    if len(models) != 2:
        raise UserError(f"merge recipe: {job.name}: a pairwise method takes 2 models, not {len(models)}")
    return models[0], models[1]


def deltas_of(models: Sequence[Tensor], base: Tensor) -> list[Tensor]:
    """The task vectors theta_i - theta_0."""
    return [model - base for model in models]
