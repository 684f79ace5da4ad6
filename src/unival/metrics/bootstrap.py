"""Intervals by the bootstrap: of a metric, and of the paired difference of two models on the same rows.

A resample is N rows drawn with replacement; it is held as how often each row was drawn, so that all resamples
of all statistics are one matrix product. The same seed and N draw the same rows: differences are paired.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 2_000_000
"""Counts held at once."""

Reduce = Callable[[np.ndarray], np.ndarray]


class Interval(NamedTuple):
    """A metric and its interval."""

    value: float
    low: float
    high: float


def interval(
    scores_N: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Mean of per-row scores with its percentile interval (Efron & Tibshirani 1993)."""
    return statistic(scores_N[:, None], _mean_of(len(scores_N)), seed, resamples, level)


def statistic(
    statistics_NS: np.ndarray,
    reduce: Reduce,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """A metric that is a function of sums over rows (corpus BLEU), with its interval.

    Args:
        statistics_NS: S statistics of each of N rows.
        reduce: from sums (..., S) to the metric (...).
        seed: which resamples.
        resamples: their number.
        level: share of the resamples inside the interval.
    """
    if not len(statistics_NS):
        raise ValueError("no rows to take an interval of")
    statistics_NS = np.asarray(statistics_NS, dtype=np.float64)
    values_R = np.concatenate(
        [reduce(counts_RN @ statistics_NS) for counts_RN in _resamples(len(statistics_NS), seed, resamples)]
    )
    low, high = np.quantile(values_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(reduce(statistics_NS.sum(axis=0))), float(low), float(high))


def difference(
    first_N: np.ndarray, second_N: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Mean of `first_N - second_N`, scores of two models on the same rows, with its interval."""
    if first_N.shape != second_N.shape:
        raise ValueError(f"paired scores need the same rows: {first_N.shape} and {second_N.shape}")
    return interval(np.asarray(first_N, dtype=np.float64) - second_N, seed, resamples, level)


def resampled_means(scores_N: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Mean of per-row scores in each resample, (resamples,), for statistics of several means."""
    scores_N = np.asarray(scores_N, dtype=np.float64)
    drawn = [counts_RN @ scores_N for counts_RN in _resamples(len(scores_N), seed, resamples)]
    return np.concatenate(drawn) / len(scores_N)


def _mean_of(rows: int) -> Reduce:
    return lambda sums: sums[..., 0] / rows


def _resamples(rows: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each row is drawn, (chunk, rows) at a time; independent of the chunking."""
    rng = np.random.default_rng((seed, rows))
    chunk = max(_CHUNK // rows, 1)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(rows, size=(size, rows))
        drawn += np.arange(size)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)
