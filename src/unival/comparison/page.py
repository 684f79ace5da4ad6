"""A comparison as a document: one HTML page for people, who may be offline or on a phone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from unival import config
from unival.comparison import paired
from unival.comparison.differences import TEST, Difference, SideBySide, place
from unival.comparison.paired import RIGHT, Flip
from unival.comparison.sides import Key, Side
from unival.data.store import MediaStore
from unival.engine.inference.predictions import PredictedRow
from unival.errors import UserError
from unival.files import atomic
from unival.report import charts, gallery, words
from unival.report.page import (
    Block,
    DataTable,
    Document,
    Figure,
    Figures,
    Fold,
    Points,
    Section,
    Text,
    TonedCell,
)

SHOWN = 2
"""Rows of a cell that are shown of those won, and of those lost."""
PICTURED = 32
"""Rows that are shown in all: the page stays small."""


def document(compared: SideBySide, figures: Path) -> Document:
    """The page; pictures are written into `figures`."""
    names = ", ".join(side.name for side in compared.sides[1:])
    lead = (
        f"`{names}` against `{compared.sides[0].name}`. Differences are paired by row and medium, with 95 % "
        "intervals; positive is better than the baseline where more is better, as in all metrics here."
    )
    curves = [
        figure
        for process, key, lines in compared.curves
        for figure in charts.overlay(lines, key, process, figures)
    ]
    return Document(
        f"{compared.sides[0].name} and {names}",
        lead,
        [
            Section("Verdict", [Points(compared.verdicts)]),
            Section("Parameters that differ", _parameters(compared)),
            Section("Scores", list(_scores(compared))),
            Section("Rows that flipped", list(_flips(compared, figures))),
            Section("Learning curves", [Figures(curves)] if curves else [Text("None that differs.")]),
            Section("Time and memory", _costs(compared.sides)),
            Section("Not compared", [Points(compared.left_out or ["Nothing was left out."])]),
        ],
    )


def _parameters(compared: SideBySide) -> list[Block]:
    if not compared.parameters:
        return [Text("None among the resolved configurations that all have.")]
    rows = [[f"`{one.key}`", *one.values, one.processes] for one in compared.parameters]
    return [DataTable(["parameter", *(side.name for side in compared.sides), "of"], rows, numbers=False)]


def _scores(compared: SideBySide) -> Iterator[Block]:
    """Primary metrics in distribution, then all others, which open on a click."""
    for side in compared.sides[1:]:
        own = [one for one in compared.differences if one.side == side.name]
        if not own:
            yield Text(f"`{side.name}`: no cell that both have.")
            continue
        first = [one for one in own if one.p_holm is not None]
        same = [one for one in own if one.primary and one.p_holm is None and one.split in TEST]
        shifted = [one for one in own if one.primary and one.split not in TEST]
        rest = [one for one in own if not one.primary]
        yield Text(f"**{side.name}**, primary metrics on the test split; p after Holm's correction:")
        yield _table(first, compared.sides[0].name, side.name)
        if same:
            yield Text(f"No row has another score: {', '.join(_place(one) for one in same)}.")
        if shifted:
            yield Fold(
                f"{len(shifted)} cells out of distribution",
                [_table(shifted, compared.sides[0].name, side.name)],
            )
        if rest:
            yield Fold(f"{len(rest)} other metrics", [_table(rest, compared.sides[0].name, side.name)])


def _table(lines: Sequence[Difference], before: str, after: str) -> DataTable:
    rows: list[list[str | TonedCell]] = [
        [
            _place(one),
            TonedCell(words.change(one.difference), _tone(one)),
            words.chance(one.p if one.p_holm is None else one.p_holm),
            words.number(one.before),
            words.number(one.after),
            words.metric(one.metric),
            str(one.n),
            str(one.seeds),
        ]
        for one in lines
    ]
    return DataTable(["cell", "difference", "p", before, after, "metric", "rows", "seeds"], rows)


def _place(one: Difference) -> str:
    return place((one.model, one.task, one.split))


def _tone(one: Difference) -> str:
    clear = one.clear if one.p_holm is not None else not one.difference.low <= 0 <= one.difference.high
    return ("good" if one.difference.value > 0 else "bad") if clear else ""


def _flips(compared: SideBySide, figures: Path) -> Iterator[Block]:
    if not compared.flips:
        yield Text("None.")
        return
    counts: dict[tuple[str, ...], Counter[bool]] = {}
    for flip in compared.flips:
        counts.setdefault((flip.side, flip.model, flip.task, flip.split), Counter())[flip.won] += 1
    rows = [
        [place((model, task, split)), side, str(count[True]), str(count[False])]
        for (side, model, task, split), count in counts.items()
    ]
    yield Text(
        f"A row is answered from a score of {RIGHT:g} on (of captions: where all facts are right). All rows "
        "that went from unanswered to answered, or back, are in `flips.csv`. Of several seeds the score is "
        "the mean, the answers are those of the first."
    )
    yield DataTable(["cell", "in", "won", "lost"], rows)
    pictures: list[Figure] = []
    notes: list[str] = []
    for flip in _chosen(compared.flips):
        try:
            pictures.append(_example(compared.sides, flip, f"flip-{len(pictures)}.png", figures))
        except UserError as error:
            notes.append(f"{flip.id}: {error}")
    yield Figures(pictures)
    if notes:
        yield Points(notes[:3])


def _chosen(flips: Sequence[Flip]) -> Iterator[Flip]:
    """The clearest few of every cell, won and lost; those of experts and single models come first.

    Of several seeds these are rows that most of them flip, with two answers of the first one.
    """
    counts: Counter[tuple[str, str, str, bool]] = Counter()
    chosen = []
    clearest = sorted(
        flips, key=lambda flip: (flip.before == flip.after, -abs(flip.score_after - flip.score_before))
    )
    for flip in clearest:
        key = (flip.side, flip.model, flip.task, flip.won)
        counts[key] += 1
        if counts[key] <= SHOWN:
            chosen.append(flip)
    yield from sorted(chosen, key=lambda flip: flip.model.startswith(("merged/", "pretrain/")))[:PICTURED]


def _example(sides: Sequence[Side], flip: Flip, name: str, figures: Path) -> Figure:
    pair = [sides[0], next(side for side in sides[1:] if side.name == flip.side)]
    lines = [_row(side, (flip.model, flip.task, flip.split), flip.id) for side in pair]
    folder = next((member.data for side in pair for member in side.members if member.data), None)
    if folder is None:
        raise UserError("no prepared data here to look at the row: `dvc repro prepare`")
    split = flip.split if (folder / flip.split).is_dir() else flip.split.split("-")[0]
    with atomic(figures / name) as part:
        gallery.picture(lines, MediaStore(folder / split)).save(part, "PNG", optimize=True)
    marks = ["✓" if score >= RIGHT else "✗" for score in (flip.score_before, flip.score_after)]
    model = flip.model.removeprefix(f"finetune/{flip.task}")
    boxes = ["true box thick green, first answer orange, second blue"] if "iou" in lines[0].scores else []
    caption = [
        f"{' '.join(filter(None, (words.task(flip.task), model)))}: {flip.asked}".rstrip(": "),
        f"{marks[0]} {flip.against}: **{flip.before}**",
        f"{marks[1]} {flip.side}: **{flip.after}**",
        f"expected: {flip.expected}",
        *boxes,
    ]
    return Figure(name, f"A row of {words.task(flip.task)}", caption, "example")


def _row(side: Side, key: Key, id_: str) -> PredictedRow:
    """The row in the first seed of a side."""
    member = side.members[0]
    path = member.cells[(member.model or key[0], *key[1:])]
    row: PredictedRow = config.convert(PredictedRow, dict(paired.read(path)[id_]), f"{path}: {id_}")
    return row


def _costs(sides: Sequence[Side]) -> list[Block]:
    """Of each process; of several seeds the mean time and the largest memory."""
    names = dict.fromkeys(name for side in sides for member in side.members for name in member.runs)
    if not names:
        return [Text("Not recorded.")]
    rows = [[name, *(cell for side in sides for cell in _cost(side, name))] for name in names]
    columns = ["process"]
    for side in sides:
        columns += [f"{side.name}: time", "memory"]
    machines = {side.name: _machine(side) for side in sides}
    notes = [f"{name}: {machine}" for name, machine in machines.items()]
    return [DataTable(columns, rows), *([Points(notes)] if len(set(machines.values())) > 1 else [])]


def _cost(side: Side, name: str) -> list[str]:
    runs = [member.runs[name] for member in side.members if name in member.runs]
    if not runs:
        return ["–", "–"]
    memory = max(run.peak_mib for run in runs)
    return [words.duration(sum(run.seconds for run in runs) / len(runs)), f"{memory} MiB" if memory else "–"]


def _machine(side: Side) -> str:
    kinds = {
        f"{run.machine.get('processor')}, {run.machine.get('instructions')}"
        for member in side.members
        for run in member.runs.values()
        if "instructions" in run.machine
    }
    return "; ".join(sorted(kinds)) or "machine not recorded"
