"""Charts, drawn with matplotlib without a display.

One picture per panel, about as wide as a phone, so that its letters stay readable where the page shows it
alone. Colours are those of Okabe and Ito, told apart by colour-blind readers too; lines differ in their
markers as well.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from unival.metrics.bootstrap import Interval
from unival.report import words
from unival.report.page import Figure
from unival.study.results import Results
from unival.study.tables import CellScore, Curve, PointScore

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
SETTINGS: Any = {
    "font.size": 10, "axes.titlesize": 10.5, "axes.labelsize": 10, "legend.fontsize": 8.5,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.7, "axes.axisbelow": True,
    "lines.linewidth": 1.6, "lines.markersize": 5, "legend.frameon": False, "figure.dpi": 150,
    "axes.titlelocation": "left", "axes.titleweight": "bold",
    "svg.hashsalt": "unival",  # names of parts are random without
}  # fmt: skip
WIDTH = 4.4


@contextmanager
def panel(
    folder: Path, name: str, alt: str, figures: list[Figure], size: tuple[float, float] = (WIDTH, 3.2)
) -> Iterator[Axes]:
    """Axes that are saved as `<name>.png`, as `<name>.svg` for papers, and noted in `figures`.

    Args:
        size: inches. Wider ones than a panel get more room on the page, for their letters to stay readable.
    """
    with mpl.rc_context(SETTINGS):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        try:
            yield axes
            figure.savefig(folder / f"{name}.png", metadata={"Software": None})
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
        finally:
            plt.close(figure)
    figures.append(Figure(f"{name}.png", alt, kind="wide" if size[0] > 1.1 * WIDTH else "chart"))


def style(number: int) -> dict[str, Any]:
    """Colour and marker of a line."""
    return {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}


def _legend(axes: Axes) -> None:
    """Below the panel, where it hides no data."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, columnspacing=1.2)


def whiskers(value: float, low: float, high: float) -> list[list[float]]:
    """Lengths of an error bar; a value may lie outside its interval."""
    return [[max(value - low, 0.0)], [max(high - value, 0.0)]]


def bare(axes: Axes) -> None:
    """A matrix of fields needs no ticks, grid or frame."""
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def learning_curves(study: Results, folder: Path) -> list[Figure]:
    """Loss of each pretraining phase by task; loss and validation score of the finetunings."""
    figures: list[Figure] = []
    for name in [name for name in study.curves if name.startswith("pretrain-")]:
        rows = study.curves[name]
        alt = f"Training loss of {name} by task"
        with panel(folder, f"curve-{name}", alt, figures, (WIDTH, 3.6)) as axes:
            for number, key in enumerate(_keys(rows, "train/loss/")):
                _line(axes, rows, key, words.task(key.removeprefix("train/loss/")), number)
            axes.set(title=f"pretraining: {name.removeprefix('pretrain-')}", xlabel="step", ylabel="loss")
            axes.set_ylim(bottom=0)
            _legend(axes)
    experts = {
        n.removeprefix("finetune-"): rows for n, rows in study.curves.items() if n.startswith("finetune-")
    }
    if experts:
        cider = [task for task in experts if (score := study.tasks.get(task)) and score.metric == "cider"]
        shares = [task for task in experts if task not in cider]
        for name, key, tasks, title, label in (
            ("train", "train/loss", list(experts), "finetuning: training loss", "loss"),
            ("val-cider", "val/score", cider, "finetuning: validation, CIDEr", "CIDEr"),
            ("val", "val/score", shares, "finetuning: validation, shares", "accuracy of the task"),
        ):
            if not tasks:
                continue
            with panel(folder, f"curve-finetune-{name}", title, figures, (WIDTH, 3.6)) as axes:
                for task in tasks:
                    _line(axes, experts[task], key, words.task(task), list(experts).index(task))
                axes.set(title=title, xlabel="step", ylabel=label)
                if key == "train/loss":
                    axes.set_yscale("log")  # one that starts from nothing would flatten the others
                else:
                    axes.set_ylim(bottom=0)
                _legend(axes)
    return figures


