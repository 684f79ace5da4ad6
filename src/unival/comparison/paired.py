"""One cell of two sides, row by row: differences of every metric, rows that flipped, and what is left out.

A cell is what predictions of one model on one task and split (or a shift of it) leave: a file of rows
(`unival.engine.inference.predictions.PredictedRow`), for every training seed one. A row counts where all
files have it and ask and expect the same; a metric where equal answers have equal scores.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unival.engine.inference.predictions import entries
from unival.errors import UserError
from unival.metrics import caption
from unival.metrics.significance import Effect, Paired, effect
from unival.study.typed_csv import FIX

Rows = Mapping[str, Mapping[str, Any]]
"""Id -> the line of a predictions file."""
CONTENT = ("media", "text", "references", "answers", "box")
"""What a row asks and expects."""
OF_ALL_ROWS = frozenset({"cider"})
"""Metrics that weigh a row by the references of all rows: on other rows they mean something else."""
RIGHT = 0.5
"""A row from this score on counts as answered."""
SAME = 1e-6
"""Scores stand in the files with six digits."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A row that one answers and the other does not: a line of `flips.csv`."""

    side: str
    against: str
    model: str
    """Of a study's many; empty: the sides are models."""
    task: str
    split: str
    id: str
    asked: str
    expected: str
    before: str
    """Answer of `against`, of its first seed."""
    after: str
    score_before: float
    """Mean over seeds, of the metric that says whether a row is answered."""
    score_after: float

    @property
    def won(self) -> bool:
        """Whether it is answered now and was not."""
        return self.score_after >= RIGHT


@dataclass(frozen=True)
class Measured:
    """A metric of one cell."""

    metric: str
    before: float
    after: float
    effect: Effect
    """After minus before."""
    rows: int


@dataclass(frozen=True)
class PairedCell:
    """What two sides have on the same rows."""

    first: Sequence[Rows]
    """A file for every seed."""
    second: Sequence[Rows]
    ids: list[str]
    """Rows that all of them have, in the order of the first."""
    left_out: list[str]
    """Why rows and metrics were left out."""

    def measured(self) -> Iterator[Measured]:
        """Every metric that means the same in both, of captions also those of the corpus."""
        files = [*self.first, *self.second]
        names = list(dict.fromkeys(name for rows in files for name in rows[self.ids[0]]["scores"]))
        whole = all(len(rows) == len(self.ids) for rows in files)
        media = self._media()
        for name in names:
            first, second = self._having(name)
            if not first:
                self.left_out.append(f"{name}: in one of them alone")
            elif name in OF_ALL_ROWS and not whole:
                self.left_out.append(f"{name}: weighs words by the references of other rows")
            else:
                before_SN, after_SN = self._scores(first, name), self._scores(second, name)
                alike_SN = self._answered_alike(first, second)
                if np.abs(before_SN - after_SN)[alike_SN].max(initial=0) > SAME:
                    self.left_out.append(f"{name}: equal answers score differently: computed in two ways")
                    continue
                effects = effect([Paired(after_SN - before_SN, media)])
                yield Measured(name, before_SN.mean(), after_SN.mean(), effects, len(self.ids))
        if all(self._having("rouge_l")):
            yield from self._bleu(media)

    def flips(self, metric: str) -> Iterator[tuple[str, float, float]]:
        """(id, score before, score after) of rows that go from unanswered to answered or back."""
        for name in ("correct", metric):  # of captions all facts, where the benchmark can check them
            first, second = self._having(name)
            if first:
                before_N = self._scores(first, name).mean(axis=0)
                after_N = self._scores(second, name).mean(axis=0)
                for place in np.flatnonzero((before_N >= RIGHT) != (after_N >= RIGHT)):
                    yield self.ids[place], float(before_N[place]), float(after_N[place])
                return

    def _having(self, name: str) -> tuple[list[Rows], list[Rows]]:
        """The files of the seeds in which both have the metric."""
        pairs = [
            pair
            for pair in zip(self.first, self.second, strict=True)
            if all(name in rows[self.ids[0]]["scores"] for rows in pair)
        ]
        return [one for one, _ in pairs], [other for _, other in pairs]

    def _scores(self, files: Sequence[Rows], name: str) -> np.ndarray:
        return np.array([[rows[id_]["scores"][name] for id_ in self.ids] for rows in files], np.float64)

    def _media(self) -> list[Any]:
        rows = self.first[0]
        return [tuple(sorted(rows[id_]["media"].items())) or id_ for id_ in self.ids]

    def _answered_alike(self, first: Sequence[Rows], second: Sequence[Rows]) -> np.ndarray:
        """Whether both gave the same answer, (seeds, rows)."""
        return np.array(
            [
                [one[id_]["prediction"] == other[id_]["prediction"] for id_ in self.ids]
                for one, other in zip(first, second, strict=True)
            ]
        )

    def _bleu(self, media: Sequence[Any]) -> Iterator[Measured]:
        """BLEU is no mean over rows: a row stands for what the corpus loses without it (jackknife)."""
        sums = [[self._statistics(rows) for rows in files] for files in self._having("rouge_l")]
        for order in range(1, caption.ORDERS + 1):
            reduce = caption.bleu_of(order)
            before_SN, after_SN = (np.stack([_influence(one, reduce) for one in files]) for files in sums)
            effects = effect([Paired(after_SN - before_SN, media)])
            yield Measured(f"bleu_{order}", before_SN.mean(), after_SN.mean(), effects, len(self.ids))

    def _statistics(self, rows: Rows) -> np.ndarray:
        chosen = [rows[id_] for id_ in self.ids]
        return caption.bleu_statistics(
            [str(row["prediction"]) for row in chosen], [row["references"] for row in chosen]
        )


