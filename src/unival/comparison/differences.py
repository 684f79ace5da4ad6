"""What follows from results side by side: parameters, scores, flips, curves, time, a verdict.

The first side is the baseline; every other one is compared with it. Differences are paired by row and
medium, of groups of seeds also by seed (`unival.metrics.significance.effect`). `SideBySide.left_out` names
what cannot be compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unival import config
from unival.comparison import paired
from unival.comparison.paired import Flip, Measured
from unival.comparison.sides import Key, Member, Side, limited
from unival.errors import UserError
from unival.metrics.bootstrap import Interval
from unival.metrics.significance import holm
from unival.report import words
from unival.study import row_scores
from unival.study.tables import Curve

ALPHA = 0.05
"""Chance that a verdict calls any difference clear where nothing differs."""
TEST = ("test", "val")
"""Splits that are like the training data: the verdict hangs on these."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A line of `cells.csv`: one metric of one cell."""

    side: str
    against: str
    """The baseline."""
    model: str
    """Of a study's many; empty: the sides are models."""
    task: str
    split: str
    """With corruption and severity where there is one: `test-blur-3`."""
    metric: str
    primary: bool
    """Whether this is the metric that stands for the task."""
    before: float
    """Of the baseline, on the rows that both have."""
    after: float
    difference: Interval
    """After minus before; of several seeds the interval covers seeds and media, else media alone."""
    p: float
    """Two-sided, of no difference."""
    p_holm: float | None
    """After Holm's correction over the primary metrics in distribution; None: not one of these, or `same`."""
    n: int
    """Rows."""
    seeds: int
    """Pairs of seeds."""

    @property
    def same(self) -> bool:
        """Whether no row has another score: that is no test, for it could not have come out otherwise."""
        return self.difference.low == self.difference.high == 0

    @property
    def clear(self) -> bool:
        """Whether the verdict calls it a difference."""
        return self.p_holm is not None and self.p_holm <= ALPHA


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A line of `parameters.csv`: a value of the resolved configurations that is not the same in all."""

    key: str
    processes: str
    """Which of them have these values, a space between them."""
    values: tuple[str, ...]
    """Of each side; `–`: it has no such key."""


@dataclass(frozen=True)
class SideBySide:
    """Everything that is shown."""

    sides: list[Side]
    parameters: list[Parameter]
    differences: list[Difference]
    flips: list[Flip]
    curves: list[tuple[str, str, dict[str, Curve]]]
    """(process, figure, side -> curve) of what differs."""
    left_out: list[str]
    """What is in one of them alone, or means something else."""
    verdicts: list[str]
    """A sentence or more for each side but the first."""


def compare(sides: Sequence[Side]) -> SideBySide:
    """All of them against the first.

    Raises:
        UserError: fewer than two, or models beside other models' studies.
    """
    sides = limited(list(sides))
    if len(sides) < 2:
        raise UserError(f"{sides[0].name}: one result alone: name at least two")
    left_out: dict[str, list[str]] = {}
    differences: list[Difference] = []
    flips: list[Flip] = []
    for other in sides[1:]:
        for measured, flipped in _cells(sides[0], other, left_out):
            differences += measured
            flips += flipped
    differences = _corrected(differences)
    parameters, curves = _parameters(sides, left_out), _curves(sides, left_out)
    return SideBySide(
        sides,
        parameters,
        differences,
        flips,
        curves,
        [f"{what}: {_some(places)}" for what, places in left_out.items()],
        [_verdict(differences, sides[0], other) for other in sides[1:]],
    )


def _cells(
    first: Side, second: Side, left_out: dict[str, list[str]]
) -> Iterator[tuple[list[Difference], list[Flip]]]:
    """Of every cell that both have its metrics, and the rows that flipped in distribution."""
    pairs = _pairs(first, second, left_out)
    known = [[_named(member) for member in column] for column in zip(*pairs, strict=True)]
    repeats = _repeats(first, second, left_out)
    shared = [key for key in known[0][0] if all(key in cells for files in known for cells in files)]
    for side, files in zip((first, second), known, strict=True):
        alone = sorted({key for cells in files for key in cells} - set(shared))
        if alone:
            left_out.setdefault(f"only in {side.name}", []).extend(map(place, alone))
    for key in shared:
        if why := _other_data(pairs, key):
            left_out.setdefault(why, []).append(place(key))
            continue
        before, after = ([paired.read(cells[key]) for cells in files] for files in known)
        for tables in repeats:
            one, other = (
                table.get((side.model or key[0], *key[1:]))
                for side, table in zip((first, second), tables, strict=True)
            )
            if one and other:
                before.append(paired.repeated(before[0], one))
                after.append(paired.repeated(after[0], other))
        cell = paired.cell(before, after)
        if cell.ids:
            measured = list(cell.measured())
            known_metric = first.members[0].metrics.get(key[1])
            names = [one.metric for one in measured]
            primary = known_metric if known_metric in names else next(iter(names), "")
            flipped = list(_flips(first, second, key, cell, primary)) if key[2] in TEST else []
            yield [_difference(first, second, key, one, primary) for one in measured], flipped
        else:
            left_out.setdefault("no row in common", []).append(place(key))
        for why in cell.left_out:
            left_out.setdefault(why, []).append(place(key))


def _pairs(first: Side, second: Side, left_out: dict[str, list[str]]) -> list[tuple[Member, Member]]:
    """Sources files by files: those of equal seeds, else in their order; some may be left over."""
    by_seed = [
        {str(sorted(member.seeds)): member for member in side.members if member.seeds}
        for side in (first, second)
    ]
    shared = [seed for seed in by_seed[0] if seed in by_seed[1]]
    whole = all(len(known) == len(t.members) for known, t in zip(by_seed, (first, second), strict=True))
    if whole and len(first.members) > 1 and shared:
        pairs = [(by_seed[0][seed], by_seed[1][seed]) for seed in shared]
    else:
        pairs = list(zip(first.members, second.members, strict=False))
    used = {member.name for pair in pairs for member in pair}
    for member in (*first.members, *second.members):
        if member.name not in used:
            left_out.setdefault("seeds without a partner", []).append(member.name)
    return pairs


Scores = dict[Key, tuple[str, dict[str, float]]]
"""Cell -> its primary metric, and the score of every row."""


def _repeats(first: Side, second: Side, left_out: dict[str, list[str]]) -> list[tuple[Scores, Scores]]:
    """Scores of the other seeds that two studies have both."""
    known = [side.members[0].repeats for side in (first, second)]
    for side, own, others in zip((first, second), known, known[::-1], strict=True):
        if alone := [f"{side.name}: seed {seed}" for seed in own if seed not in others]:
            left_out.setdefault("seeds without a partner", []).extend(alone)
    return [(_scores(known[0][seed]), _scores(known[1][seed])) for seed in known[0] if seed in known[1]]


def _scores(path: Path) -> Scores:
    groups = row_scores.read(path).groupby(["model", "task", "split"], observed=True)
    return {
        key: (table["metric"].iloc[0], dict(zip(table["row"], table["score"], strict=True)))
        for key, table in groups
    }


def _named(member: Member) -> dict[Key, Any]:
    """Cells by what they are; of one model the name does not matter."""
    return {("" if member.model else key[0], *key[1:]): path for key, path in member.cells.items()}


def _other_data(pairs: Sequence[tuple[Member, Member]], key: Key) -> str:
    """Why rows of equal ids are other rows; empty where they are the same, as far as is known."""
    corrupted = key[2].split("-")[0]
    for pair in pairs:
        digests = [member.digests.get(key[2]) or member.digests.get(corrupted) for member in pair]
        if None not in digests and digests[0] != digests[1]:
            return f"other data (digests {digests[0]} and {digests[1]})"
    return ""


def place(key: Key) -> str:
    """A cell in short: of an expert on its own test rows the task alone."""
    model, task, split = key
    parts = ("" if model == f"finetune/{task}" else model, task, "" if split == "test" else split)
    return " ".join(filter(None, parts))


def _some(places: Sequence[str]) -> str:
    shown = ", ".join(places[:4])
    return shown if len(places) <= 4 else f"{shown} and {len(places) - 4} more"


def _flips(first: Side, second: Side, key: Key, cell: paired.PairedCell, metric: str) -> Iterator[Flip]:
    for id_, before, after in cell.flips(metric):
        rows = cell.first[0][id_], cell.second[0][id_]
        yield Flip(
            side=second.name,
            against=first.name,
            model=key[0],
            task=key[1],
            split=key[2],
            id=id_,
            asked=rows[0].get("text", ""),
            expected=paired.expected(rows[0]),
            before=paired.said(rows[0]),
            after=paired.said(rows[1]),
            score_before=round(before, 6),
            score_after=round(after, 6),
        )


def _difference(first: Side, second: Side, key: Key, one: Measured, primary: str) -> Difference:
    effect = one.effect
    return Difference(
        side=second.name,
        against=first.name,
        model=key[0],
        task=key[1],
        split=key[2],
        metric=one.metric,
        primary=one.metric == primary,
        before=round(one.before, 6),
        after=round(one.after, 6),
        difference=Interval(effect.value, effect.low, effect.high).rounded(),
        p=effect.p,
        p_holm=None,
        n=one.rows,
        seeds=effect.seeds,
    )


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    """With the correction over all primary metrics in distribution, of all sides, where any row differs."""
    tested = [one.primary and one.split in TEST and not one.same for one in differences]
    corrected = iter(holm([one.p for one, is_one in zip(differences, tested, strict=True) if is_one]))
    return [
        replace(one, p_holm=next(corrected)) if is_one else one
        for one, is_one in zip(differences, tested, strict=True)
    ]


def _parameters(sides: Sequence[Side], left_out: dict[str, list[str]]) -> list[Parameter]:
    """Values that differ; processes with the same difference stand together."""
    flat = [_flat(side) for side in sides]
    shared = [name for name in flat[0] if all(name in one for one in flat)]
    for side, one in zip(sides, flat, strict=True):
        if alone := [name for name in one if name not in shared]:
            left_out.setdefault(f"configurations only in {side.name}", []).extend(alone)
        if not one:
            left_out.setdefault("no configuration", []).append(side.name)
    differing: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in shared:
        for key in dict.fromkeys(key for one in flat for key in one[name]):
            values = tuple(one[name].get(key, "–") for one in flat)
            if len(set(values)) > 1:
                differing.setdefault((key, values), []).append(name)
    return [
        Parameter(key=key, processes=" ".join(names), values=values)
        for (key, values), names in differing.items()
    ]


def _flat(side: Side) -> dict[str, dict[str, str]]:
    """Process -> dotted key -> value as text; of a group of seeds all values that its members have."""
    by_process: dict[str, dict[str, list[str]]] = {}
    for member in side.members:
        for name, values in member.configs.items():
            known = by_process.setdefault(name, {})
            for key, value in config.flat(values).items():
                text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                if text not in known.setdefault(key, []):
                    known[key].append(text)
    return {name: {key: " | ".join(texts) for key, texts in one.items()} for name, one in by_process.items()}


def _curves(sides: Sequence[Side], left_out: dict[str, list[str]]) -> list[tuple[str, str, dict[str, Curve]]]:
    """Losses and validation scores of every process that at least two have, where they are not the same."""
    differing = []
    known = [(side.name, side.members[0].curves) for side in sides]
    for process in dict.fromkeys(process for _, curves in known for process in curves):
        configs = [side.members[0].configs.get(process, {}) for side in sides]
        items = sorted({str(one["item"]) for one in configs if one.get("item")})
        if len(items) > 1:
            left_out.setdefault("learning curves, of other tasks or phases", []).extend(items)
            continue
        for figure in ("train/loss", "val/score"):
            lines = {
                name: [row for row in curves[process] if row.get(figure) is not None]
                for name, curves in known
                if process in curves
            }
            lines = {name: rows for name, rows in lines.items() if rows}
            drawn = {str([(row["step"], row[figure]) for row in rows]) for rows in lines.values()}
            if len(lines) > 1 and len(drawn) > 1:
                differing.append((process, figure, lines))
    return differing


def _verdict(differences: Sequence[Difference], first: Side, other: Side) -> str:
    """What can be said of one side against the baseline, and how often such words are wrong."""
    own = [one for one in differences if one.side == other.name and one.primary and one.split in TEST]
    tested = [one for one in own if one.p_holm is not None]
    same = len(own) - len(tested)
    if not tested:
        why = f"no row of {same} cells has another score" if same else "no score of both can be compared"
        empty = [side.name for side in (first, other) if not any(one.cells for one in side.members)]
        if empty and not same:
            why += f": none in {' and '.join(empty)}; experiments, models and runs of `evaluate` have them"
        return f"**{other.name}** against **{first.name}**: {why}."
    equal = f"; no row of {same} more cells has another score" if same else ""
    better, worse = (
        [one for one in tested if one.clear and (one.difference.value > 0) == up] for up in (True, False)
    )
    family = sum(one.p_holm is not None for one in differences)
    seeds = min(one.seeds for one in tested)
    others = ", those of the study that were not named among them," if len(first.members) < seeds else ""
    scope = (
        f"Intervals cover {seeds} seeds{others} and the choice of test media."
        if seeds > 1
        else "One seed each: this is about these particular models on such media, not about how to train."
    )
    return (
        f"**{other.name}** against **{first.name}**: clearly better in {_list(better)}, clearly worse in "
        f"{_list(worse)}, no clear difference in {len(tested) - len(better) - len(worse)} of {len(tested)} "
        f"comparisons{equal}. Clear means p ≤ {ALPHA} after Holm's correction over {family}: if nothing "
        f"differs, the chance of any false call is {100 * ALPHA:g} %, while {len(tested) / 20:.1f} of the "
        f"uncorrected 95 % intervals would exclude zero. {scope}"
    )


def _list(differences: Sequence[Difference]) -> str:
    """How many, and the largest of them."""
    largest = sorted(differences, key=lambda one: -abs(one.difference.value))[:3]
    shown = [f"{place((one.model, one.task, ''))} {words.change(one.difference)}" for one in largest]
    return f"{len(differences)}" + (
        f" ({', '.join(shown)}{', …' if len(differences) > 3 else ''})" if shown else ""
    )
