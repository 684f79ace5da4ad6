"""Settings of what merges take from data: searched coefficients, statistics, finetuning around a merge."""

from dataclasses import dataclass, field
from typing import Literal

STATISTICS: dict[str, Literal["fisher", "grams"]] = {"fisher": "fisher", "regmean": "grams"}
"""Method -> what it wants to know of each expert."""


@dataclass(frozen=True)
class Search:
    """How the coefficients of a recipe are chosen, by the mean share of each expert's score on its task."""

    rows: int
    """Validation rows per task."""
    strategy: Literal["grid", "coordinate", "optuna", "greedy", "entropy"] = "grid"
    """`greedy`: which models take part (greedy soup). `entropy`: AdaMerging, a coefficient per tensor and
    model of `task_arithmetic`, from inputs without labels."""
    over: dict[str, list[float]] = field(default_factory=dict)
    """Option of the method, or model (its weight) -> values of a grid, or the two ends of a range."""
    budget: int | None = None
    """Evaluations; steps of AdaMerging."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError("search needs rows")
        free = self.strategy in ("greedy", "entropy")
        if free == bool(self.over):
            raise ValueError(f"search '{self.strategy}' {'takes no' if free else 'needs'} `over`")
        if self.strategy in ("coordinate", "optuna") and any(len(ends) != 2 for ends in self.over.values()):
            raise ValueError(f"search '{self.strategy}': give the two ends of each range")
        if self.strategy in ("optuna", "entropy") and self.budget is None:
            raise ValueError(f"search '{self.strategy}' needs a budget")


@dataclass(frozen=True)
class Refinetuning:
    """A model that is finetuned once more, with the settings and rows a step of the experts of `tasks`."""

    tasks: list[str]
    """Finetuned on; several: together, each with the budget its expert had, or that of `steps` and `rows`."""
    recipe: str | None = None
    """null: from the pretrained model (on all tasks: the multitask model that merges are compared with)."""
    each: bool = False
    """false: merge by the recipe, then finetune (fusing, Choshen et al. 2022, arXiv 2204.03044). true:
    finetune the recipe's experts of other tasks on this one, then merge them and its own expert (ratatouille,
    Rame et al. 2023, arXiv 2212.10445; a recipe of two such models interpolates between them)."""
    steps: int | None = None
    """null: those of the expert of the first task."""
    rows: dict[str, int] = field(default_factory=dict)
    """Task -> its rows a step; of others: those of the expert of the first task."""

    def __post_init__(self) -> None:
        if not self.tasks or (self.each and not self.recipe):
            raise ValueError("refinetune needs tasks, and a recipe where `each` is set")
        if self.each and len(self.tasks) > 1:
            raise ValueError("refinetune: `each` takes one task")
