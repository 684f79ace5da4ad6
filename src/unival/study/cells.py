"""Cells of the results table: model x task x split x shift, each computed once.

A cell is kept in the scratch folder under the digest of all it depends on (weights, task, data, rows,
shift, code and kernels), so a killed evaluation goes on where it was, a new expert makes only its own cells
run again, and a changed metric all that have it. A cell that is damaged there is computed again.
`Cells.run` takes the cells of one model after the other: a model is loaded once, and decoded media are
shared.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unival import code, files, provenance
from unival.engine.batches.rows import Rows, as_list
from unival.engine.inference.evaluate import (
    blind_baselines,
    evaluate_cell,
    media_of,
    swapped_baseline,
)
from unival.engine.inference.predictions import write_predictions
from unival.metrics.bootstrap import Interval, difference
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.record import Modality
from unival.study.benchmark import Benchmark
from unival.study.models import Loaded
from unival.study.tables import Kind
from unival.tasks import TaskConfig


@dataclass(frozen=True)
class CellSpec:
    """What one cell is."""

    model: str
    """Folder below models/, e.g. `finetune/vqa`; or the name of a point between two."""
    kind: Kind
    task: str
    split: str
    rows: int | None
    """The first so many of the split; None: all."""
    shift: str = ""
    """A shift that is applied to the decoded media; empty: none."""
    severity: int = 0
    blind: bool = False
    """Also the baselines that do not look."""

    @property
    def place(self) -> str:
        """The split, with corruption and severity where there is one: `test-blur-3`."""
        return f"{self.split}-{self.shift}-{self.severity}" if self.shift else self.split

    @property
    def file(self) -> str:
        """Name of its predictions below the folder of the model."""
        return f"{self.task}/{self.place}.jsonl"


@dataclass(frozen=True)
class Result:
    """A computed cell."""

    spec: CellSpec
    primary: str
    metrics: dict[str, Interval]
    n: int
    scores: np.ndarray
    """Primary score of every row, (n,)."""
    ids: list[str]
    """Of every row."""
    media: list[str]
    """What every row is about: rows about one medium are drawn together."""
    baselines: dict[str, Interval]
    """Primary metric of `swapped`, `constant` and `majority` or `random`; empty where not asked for."""
    predictions: Path
    """The stored JSONL file."""

    @property
    def value(self) -> Interval:
        """The primary metric."""
        return self.metrics[self.primary]

    @property
    def columns(self) -> dict[str, Any]:
        """The primary metric as in the result tables: metric, value, low, high, n."""
        return {"metric": self.primary, **self.value.rounded()._asdict(), "n": self.n}

    def minus(self, other: "Result", resamples: int) -> Interval:
        """The paired difference from another model on the same rows."""
        return difference(self.scores, other.scores, resamples=resamples, groups=self.media)


Loader = Callable[[], Loaded]
"""Gives the model of a cell, and its processor, when it is needed."""


@dataclass
class Cells:
    """Computes cells of one benchmark, or reads them from the scratch folder."""

    folder: Path
    benchmark: Benchmark
    tasks: dict[str, TaskConfig]
    batch_size: int
    resamples: int

    def run(self, specs: Iterable[CellSpec], weights: Any, load: Loader) -> list[Result]:
        """The cells of one model. `weights`: what identifies them (digests, and a coefficient)."""
        results = []
        for spec in specs:
            path = self.folder / f"{self._key(spec, weights)}.json"
            content = _stored(path)
            if content is None:
                model, processor = load()
                content = self._compute(spec, model, processor, path)
            results.append(_result(spec, content, path))
        return results

    def _key(self, spec: CellSpec, weights: Any) -> str:
        data = [self.benchmark.digest(spec.split), self.benchmark.digest("train")]
        what = [spec.rows, spec.shift, spec.severity, spec.blind, self.resamples]
        task = asdict(self.tasks[spec.task])
        made_by = [code.digest("unival.study.cells", "unival.study.models"), provenance.kernels()]
        return files.digest([made_by, weights, spec.task, task, spec.split, data, what])

    def _compute(
        self, spec: CellSpec, model: UnivalForConditionalGeneration, processor: UnivalProcessor, path: Path
    ) -> dict[str, Any]:
        rows = self.benchmark.rows_of(spec.task, self.tasks[spec.task], processor, spec.split, spec.rows)
        corrupt = partial(_shifted, spec.shift, spec.severity) if spec.shift else None
        cell = evaluate_cell(
            model, processor, rows, batch_size=self.batch_size, corrupt=corrupt, resamples=self.resamples
        )
        write_predictions(path.with_suffix(".jsonl"), as_list(rows.records), cell.predictions, cell.scores)
        content: dict[str, Any] = {
            "primary": cell.primary,
            "n": cell.n,
            "metrics": cell.metrics,
            "scores": cell.scores[cell.primary].tolist(),
            "ids": cell.ids,
            "media": media_of(rows.records),
            "baselines": self._blind(rows, model, processor) if spec.blind else {},
            "predictions": files.file_digest(path.with_suffix(".jsonl")),
        }
        files.write_sealed(path, content)
        return content

    def _blind(
        self, rows: Rows, model: UnivalForConditionalGeneration, processor: UnivalProcessor
    ) -> dict[str, Interval]:
        swapped = swapped_baseline(
            model, processor, rows, batch_size=self.batch_size, resamples=self.resamples
        )
        return {**blind_baselines(rows, self.resamples), "swapped": swapped}


def _stored(path: Path) -> dict[str, Any] | None:
    """A cell that is whole, with its predictions."""
    content, predictions = files.read_sealed(path), path.with_suffix(".jsonl")
    if content is None or not predictions.is_file():
        return None
    return content if files.file_digest(predictions) == content["predictions"] else None


def _result(spec: CellSpec, content: dict[str, Any], path: Path) -> Result:
    return Result(
        spec,
        content["primary"],
        {name: Interval(*values) for name, values in content["metrics"].items()},
        content["n"],
        np.array(content["scores"]),
        content["ids"],
        content["media"],
        {name: Interval(*values) for name, values in content["baselines"].items()},
        path.with_suffix(".jsonl"),
    )


def _shifted(name: str, severity: int, modality: Modality, array: np.ndarray, key: str) -> np.ndarray:
    from unival.data import shifts

    return shifts.apply(name, severity, modality, array, key)
