"""Which of the paper's findings hold here: the claims of `conf/claims.yaml`, with effects and verdicts.

The rule, fixed before the results: the effect is the mean over the claim's comparisons of the difference as a
share of the better arm. A claim is **supported** where its effect is above `null` (0, or minus the margin),
**refuted** where it is below, if the test over seeds and media (after Holm's correction over all claims) and
the sign-flip test over seeds both reject `null` at 5 %; otherwise **undecided**. Fewer than SEEDS seeds give
no verdict. Comparisons of two models that are both no better than what needs no medium say nothing: they do
not count, and a claim that has no others is **not learned**.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unival.metrics.significance import SEEDS, Effect, detectable, effect, holm
from unival.report import words
from unival.study.claims import Claim
from unival.study.evidence import Contrast, Evidence, combined

NOT_TESTED, NOT_LEARNED = "not tested", "not learned"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim, and what is seen of it here. Effects are shares of the better arm's score."""

    id: str
    statement: str
    verdict: str
    """supported, refuted, undecided, not learned, not tested, or `<n> seeds: no verdict`."""
    effect: float | None
    low: float | None
    high: float | None
    n: int
    """Media behind it."""
    seeds: int
    p: float | None
    """Two-sided, over seeds and media; None with one seed."""
    p_holm: float | None
    """After Holm's correction over the claims."""
    detectable: float | None
    """The smallest effect that so many seeds decide in four studies of five; None with one seed."""
    margin: float
    paper_effect: float | None
    source: str
    evidence: str

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """Effect, low and high; None where there is no effect."""
        if self.effect is None or self.low is None or self.high is None:
            return None
        return self.effect, self.low, self.high


def check(claims: Mapping[str, Claim], evidence: Evidence) -> list[Verdict]:
    """All claims, in their order."""
    compared = {name: list(evidence.contrasts(claim)) for name, claim in claims.items()}
    effects = {
        name: measured for name, parts in compared.items() if (measured := combined(claims[name], parts))
    }
    tested = [name for name, measured in effects.items() if measured.seeds > 1]
    corrected = dict(zip(tested, holm([effects[name].p for name in tested]), strict=True))
    return [
        _verdict(name, claim, compared[name], effects.get(name), corrected.get(name), len(tested))
        for name, claim in claims.items()
    ]


def _verdict(
    name: str,
    claim: Claim,
    parts: Sequence[Contrast],
    measured: Effect | None,
    p_holm: float | None,
    tests: int,
) -> Verdict:
    several = measured is not None and measured.seeds > 1
    return Verdict(
        id=name,
        statement=claim.statement,
        verdict=_words(parts, measured, p_holm),
        effect=round(measured.value, 6) if measured else None,
        low=round(measured.low, 6) if measured else None,
        high=round(measured.high, 6) if measured else None,
        n=measured.media if measured else 0,
        seeds=measured.seeds if measured else 0,
        p=measured.p if measured and several else None,
        p_holm=p_holm,
        detectable=round(
            detectable(measured.seed_variance, measured.media_variance, measured.seeds, tests), 6
        )
        if measured and several
        else None,
        margin=claim.margin,
        paper_effect=claim.effect,
        source=claim.paper,
        evidence=_evidence(claim, parts),
    )


def _words(parts: Sequence[Contrast], measured: Effect | None, p_holm: float | None) -> str:
    if not parts:
        return NOT_TESTED
    if measured is None:
        return NOT_LEARNED
    if measured.seeds < SEEDS or p_holm is None:
        return f"{'one seed' if measured.seeds == 1 else f'{measured.seeds} seeds'}: no verdict"
    return measured.decide(p_holm)


def _evidence(claim: Claim, parts: Sequence[Contrast]) -> str:
    """Each comparison with its own interval, or how many there are of each kind."""
    if not parts:
        return "no such comparison in this run"
    counted = [(part, effect([part.paired], -claim.margin)) for part in parts if part.learned]
    if len(counted) > 6:
        gains = sum(one.low > one.null for _, one in counted)
        losses = sum(one.high < one.null for _, one in counted)
        text = f"{len(counted)} comparisons: clear gain {gains}, clear loss {losses}"
    else:
        text = "; ".join(f"{words.task(part.task)} {words.percent(one)}" for part, one in counted)
    missing = len(parts) - len(counted)
    left = f"{missing} of {len(parts)} comparisons are between models no better than blind" if missing else ""
    rest = len(claim.over) - len({part.number for part in parts})
    absent = f"{rest} of {len(claim.over)} comparisons are not in this run" if rest else ""
    return "; ".join(filter(None, [text, left, absent]))
