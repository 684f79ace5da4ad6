"""Studies whose truth is known: how often intervals cover it, and verdicts are wrong.

`python tests/metrics/simulation.py` prints the table of docs/statistics.md (1,000 studies a line).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unival.metrics.inference import Paired, effect, holm

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
    """Repeat a study of several claims."""
    rng = np.random.default_rng((seeds, media))
    covered, wrong, found = [], [], []
    for _ in range(repetitions):
        effects = [effect([comparison(rng, true, seeds, media, spread)]) for true in truths]
        corrected = holm([one.p for one in effects])
        verdicts = [one.decide(p) for one, p in zip(effects, corrected, strict=True)]
        covered.append([one.low <= true <= one.high for one, true in zip(effects, truths, strict=True)])
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
    """Print the table."""
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


if __name__ == "__main__":
    main()