def _influence(statistics_NS: np.ndarray, reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Values of rows whose mean is the metric and whose spread is that of the metric (Efron 1982), (N,)."""
    total_S = statistics_NS.sum(axis=0)
    without_N = reduce(total_S - statistics_NS)
    influence_N = (len(statistics_NS) - 1) * (without_N.mean() - without_N)
    return np.asarray(reduce(total_S) + influence_N)


def cell(first: Sequence[Rows], second: Sequence[Rows]) -> PairedCell:
    """The rows that all files have alike; `ids` is empty where there is none."""
    files = [*first, *second]
    shared = [id_ for id_ in first[0] if all(id_ in rows for rows in files[1:])]
    ids = [id_ for id_ in shared if len({_content(rows[id_]) for rows in files}) == 1]
    left_out = []
    if missing := max(map(len, files)) - len(shared):
        left_out.append(f"{missing} rows: in one of them alone")
    if other := len(shared) - len(ids):
        left_out.append(f"{other} rows: ask or expect something else")
    return PairedCell(first, second, ids, left_out)


def _content(row: Mapping[str, Any]) -> str:
    return json.dumps([row.get(name) for name in CONTENT], sort_keys=True)


def repeated(rows: Rows, scores: tuple[str, Mapping[str, float]]) -> Rows:
    """The rows with the scores of another seed, whose answers were not kept: NaN equals no answer."""
    metric, by_id = scores
    return {
        id_: {**row, "scores": {metric: by_id[id_]}, "prediction": math.nan}
        for id_, row in rows.items()
        if id_ in by_id
    }


def said(row: Mapping[str, Any]) -> str:
    """The answer of a row as a person reads it: a box in pixels."""
    value = row["prediction"]
    if isinstance(value, list):
        return f"({', '.join(f'{side:.0f}' for side in value)})"
    return value.strip() if value and value.strip() else "(no box)" if "iou" in row["scores"] else "(nothing)"


def expected(row: Mapping[str, Any]) -> str:
    """What a row is compared with, in short."""
    if row.get("box") and "iou" in row["scores"]:
        return f"({', '.join(f'{side:.0f}' for side in row['box'])})"
    answers = row.get("answers") or {}
    return max(answers, key=answers.__getitem__) if answers else next(iter(row.get("references") or ()), "")


def read(path: Path) -> Rows:
    """The rows of a predictions file; those that are shown are checked when they are (`predictions`).

    Raises:
        UserError: a line is no such row.
    """
    rows: dict[str, Any] = {}
    for place, row in entries(path):
        try:
            rows[row["id"]] = row
            row["scores"], row["media"], row["prediction"]
        except (LookupError, TypeError) as error:
            raise UserError(f"{place}: no row of a prediction: {error}: {FIX}") from error
    return rows
