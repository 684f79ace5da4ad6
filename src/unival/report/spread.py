"""The spread of figures, on the page: variance by task, verdicts on other kernels, and what that is worth.

Verdicts are compared twice: those of the whole study with some of its seeds computed on other kernels, and
the effects of these seeds alone, which are too few for a verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unival.report import verdicts, words
from unival.report.page import Block, DataTable, Text
from unival.report.verdicts import Verdict
from unival.study.claims import Claim
from unival.study.evidence import Evidence
from unival.study.results import Results
from unival.study.variance import Variance

COLUMNS = ("claim", "study", "with other kernels", "these seeds", "on other kernels")


@dataclass(frozen=True)
class Kernels:
    """A claim here and on other kernels of the processor."""

    study: Verdict
    """Of all seeds."""
    mixed: Verdict
    """The same, some seeds on other kernels."""
    here: Verdict
    """Of these seeds alone."""
    there: Verdict
    """Of these seeds alone, on other kernels."""

    @property
    def flipped(self) -> bool:
        """Whether something clear on one kind of kernels is clearly the opposite on the other."""
        pairs = ((self.study, self.mixed), (self.here, self.there))
        return any({side(one), side(other)} == {"above", "below"} for one, other in pairs)

    def cells(self) -> list[str]:
        """A line of COLUMNS."""
        return [self.study.id, self.study.verdict, self.mixed.verdict, *map(effect, (self.here, self.there))]


def effect(verdict: Verdict) -> str:
    """Effect and interval, or why there is none."""
    return words.percent(verdict.interval) if verdict.interval else verdict.verdict


def side(verdict: Verdict) -> str:
    """Where an effect clearly is: by its verdict, of fewer seeds by its interval."""
    decided = {"supported": "above", "refuted": "below"}
    if verdict.verdict in (*decided, "undecided") or verdict.interval is None:
        return decided.get(verdict.verdict, "")
    _, low, high = verdict.interval
    return "above" if low > -verdict.margin else "below" if high < -verdict.margin else ""


def kernels(claims: Mapping[str, Claim], evidence: Evidence) -> list[Kernels]:
    """Every claim; nothing where no seed was run on other kernels."""
    if not evidence.kernels:
        return []
    here = {number: evidence.seeds[number] for number in evidence.kernels}
    of_seeds = [evidence.seeds, {**evidence.seeds, **evidence.kernels}, here, evidence.kernels]
    checked = [verdicts.check(claims, replace(evidence, seeds=seeds)) for seeds in of_seeds]
    return [Kernels(*of_claim) for of_claim in zip(*checked, strict=True)]


def blocks(study: Results, variances: Sequence[Variance], compared: Sequence[Kernels]) -> list[Block]:
    """Where the spread of scores comes from, and what figures of these kernels are worth."""
    if not variances:
        return [Text(f"One seed says nothing about the spread between seeds. {_computed(study)}")]
    rows = [
        [words.task(row.task), *map(words.number, (row.value, row.seed, row.medium, row.shift, row.kernels))]
        for row in variances
    ]
    text = (
        "Standard deviations of the score of the expert (or else the pretrained model), over "
        f"{variances[0].seeds} seeds. **Seed**: between trainings, on these media. **Media**: of the "
        "mean over seeds, between choices of media. **Shift**: between shifts of the data. "
        f"**Kernels**: the same seed on other kernels of the processor. {_computed(study)}"
    )
    made: list[Block] = [
        DataTable(("task", "mean", "seed", "media", "shift", "kernels"), rows),
        Text(text),
    ]
    if compared:
        flipped = [words.task(one.study.id) for one in compared if one.flipped]
        verdict = f"**Flipped**: {', '.join(flipped)}." if flipped else "No claim turns into its opposite."
        again = "1 seed" if compared[0].here.seeds == 1 else f"{compared[0].here.seeds} seeds"
        made += [
            Text(f"{again}, trained again on other kernels of the processor. {verdict}"),
            DataTable(COLUMNS, [one.cells() for one in compared], numbers=False),
        ]
    return made


def _computed(study: Results) -> str:
    machines = [run.machine for run in study.runs.values()]
    ran = sorted({machine["instructions"] for machine in machines if "instructions" in machine})
    return (
        f"Computed with {' and '.join(ran) or 'unknown'} kernels. Other kernels round sums in another order, "
        "and training then diverges as with another seed: a figure of one seed is one draw, on any "
        "machine. `unival kernels` trains seeds on other kernels and compares the verdicts."
    )
