"""Intervals by the bootstrap: of a metric, and of the paired difference of two models on the same rows.

Rows about one picture are not independent: where `groups` says what each row is about, whole groups are drawn
(the cluster bootstrap: Davison & Hinkley 1997, section 3.8). A resample is held as how often each group was
drawn, so that all resamples of all statistics are one matrix product with the sums of each group. The same
seed and number of groups draw the same ones: differences are paired.

N rows, G groups, R resamples, S statistics.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
"""Share of the resamples inside an interval."""
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
    scores_N: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, groups: Groups = None
) -> Interval:
    """Mean of per-row scores with its percentile interval (Efron & Tibshirani 1993)."""
    return statistic(_counted(scores_N), _ratio, seed, resamples, groups)


def statistic(
    statistics_NS: np.ndarray,
    reduce: Reduce,
    seed: int = 0,
    resamples: int = RESAMPLES,
    groups: Groups = None,
) -> Interval:
    """A metric that is a function of sums over rows (corpus BLEU), with its interval.

    Args:
        statistics_NS: S statistics of each of N rows.
        reduce: from sums (..., S) to the metric (...).
        seed: which resamples.
        resamples: their number.
        groups: rows that are drawn together.
    """
    if not len(statistics_NS):
        raise ValueError("no rows to take an interval of")
    statistics_NS = np.asarray(statistics_NS, dtype=np.float64)
    sums_GS = _by_group(statistics_NS, groups)
    values_R = np.concatenate(
        [reduce(drawn_RG @ sums_GS) for drawn_RG in _resamples(len(sums_GS), seed, resamples)]
    )
    low, high = np.quantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(reduce(statistics_NS.sum(axis=0))), float(low), float(high))


def difference(
    first_N: np.ndarray,
    second_N: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
    groups: Groups = None,
) -> Interval:
    """Mean of `first_N - second_N`, scores of two models on the same rows, with its interval."""
    if first_N.shape != second_N.shape:
        raise ValueError(f"paired scores need the same rows: {first_N.shape} and {second_N.shape}")
    return interval(np.asarray(first_N, dtype=np.float64) - second_N, seed, resamples, groups)


def resampled_means(
    scores_N: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, groups: Groups = None
) -> np.ndarray:
    """Mean of per-row scores in each resample, (resamples,), for statistics of several means."""
    sums_G2 = _by_group(_counted(scores_N), groups)
    return np.concatenate(
        [_ratio(drawn_RG @ sums_G2) for drawn_RG in _resamples(len(sums_G2), seed, resamples)]
    )


def _counted(scores_N: np.ndarray) -> np.ndarray:
    """(N, 2): each row's score, and 1."""
    return np.stack([scores_N, np.ones(len(scores_N))], axis=1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    """A mean: the drawn scores over the number of drawn rows, which varies where groups differ in size."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def _by_group(statistics_NS: np.ndarray, groups: Groups) -> np.ndarray:
    """(G, S): sums over the rows of each group, in the order in which groups appear."""
    if groups is None:
        return statistics_NS
    if len(groups) != len(statistics_NS):
        raise ValueError(f"{len(groups)} groups of {len(statistics_NS)} rows: give one for every row")
    numbers = {key: number for number, key in enumerate(dict.fromkeys(groups))}
    sums_GS = np.zeros((len(numbers), statistics_NS.shape[1]))
    np.add.at(sums_GS, [numbers[key] for key in groups], statistics_NS)
    return sums_GS


def _resamples(total: int, seed: int, resamples: int) -> Iterable[np.ndarray]:
    """How often each group is drawn, (chunk, G) at a time; few enough are kept for the next metric."""
    chunks = _kept if total * resamples <= _CHUNK else _drawn
    return chunks(total, seed, resamples)


def _drawn(total: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """As `_resamples`; independent of the chunking."""
    rng = np.random.default_rng((seed, total))
    chunk = max(_CHUNK // total, 1)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(total, size=(size, total))
        drawn += np.arange(size)[:, None] * total
        yield np.bincount(drawn.ravel(), minlength=size * total).reshape(size, total).astype(np.float64)


@lru_cache(maxsize=8)
def _kept(total: int, seed: int, resamples: int) -> tuple[np.ndarray, ...]:
    return tuple(_drawn(total, seed, resamples))
