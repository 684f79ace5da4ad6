"""Intervals by the bootstrap: of a metric, and of the paired difference of two models on the same rows.

A resample is N rows drawn with replacement; it is held as how often each row was drawn, so that all resamples
of all statistics are one matrix product. Rows about one picture are not independent: where `groups` says what
each row is about, whole groups are drawn (the cluster bootstrap: Davison & Hinkley 1997, section 3.8). The
same seed and groups draw the same rows: differences are paired.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 2_000_000
"""Counts held at once."""

Reduce = Callable[[np.ndarray], np.ndarray]
Groups = Sequence[Hashable] | None
"""Of every row what it is about, as the key of its medium; None: every row stands for itself."""


class Interval(NamedTuple):
    """A metric and its interval."""

    value: float
    low: float
    high: float

    def rounded(self) -> "Interval":
        """As it stands in a table: six digits after the point."""
        return Interval(*(round(float(figure), 6) for figure in self))


def interval(
    scores_N: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    groups: Groups = None,
) -> Interval:
    """Mean of per-row scores with its percentile interval (Efron & Tibshirani 1993)."""
    scores_N2 = np.stack([scores_N, np.ones(len(scores_N))], axis=1)
    return statistic(scores_N2, _ratio, seed, resamples, level, groups)


def statistic(
    statistics_NS: np.ndarray,
    reduce: Reduce,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    groups: Groups = None,
) -> Interval:
    """A metric that is a function of sums over rows (corpus BLEU), with its interval.

    Args:
        statistics_NS: S statistics of each of N rows.
        reduce: from sums (..., S) to the metric (...).
        seed: which resamples.
        resamples: their number.
        level: share of the resamples inside the interval.
        groups: rows that are drawn together.
    """
    if not len(statistics_NS):
        raise ValueError("no rows to take an interval of")
    statistics_NS = np.asarray(statistics_NS, dtype=np.float64)
    drawn = _resamples(len(statistics_NS), seed, resamples, groups)
    values_R = np.concatenate([reduce(counts_RN @ statistics_NS) for counts_RN in drawn])
    low, high = np.quantile(values_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(reduce(statistics_NS.sum(axis=0))), float(low), float(high))


def difference(
    first_N: np.ndarray,
    second_N: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    groups: Groups = None,
) -> Interval:
    """Mean of `first_N - second_N`, scores of two models on the same rows, with its interval."""
    if first_N.shape != second_N.shape:
        raise ValueError(f"paired scores need the same rows: {first_N.shape} and {second_N.shape}")
    return interval(np.asarray(first_N, dtype=np.float64) - second_N, seed, resamples, level, groups)


def resampled_means(
    scores_N: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, groups: Groups = None
) -> np.ndarray:
    """Mean of per-row scores in each resample, (resamples,), for statistics of several means."""
    scores_N = np.asarray(scores_N, dtype=np.float64)
    drawn = _resamples(len(scores_N), seed, resamples, groups)
    return np.concatenate([counts_RN @ scores_N / counts_RN.sum(axis=1) for counts_RN in drawn])


def _ratio(sums: np.ndarray) -> np.ndarray:
    """A mean: the drawn scores over the number of drawn rows, which varies where groups differ in size."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def _resamples(rows: int, seed: int, resamples: int, groups: Groups) -> Iterator[np.ndarray]:
    """How often each row is drawn, (chunk, rows) at a time; independent of the chunking."""
    keys = range(rows) if groups is None else groups
    if len(keys) != rows:
        raise ValueError(f"{len(keys)} groups of {rows} rows: give one for every row")
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    group_N, total = np.array([numbers[key] for key in keys]), len(numbers)
    rng = np.random.default_rng((seed, total))
    chunk = max(_CHUNK // rows, 1)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(total, size=(size, total))
        drawn += np.arange(size)[:, None] * total
        counts_RG = np.bincount(drawn.ravel(), minlength=size * total).reshape(size, total)
        yield counts_RG.astype(np.float64)[:, group_N]
