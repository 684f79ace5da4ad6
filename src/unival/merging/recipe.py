"""A merge written down: method, models, coefficients, alignment rules, number format, seed.

A merge is a pure function of (recipe, bytes of the inputs).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from unival import config
from unival.errors import UserError


@dataclass(frozen=True)
class AlignRule:
    """What to do with the tensors whose name matches `pattern` (`re.search`); the first match decides.

    None is needed for counters and running statistics of batch norm (`unival.merging.align`).

    - `owners`: only the models that have the tensor take part; the only owner's tensor is taken as it is.
    - `mean`: as owners, but the plain mean whatever the method: for statistics (running variances), which a
      sum of changes may lead out of their range.
    - `trained`: the owners are the models whose tensor differs from the base's; with none, the base's is
      taken.
    - `base`: the base's tensor is taken as it is.
    - `take`: the tensor of `model` is taken as it is.
    """

    pattern: str
    rule: Literal["owners", "mean", "trained", "base", "take"]
    model: str | None = None

    def __post_init__(self) -> None:
        check_pattern(self.pattern)
        if (self.rule == "take") != (self.model is not None):
            raise ValueError("'model' is given with the rule 'take', and only with it")


@dataclass(frozen=True)
class ModuleRule:
    """Coefficients of the tensors that match `pattern`: model weights, or a factor on the task vector."""

    pattern: str
    weights: dict[str, float] | None = None
    """Per model; one that is not named keeps its weight in the recipe, by default 1."""
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_pattern(self.pattern)
        check_finite("modules", self.scale, *(self.weights or {}).values())


@dataclass(frozen=True)
class Depth:
    """LiNeS (Wang et al. 2024, arXiv 2410.17146): block l of L has factor alpha + beta l/(L-1).

    One schedule per stack: `pattern` has the groups `stack` (a name shared by the blocks of one stack) and
    `index` (an integer). Tensors outside any block get alpha.
    """

    alpha: float = 1.0
    beta: float = 0.0
    pattern: str = r"^(?P<stack>(?:.*\.)?(?:layers|layer|blocks|block|h))\.(?P<index>\d+)\."

    def __post_init__(self) -> None:
        check_pattern(self.pattern)
        check_finite("depth", self.alpha, self.beta)
        if not {"stack", "index"} <= set(re.compile(self.pattern).groupindex):
            raise ValueError("depth pattern needs the groups (?P<stack>..) and (?P<index>..)")


@dataclass(frozen=True)
class VocabularyRule:
    """Tensors whose rows (`axis` 0) belong to tokens: rows are matched by token, not by number."""

    pattern: str

    def __post_init__(self) -> None:
        check_pattern(self.pattern)


@dataclass(frozen=True)
class Recipe:
    """One merge. `models` are names; where their files lie is told to `merge` beside the recipe."""

    method: str
    models: tuple[str, ...]
    """Two or more names (one is allowed); the order matters only to the pairwise methods."""
    weights: dict[str, float] | None = None
    """Per model; None: the method's default (uniform)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the method; an unknown one is refused."""
    modules: tuple[ModuleRule, ...] = ()
    depth: Depth | None = None
    align: tuple[AlignRule, ...] = ()
    vocabulary: VocabularyRule | None = None
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None
    """Of the floating tensors of the output; None: as in the inputs."""
    accumulate: Literal["float32", "float64"] | None = None
    """Type of the arithmetic, rounded once at the end; None: float64 for 16-bit models, else float32."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("a recipe needs at least one model")
        if len(set(self.models)) < len(self.models):
            raise ValueError("a model is named twice")
        check_finite("weights", *(self.weights or {}).values())
        known = ", ".join(self.models)
        for weights in (self.weights, *(rule.weights for rule in self.modules)):
            if unknown := [name for name in weights or {} if name not in self.models]:
                raise ValueError(f"weights: '{unknown[0]}' is not one of the models ({known})")
        if self.weights is not None and set(self.weights) != set(self.models):
            missing = sorted(set(self.models) - set(self.weights))
            raise ValueError(f"weights: no weight for {', '.join(missing)}")
        for rule in self.align:
            if rule.model is not None and rule.model not in self.models:
                raise ValueError(f"align: '{rule.model}' is not one of the models ({known})")


def check_pattern(pattern: str) -> None:
    """Raise ValueError for a bad regular expression; `config.build` adds the place."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"'{pattern}' is not a regular expression: {error}") from error


def check_finite(what: str, *values: float) -> None:
    """Raise ValueError for a coefficient that is NaN or infinite."""
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{what}: {value} is not a coefficient: give a finite number")


def as_recipe(recipe: Recipe | Mapping[str, Any], where: str = "merge recipe") -> Recipe:
    """A recipe from a mapping (of a YAML file), checked; a `Recipe` is returned as it is."""
    return recipe if isinstance(recipe, Recipe) else config.build(Recipe, recipe, where)


def coefficients(recipe: Recipe, names: list[str]) -> dict[str, tuple[dict[str, float] | None, float]]:
    """Per tensor name: (model weights or None, factor on the task vector), from modules and depth.

    Raises:
        UserError: a module pattern that matches no tensor.
    """
    unused = {rule.pattern for rule in recipe.modules}
    stacks = _blocks_per_stack(recipe.depth, names)
    table = {}
    for name in names:
        weights, scale = recipe.weights, 1.0
        if recipe.depth is not None:
            scale *= _depth_scale(recipe.depth, stacks, name)
        for rule in recipe.modules:
            if re.search(rule.pattern, name):
                unused.discard(rule.pattern)
                if rule.weights:
                    weights = {**dict.fromkeys(recipe.models, 1.0), **(weights or {}), **rule.weights}
                scale *= rule.scale
                break
        table[name] = (weights, scale)
    if unused:
        raise UserError(f"merge recipe: modules: '{min(unused)}' matches no tensor: correct or remove it")
    if recipe.depth is not None and not stacks:
        raise UserError(
            f"merge recipe: depth: '{recipe.depth.pattern}' matches no tensor: correct the pattern"
        )
    return table


def _blocks_per_stack(depth: Depth | None, names: list[str]) -> dict[str, int]:
    stacks: dict[str, int] = {}
    for name in names if depth is not None else ():
        if block := re.search(depth.pattern, name):  # type: ignore[union-attr]
            stack, index = block["stack"], int(block["index"])
            stacks[stack] = max(stacks.get(stack, 0), index + 1)
    return stacks


def _depth_scale(depth: Depth, stacks: dict[str, int], name: str) -> float:
    block = re.search(depth.pattern, name)
    if not block:
        return depth.alpha
    last = stacks[block["stack"]] - 1
    return depth.alpha + depth.beta * (int(block["index"]) / last if last else 0.0)
