"""Studies whose truth is known: how often intervals cover it, and verdicts are wrong.

`python tests/metrics/simulation.py` prints the tables of docs/statistics.md (1,000 studies a line).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from unival.metrics.significance import Effect, Paired, effect, holm, wins

TRUTHS = (0.0,) * 6 + (0.1,) * 4
"""The true effects of the claims of a study."""


class Rates(NamedTuple):
    """Shares of studies, or of the claims of all studies."""

    covered: float
    """Claims whose interval has the truth in it."""
    wrong: float
    """Claims that are supported or refuted where there is nothing, or the opposite."""
    any_wrong: float
    """Studies with such a claim."""
    found: float
    """Claims that are supported, of those with an effect."""


def comparison(rng: np.random.Generator, true: float, seeds: int, media: int, spread: float) -> Paired:
    """Two arms whose rows are right or wrong: seed and medium move the chance of being right."""
    base_N = rng.uniform(0.25, 0.75, media)
    shift_SN = true + rng.normal(0, spread, (seeds, 1)) + rng.normal(0, 0.1, media)
    right = [rng.random((seeds, media)) < np.clip(base_N + half * shift_SN, 0, 1) for half in (0.5, -0.5)]
    return Paired(right[0].astype(float) - right[1], range(media))


def simulate(
    repetitions: int, seeds: int, media: int, spread: float, truths: Sequence[float] = TRUTHS
) -> Rates:
    """Repeat a study of several claims about differences."""

    def draw(rng: np.random.Generator, true: float) -> tuple[Effect, float]:
        return effect([comparison(rng, true, seeds, media, spread)]), true

    return repeat(repetitions, np.random.default_rng((seeds, media)), truths, draw)


def simulate_wins(
    repetitions: int, seeds: int, comparisons: int, shared: float, truths: Sequence[float] = TRUTHS
) -> Rates:
    """Repeat a study of several claims about wins.

    A seed moves every comparison by a standard normal variable, the part `shared` of whose variance is
    the seed's alone: the averages of a seed have experts in common.
    """

    def draw(rng: np.random.Generator, true: float) -> tuple[Effect, float]:
        half = rng.normal(0, 1, comparisons // 2)
        mean_C = 5 * true + np.concatenate([half, -half])  # without an effect as many are won as lost
        seed_S, rest_SC = rng.normal(0, 1, (seeds, 1)), rng.normal(0, 1, (seeds, len(mean_C)))
        differences_SC = mean_C + shared**0.5 * seed_S + (1 - shared) ** 0.5 * rest_SC
        truth = float(stats.norm.cdf(mean_C).mean()) - 0.5 if true else 0.0
        return wins([Paired(one_S[:, None], ["all"]) for one_S in differences_SC.T]), truth

    return repeat(repetitions, np.random.default_rng((seeds, comparisons)), truths, draw)


def repeat(
    repetitions: int,
    rng: np.random.Generator,
    truths: Sequence[float],
    draw: Callable[[np.random.Generator, float], tuple[Effect, float]],
) -> Rates:
    """Rates of studies whose claims `draw` gives: what was measured, and what is true."""
    covered, wrong, found = [], [], []
    for _ in range(repetitions):
        claims = [draw(rng, true) for true in truths]
        corrected = holm([one.p for one, _ in claims])
        verdicts = [one.decide(p) for (one, _), p in zip(claims, corrected, strict=True)]
        covered.append([one.low <= true <= one.high for one, true in claims])
        wrong.append(
            [
                verdict == "refuted" or (verdict == "supported" and not true)
                for verdict, true in zip(verdicts, truths, strict=True)
            ]
        )
        found.append([verdict == "supported" for verdict, true in zip(verdicts, truths, strict=True) if true])
    return Rates(*(float(np.mean(one)) for one in (covered, wrong, np.any(wrong, axis=1), found)))


def bootstrapped(repetitions: int, seeds: int, media: int, spread: float, true: float = 0.1) -> float:
    """Coverage of the percentiles of resampled seeds and media."""
    rng, covered = np.random.default_rng((seeds, media)), []
    for _ in range(repetitions):
        values_SN = comparison(rng, true, seeds, media, spread).differences_SN
        counts_RS = rng.multinomial(seeds, [1 / seeds] * seeds, 500)
        counts_RN = rng.multinomial(media, [1 / media] * media, 500)
        means_R = np.einsum("rs,sn,rn->r", counts_RS, values_SN, counts_RN, optimize=True) / (seeds * media)
        low, high = np.quantile(means_R, [0.025, 0.975])
        covered.append(low <= true <= high)
    return float(np.mean(covered))


def main() -> None:
    """Print the tables."""
    print(
        "| seeds | media | spread | covered | bootstrap | wrong claims | studies with one | 0.1 supported |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for seeds in (3, 6, 10):
        for media in (200, 500):
            for spread in (0.03, 0.06, 0.1):
                rates = simulate(1000, seeds, media, spread)
                other = bootstrapped(1000, seeds, media, spread)
                figures = [f"{100 * rate:.1f} %" for rate in (rates.covered, other, *rates[1:])]
                print(f"| {seeds} | {media} | {spread} |", " | ".join(figures), "|", flush=True)
    print("| seeds | comparisons | shared | covered | wrong claims | studies with one | supported |")
    print("|---|---|---|---|---|---|---|")
    for seeds in (6, 10):
        for comparisons in (4, 28):
            for shared in (0.2, 0.8):
                rates = simulate_wins(1000, seeds, comparisons, shared)
                figures = [f"{100 * rate:.1f} %" for rate in rates]
                print(f"| {seeds} | {comparisons} | {shared} |", " | ".join(figures), "|", flush=True)


if __name__ == "__main__":
    main()
