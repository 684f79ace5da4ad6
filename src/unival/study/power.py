"""What a number of seeds can see of the claims, at the variance between the seeds that are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unival.errors import UserError
from unival.metrics.significance import SEEDS, Effect, detectable
from unival.study.claims import Claim
from unival.study.evidence import Evidence, combined

MOST = 200
"""Seeds that are looked at for the paper's effect."""


@dataclass(frozen=True)
class Power:
    """A claim; effects are shares of the better arm's score."""

    claim: str
    seeds: int
    """That the variance is from."""
    detectable: list[float]
    """The smallest effect that each number of seeds decides in four studies of five."""
    paper: float | None
    """The paper's effect beyond the margin."""
    needed: int | None
    """Seeds that it needs; None: more than MOST, or no effect is given."""


def table(claims: Mapping[str, Claim], evidence: Evidence, seeds: Sequence[int]) -> list[Power]:
    """The claims that have been tested.

    Raises:
        UserError: the study has one seed, or one that counts, which says nothing of the variance.
    """
    if len(evidence.seeds) < 2:
        more = " ".join(evidence.left_out).replace("**", "") or "run more, `dvc exp run -S 'seeds=[1,2]'`"
        raise UserError(f"one seed says nothing of the variance between seeds: {more}")
    effects = {
        name: one for name, claim in claims.items() if (one := combined(claim, evidence.contrasts(claim)))
    }
    return [_power(name, claims[name], one, seeds, len(effects)) for name, one in effects.items()]


def _power(name: str, claim: Claim, effect: Effect, seeds: Sequence[int], tests: int) -> Power:
    def smallest(number: int) -> float:
        return detectable(effect.seed_variance, effect.media_variance, number, tests)

    paper = None if claim.effect is None else abs(claim.effect + claim.margin)
    numbers = range(SEEDS, MOST + 1)
    needed = next((number for number in numbers if paper is not None and smallest(number) <= paper), None)
    return Power(name, effect.seeds, [smallest(number) for number in seeds], paper, needed)
