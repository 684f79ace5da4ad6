"""What came out, in a few sentences, before anything else."""

from collections import Counter
from collections.abc import Iterator, Sequence

from unival.metrics.bootstrap import Interval
from unival.report import words
from unival.report.verdicts import Verdict
from unival.study.results import Results
from unival.study.tables import Standing


def sentences(study: Results, claims: Sequence[Verdict]) -> Iterator[str]:
    """Experts against what needs no medium, the best merge of each set of experts, and the claims."""
    experts = {task: study.tasks[task] for task in study.finetuned if task in study.tasks}
    if experts:
        above = [words.task(task) for task, row in experts.items() if row.low > row.baseline]
        rest = [words.task(task) for task, row in experts.items() if row.low <= row.baseline]
        yield (
            f"**{len(above)} of {len(experts)} experts** are clearly above what needs no medium"
            + (f"; not so: {', '.join(rest)}." if rest else ".")
        )
    merges = [
        row for row in study.leaderboard if row.model.startswith("merged/") and row.part == "id" and row.share
    ]
    # of one task more or less, shares say nothing about each other
    for tasks in sorted({row.tasks for row in merges}, key=lambda tasks: (-len(tasks.split()), tasks)):
        best = max((row for row in merges if row.tasks == tasks), key=_share)
        outside = [
            row for row in study.leaderboard
            if (row.model, row.tasks, row.part) == (best.model, tasks, "ood") and row.share
        ]  # fmt: skip
        yield (
            f"One model for {', '.join(map(words.task, tasks.split()))}: of those that merging makes "
            f"**{words.task(best.model.removeprefix('merged/'))}** keeps most, {_percent(best.share)} of the "
            "experts' scores" + (f" ({_percent(outside[0].share)} out of distribution)." if outside else ".")
        )
    counts = Counter(claim.verdict for claim in claims)
    yield f"Of the paper's claims: {'; '.join(_counted(*one) for one in counts.items())}."


def _counted(verdict: str, count: int) -> str:
    """`3 supported`, or `3 without a verdict (one seed)`."""
    seeds, separator, _ = verdict.partition(": no verdict")
    return f"{count} without a verdict ({seeds})" if separator else f"{count} {verdict}"


def _share(row: Standing) -> float:
    return row.share.value if row.share else 0.0


def _percent(share: Interval | None) -> str:
    value, low, high = (round(100 * figure) for figure in share or (0.0, 0.0, 0.0))
    return f"{value} % [{low}, {high}]"
