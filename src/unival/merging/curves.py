"""What a merge buys, from evaluations: barriers, synergy matrix, Pareto front, ID against OOD, intervals.

Everything here is arithmetic on scores: the caller evaluates (see `live.Interpolation`) and keeps per-row
scores, so that differences are paired and every number has an interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95% bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap(rows: np.ndarray, statistic: Any = None, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Percentile bootstrap over the first axis.

    Args:
        rows: (n, ...) per-row scores; the same rows are drawn for every column, so columns stay paired.
        statistic: from the mean over rows (shape ...) to a number; the mean itself by default.
    """
    measure = statistic or (lambda means: float(means))
    generator = np.random.default_rng(seed)
    n = len(rows)
    flat = rows.reshape(n, -1)
    draws = []
    for _ in range(resamples):
        counts = np.bincount(generator.integers(0, n, n), minlength=n)
        draws.append(measure((counts @ flat / n).reshape(rows.shape[1:])))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(measure(rows.mean(axis=0))), float(low), float(high))


def barrier(ts: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """(B, t): the largest excess of the loss over the chord between the ends, and where it is.

    B = max_t L(t) - (1 - t) L(0) - t L(1) (Frankle et al. 2020, arXiv 1912.05671); 0 at the ends, so B >= 0.
    For a score, where more is better, give its negative.
    """
    places = np.asarray(ts, dtype=float)
    order = np.argsort(places)
    places, values = places[order], np.asarray(losses, dtype=float)[order]
    if places[0] != 0 or places[-1] != 1:
        raise ValueError("a barrier needs both ends, t = 0 and t = 1")
    excess = values - ((1 - places) * values[0] + places * values[-1])
    top = int(np.argmax(excess))
    return float(excess[top]), float(places[top])


def barrier_interval(ts: Sequence[float], rows: np.ndarray, seed: int = 0) -> Interval:
    """The barrier of per-row losses (n, len(ts)) with its interval; rows are paired over t."""
    return bootstrap(rows, lambda means: barrier(ts, means)[0], seed)


def synergy_matrix(
    merged: Mapping[str, float], parents: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Per task: the merge minus the best parent and minus the mean of the parents.

    Args:
        merged: task -> score. parents: parent -> task -> score; more is better.
    """
    rows = []
    for task, value in sorted(merged.items()):
        scores = [parent[task] for parent in parents.values() if task in parent]
        if scores:
            mean = sum(scores) / len(scores)
            best = max(scores)
            rows.append({"task": task, "merged": value, "best_parent": best, "minus_best": value - best,
                         "minus_mean": value - mean})  # fmt: skip
    return rows


def normalized_table(
    scores: Mapping[str, Mapping[str, float]], experts: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Per model: absolute scores, each over the expert's own, their mean, worst, and the wins over
    experts.
    """
    rows = []
    for model, found in scores.items():
        shares = {task: value / experts[task] for task, value in found.items() if experts.get(task)}
        row: dict[str, Any] = {"model": model, **{f"absolute/{task}": value for task, value in found.items()}}
        row |= {f"normalized/{task}": share for task, share in shares.items()}
        if shares:
            values = list(shares.values())
            row |= {
                "mean": sum(values) / len(values),
                "worst": min(values),
                "wins": sum(v > 1 for v in values),
            }
        rows.append(row)
    return rows


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for looking at all of them (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other point beats in all objectives (more is better), in input order."""
    values = np.asarray(points, dtype=float)
    kept = []
    for i, point in enumerate(values):
        no_worse, better = (values >= point).all(axis=1), (values > point).any(axis=1)
        if not (no_worse & better).any():
            kept.append(i)
    return kept


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume that the points dominate above `reference` (more is better), any number of objectives."""
    origin = np.asarray(reference, dtype=float)
    values = np.asarray(points, dtype=float).reshape(-1, len(origin)) - origin
    return _volume(values[(values > 0).all(axis=1)])


def _volume(values: np.ndarray) -> float:
    if len(values) == 0:
        return 0.0
    if values.shape[1] == 1:
        return float(values.max())
    # Slices along the last axis, from the top: between two heights, the volume of what reaches above.
    heights = np.unique(values[:, -1])[::-1]
    lower = [*heights[1:], 0.0]
    return sum(
        (top - bottom) * _volume(values[values[:, -1] >= top][:, :-1])
        for top, bottom in zip(heights, lower, strict=True)
    )


def effective_robustness(
    identity: float, shifted: float, references: Sequence[tuple[float, float]], scale: str = "logit"
) -> float:
    """OOD score minus the OOD that a line through reference models predicts from the ID score.

    Args:
        identity, shifted: the model's ID and OOD scores. references: (ID, OOD) of at least two other models.
        scale: "logit" for accuracies (Taori et al. 2020, arXiv 2007.00644), "linear" for other metrics.
    """
    forward = _logit if scale == "logit" else float
    xs, ys = ([forward(value) for value in column] for column in zip(*references, strict=True))
    slope, intercept = np.polyfit(xs, ys, 1)
    predicted = slope * forward(identity) + intercept
    return shifted - (1 / (1 + math.exp(-predicted)) if scale == "logit" else float(predicted))


def _logit(share: float) -> float:
    share = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(share / (1 - share))