def overlay(lines: Mapping[str, Curve], key: str, title: str, folder: Path) -> list[Figure]:
    """One figure of several runs in one panel; `key` is its column."""
    figures: list[Figure] = []
    name = re.sub(r"\W+", "-", f"curve-{title}-{key}")
    with panel(folder, name, f"{title}: {key}", figures) as axes:
        for number, (label, rows) in enumerate(lines.items()):
            _line(axes, rows, key, label if len(label) <= 24 else f"…{label[-23:]}", number)
        axes.set(title=title, xlabel="step", ylabel=key)
        _legend(axes)
    return figures


def _keys(rows: Curve, prefix: str) -> list[str]:
    return [key for key in (rows[0] if rows else {}) if key.startswith(prefix)]


def _line(axes: Axes, rows: Curve, key: str, label: str, number: int) -> None:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    if points:
        every = max(len(points) // 8, 1)
        axes.plot(*zip(*points, strict=True), label=label, markevery=every, **style(number))


def interpolation(study: Results, folder: Path) -> list[Figure]:
    """A panel per pair and task: metric along the line between two experts, its interval, and the chord."""
    figures: list[Figure] = []
    pairs = dict.fromkeys((row.first, row.second) for row in study.points)
    for first, second in pairs:
        for number, task in enumerate((first, second)):
            rows = line_of(study, first, second, task)
            if not rows:
                continue
            alphas, values = [row.alpha for row in rows], [row.value for row in rows]
            name, title = f"line-{first}-{second}-{task}", f"{words.task(first)} → {words.task(second)}"
            alt = f"{words.task(task)} along the line between the experts of {first} and {second}"
            with panel(folder, name, alt, figures) as axes:
                band = [row.low for row in rows], [row.high for row in rows]
                axes.fill_between(
                    alphas, *band, color=COLORS[number], alpha=0.18, lw=0, label="95 % interval"
                )
                axes.plot([0, 1], [values[0], values[-1]], color=GREY, ls="--", lw=1.2, label="chord")
                axes.plot(alphas, values, label=f"{words.task(task)}", **style(number))
                metric = words.metric(rows[0].metric)
                axes.set(title=title, ylabel=f"{words.task(task)}: {metric}")
                axes.set(xlabel=f"weight of the {words.task(second)} expert", xlim=(-0.03, 1.03))
                axes.set_ylim(bottom=0)
                _legend(axes)
    return figures


def line_of(study: Results, first: str, second: str, task: str) -> list[PointScore]:
    """Points of one curve, from the first expert to the second."""
    wanted = (first, second, task)
    rows = [row for row in study.points if (row.first, row.second, row.task) == wanted]
    return sorted(rows, key=lambda row: row.alpha)


def severity(study: Results, folder: Path) -> list[Figure]:
    """A panel per task: the expert under each corruption by severity, and on the stored shifts."""
    figures: list[Figure] = []
    for task in study.finetuned:
        cells = study.primary(kind="finetuned", task=task)
        inside = study.in_distribution(f"finetune/{task}", task)
        shifts = list(dict.fromkeys(row.shift for row in cells if row.shift))
        stored = [row for row in cells if row.split != "test"]
        if inside is None or not (shifts or stored):
            continue
        alt = f"{words.task(task)} by shift and severity"
        with panel(folder, f"shift-{task}", alt, figures, (WIDTH, 3.7)) as axes:
            for number, shift in enumerate(shifts):
                rows = sorted((row for row in cells if row.shift == shift), key=lambda row: row.severity or 0)
                levels = [0, *(row.severity or 0 for row in rows)]
                values = [inside.value, *(row.value for row in rows)]
                axes.plot(levels, values, label=words.task(shift), **style(number))
            baselines = study.tasks.get(task)
            if baselines is not None:
                axes.axhline(baselines.blind, color=GREY, ls=":", lw=1.2, label="blind baseline")
            axes.set(title=f"{words.task(task)} out of distribution", ylabel=words.metric(inside.metric))
            _shift_axis(axes, [inside, *stored], bool(shifts))
            if axes.get_legend_handles_labels()[0]:
                axes.figure.legend(loc="outside lower center", ncols=3, columnspacing=1.2)
    return figures


def _shift_axis(axes: Axes, splits: Sequence[CellScore], corrupted: bool) -> None:
    """The test split at 0, severities after it, and the splits that are shifts right of them."""
    first = 7 if corrupted else 1
    places = [0, *range(first, first + len(splits) - 1)]
    for place, row in zip(places, splits, strict=True):
        spread = whiskers(row.value, row.low, row.high)
        axes.errorbar(place, row.value, yerr=spread, fmt="o", color="black", ms=4.5, capsize=3)
    levels = list(range(1, 6)) if corrupted else []
    names = ["test", *map(str, levels), *(row.split.removeprefix("ood-") for row in splits[1:])]
    axes.set_xticks([0, *levels, *places[1:]], names)
    for label in axes.get_xticklabels()[1 + len(levels) :]:
        label.set(rotation=35, ha="right", rotation_mode="anchor")
    kinds = ["severity of the corruption"] * corrupted + ["another split"] * (len(splits) > 1)
    axes.set_xlabel(" | ".join(kinds))
    axes.set_xlim(-0.5, max(places[-1], 5 * corrupted) + 0.5)
    axes.set_ylim(bottom=0)


def id_against_ood(study: Results, folder: Path) -> list[Figure]:
    """Every model's mean over shifts against its score on the test split, a panel per kind of metric."""
    points = [point for cell in study.primary(shifted=False) if (point := _point(study, cell))]
    figures: list[Figure] = []
    for metric in ("accuracy", "CIDEr"):
        chosen = [p for p in points if (p.inside.metric == "cider") == (metric == "CIDEr")]
        if not chosen:
            continue
        alt = f"ID against OOD, {metric}"
        with panel(folder, f"plane-{metric.lower()}", alt, figures, (WIDTH, 4.4)) as axes:
            tasks = list(dict.fromkeys(point.inside.task for point in chosen))
            for number, task in enumerate(tasks):
                _arrows(axes, [p for p in chosen if p.inside.task == task], number)
            top = max(max(p.place) for p in chosen) * 1.08 or 1.0
            axes.plot([0, top], [0, top], color=GREY, ls="--", lw=1, label="no loss")
            axes.set(xlim=(0, top), ylim=(0, top), aspect="equal", title=f"ID against OOD: {metric}")
            axes.set(xlabel="test split (ID)", ylabel="mean over shifts (OOD)")
            axes.figure.legend(loc="outside lower center", ncols=3, columnspacing=1.2)
    return figures


class _Point(NamedTuple):
    """A model on a task, in the plane of ID and OOD."""

    inside: CellScore
    outside: float
    """Mean over the shifted cells."""

    @property
    def place(self) -> tuple[float, float]:
        return self.inside.value, self.outside


def _point(study: Results, inside: CellScore) -> _Point | None:
    cells = study.primary(model=inside.model, task=inside.task, shifted=True)
    return _Point(inside, sum(cell.value for cell in cells) / len(cells)) if cells else None


def _arrows(axes: Axes, points: Sequence[_Point], number: int) -> None:
    """A task's expert, and an arrow from it to each merged model."""
    expert = next((point for point in points if point.inside.kind == "finetuned"), None)
    own = style(number)
    for point in points:
        filled = point.inside.kind == "finetuned"
        face = own["color"] if filled else "white"
        label = words.task(point.inside.task) if filled or expert is None else None
        axes.plot(*point.place, ls="", mfc=face, label=label, ms=7, **own)
        if expert and not filled:
            axes.annotate(
                "",
                point.place,
                expert.place,
                arrowprops={"arrowstyle": "->", "color": own["color"], "lw": 1},
            )


def merges(study: Results, folder: Path) -> list[Figure]:
    """A panel per task: every model on the test split with its interval."""
    figures: list[Figure] = []
    for task in dict.fromkeys(row.task for row in study.primary(kind="merged")):
        rows = study.primary(task=task, shifted=False)
        alt = f"Models on {words.task(task)}"
        with panel(folder, f"merge-{task}", alt, figures, (WIDTH, 0.42 * len(rows) + 1.1)) as axes:
            kinds = {"finetuned": 0, "merged": 1, "pretrained": 2}
            for place, row in enumerate(reversed(rows)):
                spread = whiskers(row.value, row.low, row.high)
                own = style(kinds[row.kind])
                axes.errorbar(row.value, place, xerr=spread, fmt=own["marker"], color=own["color"], capsize=3)
            axes.set_yticks(range(len(rows)), [model(row) for row in reversed(rows)])
            if task in study.tasks:
                blind = study.tasks[task].blind
                axes.axvline(blind, color=GREY, ls=":", lw=1.4)
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                axes.text(blind, len(rows) - 0.55, "blind", color=GREY, fontsize=8, ha="center", bbox=box)
            axes.set(title=words.task(task), xlabel=words.metric(rows[0].metric))
            axes.set(xlim=(0, None), ylim=(-0.6, len(rows) - 0.2))
            axes.grid(axis="y", visible=False)
    return figures


def model(row: CellScore) -> str:
    """A model's name for a reader."""
    if row.kind == "merged":
        return "merge: " + words.task(row.model.removeprefix("merged/"))
    return "expert" if row.kind == "finetuned" else "pretrained only"


def synergy(study: Results, folder: Path) -> list[Figure]:
    """A matrix per study: variant by task, the paired difference from the baseline with its interval."""
    figures: list[Figure] = []
    for name in dict.fromkeys(row.study for row in study.ablations):
        rows = [row for row in study.ablations if row.study == name]
        tasks = list(dict.fromkeys(row.task for row in rows))
        keys = list(dict.fromkeys((row.variant, row.seed) for row in rows))
        seeds = len({seed for _, seed in keys}) > 1
        labels = [
            words.task(variant).replace("from ", "from\n").replace(" and ", " and\n")
            + (f"\nseed {seed}" if seeds else "")
            for variant, seed in keys
        ]
        size = (1.5 + 1.25 * max(len(tasks), 2), 0.62 * len(keys) + 1.0)
        with panel(folder, f"synergy-{name}", f"Study {name}: variants by tasks", figures, size) as axes:
            axes.set(xlim=(-0.5, len(tasks) - 0.5), ylim=(len(keys) - 0.5, -0.5))
            for row in rows:
                place = tasks.index(row.task), keys.index((row.variant, row.seed))
                if row.difference is None:
                    score = f"{row.value:.3f}\n[{row.low:.2f}, {row.high:.2f}]"
                    _filled(axes, *place, "#f0f0f0", score)
                else:
                    square(axes, row.difference, *place)
            axes.set_xticks(range(len(tasks)), [words.task(task) for task in tasks])
            axes.set_yticks(range(len(keys)), labels)
            bare(axes)
            axes.set_title(f"{words.task(name)} (baseline: {words.task(rows[0].baseline)})", fontsize=10)
    return figures


def square(axes: Axes, difference: Interval, x: int, y: int, mark: str = "") -> None:
    """A difference with its interval as a coloured field of a matrix."""
    value, low, high = difference
    clear = low > 0 or high < 0
    color = _shade(value, (0.25 + 0.75 * min(abs(value) / 0.5, 1.0)) if clear else 0.0)
    _filled(axes, x, y, color, f"{value:+.3f}{mark}\n[{low:+.2f}, {high:+.2f}]")


def _filled(axes: Axes, x: int, y: int, color: Any, text: str) -> None:
    axes.add_patch(_field(x, y, color))
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5)


def box(x: int, y: int, value: float) -> plt.Rectangle:
    """A field of a matrix, coloured by a value between -1 and 1."""
    return _field(x, y, _shade(value, abs(value)))


def _field(x: int, y: int, color: Any) -> plt.Rectangle:
    return plt.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=color, edgecolor="#999999", lw=0.6)


def _shade(value: float, strength: float) -> tuple[float, ...]:
    """Blue for positive, orange for negative values; white at strength 0."""
    end = (0.34, 0.71, 0.91) if value > 0 else (0.90, 0.56, 0.30)
    return tuple(1 - strength * (1 - part) for part in end)
