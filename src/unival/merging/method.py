"""What a merge method is, and the registry of all methods.

A method of one formula is a function (`formula`), any other a class, made once per merge. The engine calls
`prepare` with all tensors (first pass: statistics over the whole model), then for each tensor `start`
(statistics of this tensor) and `block` for each block of elements.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from unival.errors import UserError
from unival.merging.checkpoint import TensorSource
from unival.merging.job import Job, finite
from unival.registry import Registry


@dataclass
class Method:
    """Base of all methods."""

    needs_base: ClassVar[bool] = False
    needs_statistics: ClassVar[bool] = False
    propagates: ClassVar[bool] = False
    """Whether NaN in any input shows in the output, so that only the output has to be looked at."""

    options: Any
    """Of its name in `OPTIONS`."""
    seed: int = 0
    statistics: Mapping[str, TensorSource] = field(default_factory=dict)
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

    def known(self, job: Job, shape: tuple[int, ...]) -> bool:
        """Whether every model has statistics of this tensor.

        Raises:
            UserError: statistics of another shape: they belong to another model.
        """
        for source in (self.statistics[name] for name in job.models):
            spec = source.specs.get(job.name)
            if spec is None:
                return False
            if spec.shape != shape:
                raise UserError(
                    f"{source.label}: {job.name}: statistics of shape {list(spec.shape)}, not {list(shape)}: "
                    "they are of another model: collect them again"
                )
        return True

    def statistic(self, job: Job, model: str, start: int, count: int) -> Tensor:
        """Elements start .. start + count of a model's statistics of this tensor.

        Raises:
            UserError: NaN or infinity among them.
        """
        source = self.statistics[model]
        memory = torch.empty(count * source.specs[job.name].dtype.itemsize, dtype=torch.uint8)
        values = source.read(job.name, start, count, memory)
        if not finite(values):
            raise UserError(f"{source.label}: {job.name}: NaN or infinite statistics: collect them again")
        return values

    def count(self, what: str) -> None:
        """Count an event for the record."""
        self.notes[what] = self.notes.get(what, 0) + 1

    def worst(self, what: str, value: float) -> None:
        """Keep the largest value for the record."""
        self.notes[what] = max(self.notes.get(what, value), value)


METHODS: Registry[type[Method]] = Registry("merge method")
Formula = Callable[[Method, Job, list[Tensor], Tensor], Tensor]
"""(method, tensor, blocks of the models, block of the base) -> merged block; element by element."""


def formula(name: str, needs_base: bool = False, propagates: bool = False) -> Callable[[Formula], Formula]:
    """Register a function as a method without statistics of its own; its docstring is the method's."""

    def register(function: Formula) -> Formula:
        def block(
            self: Method, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor
        ) -> Tensor:
            return function(self, job, models, base)

        fields = {"needs_base": needs_base, "propagates": propagates, "__doc__": function.__doc__}
        METHODS.register(name)(type(function.__name__, (Method,), {**fields, "block": block}))
        return function

    return register


def normalized(job: Job) -> list[float]:
    """The weights of the models of this tensor, divided by their sum.

    Raises:
        UserError: they sum to zero.
    """
    total = sum(job.weights)
    if total == 0:
        raise UserError(f"merge recipe: {job.name}: the weights of {', '.join(job.models)} sum to zero")
    return [weight / total for weight in job.weights]


def pair(job: Job, models: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The two models of a pairwise method.

    Raises:
        UserError: another number of models.
    """
    if len(models) != 2:
        raise UserError(f"merge recipe: {job.name}: a pairwise method takes 2 models, not {len(models)}")
    return models[0], models[1]


def deltas_of(models: Sequence[Tensor], base: Tensor) -> list[Tensor]:
    """The task vectors theta_i - theta_0."""
    return [model - base for model in models]
