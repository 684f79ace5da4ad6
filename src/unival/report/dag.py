"""The picture of the stages and of what each took."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from unival.report import words
from unival.report.charts import COLORS, GREY, panel
from unival.report.page import Figure
from unival.study.results import Results

HEIGHT, STEP = 0.95, 1.4
Place = tuple[float, float, float]
"""Left, width, top of a box."""


def draw(study: Results, folder: Path) -> list[Figure]:
    """The stages from top to bottom; an arrow means `needs what was made there`."""
    phases = [name for name in study.configs if name.startswith("pretrain-")]
    phases.sort(key=lambda name: bool(study.configs[name].get("init")))
    rows = 6 + len(phases)
    figures: list[Figure] = []
    with panel(folder, "dag", "The stages of the study", figures, (6.0, 0.72 * rows + 0.1)) as axes:
        axes.set_axis_off()
        axes.set(xlim=(0, 10), ylim=(-rows * STEP + 0.35, 0.1))
        spine = [
            ("compose", "params.yaml and conf/"),
            ("prepare", _note(study, ["prepare"], study.data.name)),
        ]
        spine += [("pretrain", _note(study, [name], words.task(name[9:]))) for name in phases]
        places = [(2.7, 4.6, -STEP * number) for number in range(len(spine))]
        for (title, note), place in zip(spine, places, strict=True):
            _box(axes, place, title, note)
        _chain(axes, places)
        _branches(axes, study, places[-1])
    return figures


def _branches(axes: Axes, study: Results, above: Place) -> None:
    top = above[2] - STEP
    experts = [name for name in study.runs if name.startswith("finetune-")]
    left = [
        ("finetune", _note(study, experts, f"{len(study.finetuned)} experts")),
        ("merge", _note(study, ["merge"], "")),
        ("evaluate", _note(study, ["evaluate"], "in and out of distribution")),
    ]
    places: list[Place] = [(0.1, 5.5, top - STEP * number) for number in range(3)]
    for (title, note), place in zip(left, places, strict=True):
        _box(axes, place, title, note)
    ablate: Place = (6.1, 3.8, top - STEP)
    _box(axes, ablate, "ablate", _note(study, ["ablate"], ""))
    end: Place = (2.7, 4.6, top - 3 * STEP)
    _box(axes, end, "report", "this page")
    _chain(axes, [above, *places, end])
    _chain(axes, [above, ablate, end])


def _note(study: Results, names: Sequence[str], text: str) -> str:
    seconds = [study.runs[name].seconds for name in names if name in study.runs]
    return ", ".join(part for part in (text, words.duration(sum(seconds)) if seconds else "") if part)


def _box(axes: Axes, place: Place, title: str, note: str) -> None:
    left, width, top = place
    shape = "round,pad=0,rounding_size=0.12"
    patch = FancyBboxPatch((left, top - HEIGHT), width, HEIGHT, boxstyle=shape, fc="#eef4fa", ec=COLORS[0])
    axes.add_patch(patch)
    middle = left + width / 2
    axes.text(middle, top - 0.33, title, ha="center", va="center", fontsize=13, weight="bold")
    axes.text(middle, top - 0.7, note, ha="center", va="center", fontsize=11)


def _chain(axes: Axes, places: Sequence[Place]) -> None:
    """Arrows from the foot of each box to the head of the next."""
    for (left, width, top), (next_left, next_width, next_top) in pairwise(places):
        start = left + width / 2, top - HEIGHT
        middle = next_left + next_width / 2
        arrow = {"arrowstyle": "-|>", "color": GREY, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (middle, next_top), start, arrowprops=arrow)
