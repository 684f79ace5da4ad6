"""The merge methods by name: their options, what they need, and how the engine drives them.

A method is made once per merge. The engine calls `prepare` with all tensors (first pass: statistics over the
whole model), then for each tensor `start` (statistics of this tensor) and `block` for each block of elements.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from unival.errors import UserError
from unival.merging import elementwise
from unival.merging.job import Job
from unival.registry import Registry


@dataclass
class NoOptions:
    """A method without options."""


@dataclass
class Method:
    """Base of all methods; `clamps` counts what had to be limited, for the record."""

    Options: ClassVar[type] = NoOptions
    needs_base: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    """Whether the order of the models has a meaning (pairwise methods)."""

    options: Any
    seed: int = 0
    clamps: dict[str, int] = field(default_factory=dict)

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Statistics over all tensors."""

    def start(self, job: Job) -> Any:
        """Statistics of one tensor; what it returns is handed to `block`."""

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor | None) -> Tensor:
        """The merged elements start .. start + len(models[0])."""
        raise NotImplementedError

    def clamp(self, what: str) -> None:
        """Count an event for the record."""
        self.clamps[what] = self.clamps.get(what, 0) + 1


METHODS: Registry[type[Method]] = Registry("merge method")


@METHODS.register("average")
class Average(Method):
    """sum_i w_i theta_i / sum_i w_i; uniform by default ("soup", Wortsman et al. 2022, arXiv 2203.05482)."""

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor | None) -> Tensor:
        return elementwise.linear(models, normalized(job))


@dataclass
class InterpolateOptions:
    """Where on the line from the first model (0) to the second (1)."""

    t: float = 0.5


@METHODS.register("interpolate")
class Interpolate(Method):
    """(1 - t) theta_1 + t theta_2, the ends bit-exact."""

    Options = InterpolateOptions
    ordered = True

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor | None) -> Tensor:
        first, second = pair(job, models)
        return elementwise.interpolate(first, second, self.options.t)


@dataclass
class ScaleOptions:
    """Factor lambda on the sum of the task vectors."""

    scale: float = 0.3


@METHODS.register("task_arithmetic")
class TaskArithmetic(Method):
    """theta_0 + lambda sum_i w_i tau_i, w_i = 1 by default; lambda < 0 forgets, lambda > 1 extrapolates."""

    Options = ScaleOptions
    needs_base = True

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor | None) -> Tensor:
        assert base is not None
        weights = [self.options.scale * job.scale * weight for weight in ones(job)]
        return elementwise.task_arithmetic(base, models, weights)


def normalized(job: Job) -> list[float]:
    """The weights of the models of this tensor, divided by their sum."""
    weights = ones(job)
    total = sum(weights)
    if total == 0:
        raise UserError(f"merge recipe: {job.name}: the weights of {', '.join(job.models)} sum to zero")
    return [weight / total for weight in weights]


def ones(job: Job) -> list[float]:
    """The weights of the models of this tensor, one each where the recipe gives none."""
    return list(job.weights) if job.weights is not None else [1.0] * len(job.models)


def pair(job: Job, models: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The two models of a pairwise method."""
    if len(models) != 2:
        raise UserError(f"merge recipe: {job.name}: a pairwise method takes 2 models, not {len(models)}")
    return models[0], models[1]
