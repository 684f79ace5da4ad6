"""The options of each merge method, and whether the order of its models has a meaning.

Apart from the methods, so that a recipe is checked without what computes a merge, and without PyTorch.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from unival.merging.recipe import check_pattern
from unival.registry import Registry


@dataclass
class Options:
    """Of a method that has none."""

    ordered: ClassVar[bool] = False
    """Whether the order of the models has a meaning (pairwise methods)."""


OPTIONS: Registry[type[Options]] = Registry("merge method")
for _name in ("average", "model_stock", "fisher"):
    OPTIONS.register(_name)(Options)


@OPTIONS.register("interpolate")
@dataclass
class InterpolateOptions(Options):
    """Where on the line from the first model (0) to the second (1)."""

    ordered = True

    t: float = 0.5


@OPTIONS.register("task_arithmetic")
@dataclass
class TaskArithmeticOptions(Options):
    """Factor lambda on the sum of the task vectors."""

    scale: float = 0.3


@OPTIONS.register("slerp")
@OPTIONS.register("slerp_task_vectors")
@dataclass
class SlerpOptions(Options):
    """Place on the arc from the first model (0) to the second (1)."""

    ordered = True

    t: float = 0.5


@OPTIONS.register("ties")
@dataclass
class TiesOptions(Options):
    """Defaults of the paper."""

    density: float = 0.2
    """Share of the entries of each task vector that is kept."""
    scope: Literal["model", "tensor"] = "model"
    """Whether the largest are chosen over the whole model (as the paper) or in each tensor."""
    merge: Literal["mean", "sum"] = "mean"
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_share("density", self.density)


@OPTIONS.register("dare")
@dataclass
class DareOptions(Options):
    """Share of the entries that is kept at random, and the factor on the sum of the task vectors."""

    density: float = 0.5
    scale: float = 0.3

    def __post_init__(self) -> None:
        _check_share("density", self.density)


@OPTIONS.register("dare_ties")
@dataclass
class DareTiesOptions(TiesOptions):
    """By default TIES only elects signs."""

    density: float = 0.5
    """Share that DARE keeps."""
    keep: float = 1.0
    """Share that TIES keeps, of the entries that DARE kept or dropped together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share("keep", self.keep)


@OPTIONS.register("breadcrumbs")
@dataclass
class BreadcrumbsOptions(Options):
    """Defaults of the paper."""

    density: float = 0.9
    """Share of each tensor that is kept."""
    top: float = 0.01
    """Share of the largest that is dropped."""
    scale: float = 0.3

    def __post_init__(self) -> None:
        _check_share("density", self.density)
        if not 0 <= self.top < 1:
            raise ValueError(f"top: {self.top} is not in [0, 1)")


@OPTIONS.register("consensus")
@dataclass
class ConsensusOptions(Options):
    """Defaults of the paper's script."""

    threshold: float = 0.4
    """lambda of the TALL mask; the paper searches 0.2 .. 0.6."""
    agreeing: int = 2
    """Tasks that must use an entry."""
    scale: float = 0.3


@dataclass
class MatricesOptions(Options):
    """Which tensors are matrices."""

    matrices: str = r"weight$"
    exclude: str = r"embed|shared|lm_head|position"

    def __post_init__(self) -> None:
        check_pattern(self.matrices)
        check_pattern(self.exclude)


@OPTIONS.register("iso_c")
@OPTIONS.register("tsv_m")
@dataclass
class DeltaMatricesOptions(MatricesOptions):
    """Factor lambda on the merged task vector."""

    scale: float = 1.0


@OPTIONS.register("wudi")
@dataclass
class WudiOptions(DeltaMatricesOptions):
    """`ridge` plays the part of the number of steps in the paper: large is few steps from the start, sum
    tau.
    """

    ridge: float = 1e-4


@OPTIONS.register("regmean")
@dataclass
class RegMeanOptions(MatricesOptions):
    """`alpha` shrinks the off-diagonals of the Gram matrices (0.9 in the paper); `ridge` is relative."""

    alpha: float = 0.9
    ridge: float = 1e-6


def _check_share(name: str, value: float) -> None:
    """Raise ValueError unless 0 < value <= 1."""
    if not 0 < value <= 1:
        raise ValueError(f"{name}: {value} is not in (0, 1]")
