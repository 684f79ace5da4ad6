"""Scores of a model on one task and split, with intervals, and what can be had without looking at the media.

A cell of the results table is a model x a task x a split (or a shift of one). Per-row scores are kept, so
that two cells on the same rows can be compared in pairs (`unival.metrics.bootstrap.difference`).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unival.engine.batches.rows import Rows
from unival.engine.batches.views import Change
from unival.engine.inference.predict import Prediction, predict
from unival.errors import UserError
from unival.metrics.bootstrap import RESAMPLES, Interval, interval, statistic
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.record import Record
from unival.tasks import Task, Value

SEED = 0
"""Of the resamples and of the baselines' random choices; one for all cells, so that pairs match."""


@dataclass(frozen=True)
class Evaluation:
    """Results of one model on one task and split."""

    task: str
    primary: str
    """Name of the primary metric."""
    metrics: dict[str, Interval]
    """name -> (value, low, high)"""
    scores: dict[str, np.ndarray]
    """name -> score of every row, (n,)."""
    ids: list[str]
    predictions: list[Prediction] = field(repr=False)

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.ids)


def evaluate_cell(
    model: UnivalForConditionalGeneration,
    processor: UnivalProcessor,
    rows: Rows,
    *,
    batch_size: int = 128,
    corrupt: Change | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Predict the rows and score them; see `predict` for the arguments.

    Raises:
        UserError: a row without what predictions are compared with.
    """
    rows = _labelled(rows)
    predictions = predict(model, processor, rows, batch_size=batch_size, corrupt=corrupt)
    return score_cell(rows, predictions, resamples)


def score_cell(rows: Rows, predictions: Sequence[Prediction], resamples: int = RESAMPLES) -> Evaluation:
    """Score predictions that were made before.

    Raises:
        UserError: no rows, one without what predictions are compared with, or predictions of other rows.
    """
    task, records = rows.task, _labelled(rows).records
    ids = [prediction.id for prediction in predictions]
    if not records:
        raise UserError(f"task '{task.name}': no rows to evaluate")
    if ids != [record.id for record in records]:
        raise UserError(f"task '{task.name}': the predictions are of other rows than those to evaluate")
    values = [prediction.value for prediction in predictions]
    scores = task.scores(values, records)
    groups = media_of(records)
    metrics = {name: interval(score_N, SEED, resamples, groups=groups) for name, score_N in scores.items()}
    for name, (statistics_NS, reduce) in task.corpus(values, records).items():
        metrics[name] = statistic(statistics_NS, reduce, SEED, resamples, groups=groups)
    return Evaluation(task.name, task.primary, metrics, scores, ids, list(predictions))


def media_of(records: Sequence[Record]) -> list[str]:
    """What each row is about, `image=<key>`: resamples draw the rows about one medium together."""
    return [",".join(f"{kind}={key}" for kind, key in record.media()) or record.id for record in records]


def validation_score(
    model: UnivalForConditionalGeneration, processor: UnivalProcessor, rows: Rows
) -> dict[str, float]:
    """Means of the scores without intervals; `score` is the primary metric, which selects checkpoints."""
    rows = rows.listed()
    values = [prediction.value for prediction in predict(model, processor, rows)]
    scores = rows.task.scores(values, rows.records)
    means = {name: float(score_N.mean()) for name, score_N in scores.items()}
    return {**means, "score": means[rows.task.primary]}


def blind_baselines(rows: Rows, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """The primary metric of what needs no model.

    `constant`: the best prediction on the training rows per question form (for grounding: the best box);
    `majority`: the best for all rows, where the task has one; `random`, for grounding: a training row's box.
    """
    task, records = rows.task, _labelled(rows).records
    predictions: dict[str, Sequence[Value]] = {"constant": [task.constant(record) for record in records]}
    if task.config.constraint == "boxes":
        rng = np.random.default_rng(SEED)
        predictions["random"] = [task.random(record, rng) for record in records]
    else:
        predictions["majority"] = [task.majority] * len(records)
    return {name: _baseline(task, records, values, resamples) for name, values in predictions.items()}


def swapped_baseline(
    model: UnivalForConditionalGeneration,
    processor: UnivalProcessor,
    rows: Rows,
    *,
    batch_size: int = 128,
    resamples: int = RESAMPLES,
) -> Interval:
    """The primary metric of the model itself on media of other rows: what it has from the text alone."""
    task, rows = rows.task, rows.listed()
    predictions = predict(model, processor, swap_media(rows), batch_size=batch_size)
    values = [task.parse(p.text, record) for p, record in zip(predictions, rows.records, strict=True)]
    return _baseline(task, rows.records, values, resamples)


def swap_media(rows: Rows) -> Rows:
    """The rows with each medium replaced by another one of the split; no row keeps its own.

    Raises:
        UserError: all rows show the same medium.
    """
    modality = rows.task.config.modality
    keys = list(dict.fromkeys(getattr(record, modality) for record in rows.records))
    if len(keys) < 2:
        raise UserError(f"task '{rows.task.name}': cannot swap media: all rows show the same {modality}")
    order = np.random.default_rng(SEED).permutation(len(keys))
    cycle = {keys[here]: keys[there] for here, there in zip(order, np.roll(order, 1), strict=True)}
    return dataclasses.replace(
        rows,
        records=[
            dataclasses.replace(record, **{modality: cycle[getattr(record, modality)]})
            for record in rows.records
        ],
    )


def _labelled(rows: Rows) -> Rows:
    rows = rows.listed()
    unlabelled = next((record.id for record in rows.records if not record.labelled), None)
    if unlabelled is not None:
        raise UserError(
            f"task '{rows.task.name}': row '{unlabelled}' has nothing to compare a prediction with: rows of "
            "a test split without answers are for `unival score --model --submission`"
        )
    return rows


def _baseline(task: Task, records: Sequence[Record], values: Sequence[Value], resamples: int) -> Interval:
    score_N = task.scores(values, records)[task.primary]
    return interval(score_N, SEED, resamples, groups=media_of(records))
