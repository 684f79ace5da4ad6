"""Averages of random subsets of experts: how often merging succeeds.

Every model is scored on the same first test rows. Its name is `experts/<a>+<b>` for an average,
`experts/<a>` for an expert alone, which is scored on the tasks of all (trained on one task, tested on
another), and NONE for the model they all started from.
Lines of metrics/subsets.csv: `unival.study.tables.Subset`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unival import code
from unival.config import check_names
from unival.study import model_rows
from unival.study.tables import Subset

if TYPE_CHECKING:
    from unival.study.cells import Cells, Result
    from unival.study.models import Loaded

NONE = "experts/none"
Experts = tuple[str, ...]
"""Names of those behind a model; none: the pretrained model."""


@dataclass(frozen=True)
class SubsetConfig:
    """Which averages are made."""

    experts: list[str]
    """Finetuned tasks that subsets are drawn from; those without a model are left out."""
    number: int
    """Subsets of at least two, drawn at random, the same for every seed; all, where there are no more."""
    rows: int
    """Test rows per model and task."""

    def __post_init__(self) -> None:
        check_names("subsets.experts", self.experts)
        if self.number < 0 or self.rows < 1:
            raise ValueError("subsets: number must be at least 0, rows at least 1")


def models(experts: Sequence[str], number: int) -> list[Experts]:
    """No expert, every one alone, and the drawn subsets of at least two; nothing where none is drawn."""
    sizes = range(2, len(experts) + 1)
    several = [subset for size in sizes for subset in itertools.combinations(experts, size)]
    drawn = sorted(np.random.default_rng(0).permutation(len(several))[:number])
    return [(), *((expert,) for expert in experts), *(several[place] for place in drawn)] if drawn else []


def name(experts: Experts) -> str:
    """Of a model, in the tables."""
    return f"experts/{'+'.join(experts)}" if experts else NONE


def score(cells: "Cells", experts: Experts, tasks: Sequence[str], rows: int, base: Path) -> list["Result"]:
    """The results of one model on tasks.

    Args:
        base: folder of the pretrained model.
    """
    from unival.merging import Recipe, merge_into
    from unival.study.cells import CellSpec
    from unival.study.models import load_model

    folders = {expert: Path("models/finetune") / expert for expert in experts} or {"": base}

    @cache
    def load() -> "Loaded":
        model, processor = load_model(next(iter(folders.values())))
        if len(folders) > 1:
            merge_into(model, Recipe("average", experts), folders, base)
        return model, processor

    weights = [
        *(model_rows.digests(folder) for folder in folders.values()),
        code.digest("unival.merging.live"),
    ]
    specs = [CellSpec(name(experts), "interpolated", task, "test", rows) for task in tasks]
    return cells.run(specs, weights, load)


def lines(averages: Mapping[Experts, Sequence["Result"]], resamples: int) -> Iterator[Subset]:
    """Lines of subsets.csv."""
    results = {(experts, one.spec.task): one for experts, ones in averages.items() for one in ones}
    for (experts, task), one in results.items():
        start, own = results[(), task], results[(task,), task]
        yield Subset(
            experts=" ".join(experts),
            task=task,
            **one.columns,
            minus_pretrained=one.minus(start, resamples).rounded() if experts else None,
            minus_expert=one.minus(own, resamples).rounded() if experts != (task,) else None,
        )
