"""Is one way of training better than another? Effects over seeds and test media, and verdicts on them.

Two arms, each trained with the same S seeds and tested on the same rows, differ on a row of medium g by

    difference = effect + seed_s + medium_g + rest_sg,

a layout of two crossed factors. The variance of its mean is (MS_seed + MS_medium - MS_rest) / (S G), a
component below zero counting as zero, with Satterthwaite's degrees of freedom: the mixed-effects form of the
test that treats both subjects and items as random (Clark 1973, "The language-as-fixed-effect fallacy").
Resampling seeds and media together (Owen & Eckles 2012) estimates the same variance, but its percentiles are
too narrow for the few seeds that anybody trains: `docs/statistics.md` has the coverage of both.
"""

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from unival.metrics.bootstrap import LEVEL

SEEDS = 6
"""Below this no verdict is given: a two-sided sign-flip test of n seeds cannot go below 2 / 2^n."""
POWER = 0.8
Decision = Literal["supported", "refuted", "undecided"]


class Paired(NamedTuple):
    """One comparison: the differences of two arms on the same rows with the same seeds."""

    differences_SN: np.ndarray
    """A line for every seed, a column for every row; in any unit."""
    media: Sequence[Hashable]
    """Of every row, the key of its medium; the same key in two comparisons is the same medium."""


class Effect(NamedTuple):
    """The mean of one or more comparisons, each counting the same."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, of the hypothesis that the effect is `null`."""
    flip_p: float
    """The same by the sign-flip test over seeds alone, which assumes no distribution."""
    null: float
    seeds: int
    media: int
    seed_variance: float
    """Of the effect of one seed on these media."""
    media_variance: float
    """Of the effect that chance in choosing the media leaves, however many seeds are trained."""

    def decide(self, p_holm: float) -> Decision:
        """The verdict: both tests must reject, `p_holm` after the correction for looking at several."""
        if max(p_holm, self.flip_p) > 1 - LEVEL:
            return "undecided"
        return "supported" if self.value > self.null else "refuted"


def effect(parts: Sequence[Paired], null: float = 0.0) -> Effect:
    """The mean difference over comparisons, with interval and tests.

    With one seed the interval covers the choice of media alone, and `flip_p` is 1.

    Args:
        parts: comparisons with the same seeds; their row-wise means count alike.
        null: the hypothesis to reject; minus the margin, where "no worse" is claimed.

    Raises:
        ValueError: no parts, no rows, or other seeds in one part than in another.
    """
    from scipy import stats  # here: settings are read without it

    contributions_SG, value = _contributions(parts)
    seeds, media = contributions_SG.shape
    of_seed_S, of_medium_G = contributions_SG.mean(axis=1), contributions_SG.mean(axis=0)
    rest_SG = contributions_SG - of_seed_S[:, None] - of_medium_G
    squares = [media * float(of_seed_S @ of_seed_S), seeds * float(of_medium_G @ of_medium_G)]
    squares.append(float((rest_SG * rest_SG).sum()))
    degrees = [seeds - 1, media - 1, (seeds - 1) * (media - 1)]
    ms_seed, ms_medium, ms_rest = (s / d if d else 0.0 for s, d in zip(squares, degrees, strict=True))
    terms = [max(ms_seed, ms_rest), max(ms_medium, ms_rest), -ms_rest]
    variance = sum(terms) / (seeds * media)
    spread = sum((term**2 / d for term, d in zip(terms, degrees, strict=True) if d), 0.0)
    freedom = max(sum(terms) ** 2 / spread, 1.0) if spread else 1.0
    error = variance**0.5
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(value - null) / error, freedom)) if error else float(value == null)
    return Effect(
        value, value - half, value + half, p, sign_flip(of_seed_S + value - null), null, seeds, media,
        seed_variance=max(ms_seed, ms_rest) / media,
        media_variance=max(ms_medium - ms_rest, 0.0) / (seeds * media),
    )  # fmt: skip


def over_seeds(values_S: Sequence[float] | np.ndarray) -> Effect:
    """The mean of a value of each seed, with Student's interval; of one seed the value alone."""
    return effect([Paired(np.asarray(values_S)[:, None], ["all"])])


def wins(parts: Sequence[Paired]) -> Effect:
    """The share of comparisons whose mean is above 0, a tie counting half, minus 1/2: over seeds alone.

    One seed says nothing of others: its interval is all there can be.

    Raises:
        ValueError: no parts, or other seeds in one part than in another.
    """
    signs_SC = np.sign([part.differences_SN.mean(axis=1) for part in parts]).T
    counted = over_seeds(signs_SC.mean(axis=1) / 2)
    low, high = (counted.low, counted.high) if counted.seeds > 1 else (-0.5, 0.5)
    media = len({key for part in parts for key in part.media})
    return counted._replace(low=max(low, -0.5), high=min(high, 0.5), media=media)


def sign_flip(effects_S: np.ndarray) -> float:
    """Two-sided p of the hypothesis that effects are symmetric around 0; exact up to 13 seeds."""
    from scipy import stats  # here: settings are read without it

    if len(effects_S) < 2:
        return 1.0
    test = stats.permutation_test(
        (effects_S,), np.mean, permutation_type="samples", vectorized=True, n_resamples=10_000, rng=0
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for looking at all of them (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.minimum(np.maximum.accumulate(np.asarray(p_values, float)[order] * factors), 1.0)
    return [float(value) for value in corrected[np.argsort(order, kind="stable")]]


def detectable(seed_variance: float, media_variance: float, seeds: int, tests: int) -> float:
    """The smallest effect that `seeds` seeds decide with probability POWER, one of `tests` under Holm.

    The correction is taken at its worst (the smallest of all p values), the seeds' degrees of freedom at
    seeds - 1: an effect of this size is decided at least so often.
    """
    from scipy import stats  # here: settings are read without it

    error = (seed_variance / seeds + media_variance) ** 0.5
    critical = stats.t.ppf(1 - (1 - LEVEL) / (2 * tests), seeds - 1)
    return float(error * (critical + stats.t.ppf(POWER, seeds - 1)))


def _contributions(parts: Sequence[Paired]) -> tuple[np.ndarray, float]:
    """What each seed and medium adds to the mean, around 0, (S, G); and the mean.

    A mean over rows whose number varies by medium is a ratio: it is taken to first order.
    """
    if not parts:
        raise ValueError("no comparison to take an effect of")
    seeds = len(parts[0].differences_SN)
    number: dict[Hashable, int] = {}
    for part in parts:
        if part.differences_SN.shape != (seeds, len(part.media)) or not part.differences_SN.size:
            raise ValueError(
                f"{part.differences_SN.shape} differences of {seeds} seeds and {len(part.media)} rows"
            )
        for key in part.media:
            number.setdefault(key, len(number))
    sums_SG, means = np.zeros((seeds, len(number))), []
    for differences_SN, media in parts:
        mean = float(differences_SN.mean())
        weight = len(number) / (len(parts) * len(media))
        columns = np.array([number[key] for key in media])
        for sums_G, differences_N in zip(sums_SG, differences_SN, strict=True):
            sums_G += np.bincount(columns, (differences_N - mean) * weight, len(number))
        means.append(mean)
    return sums_SG, float(np.mean(means))
