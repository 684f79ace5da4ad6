"""Parallel coordinates of a sweep's points."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from unival.report.charts import GREY, WIDTH, panel
from unival.report.page import Figure

LEGIBLE: Any = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
"""Behind a label, where lines pass."""
APART = 0.07
"""Of two labels on an axis of length 1: nearer ones would lie over each other."""


def parallel(points: Sequence[tuple[Mapping[str, Any], float]], folder: Path) -> list[Figure]:
    """Points of a sweep across an axis for each parameter and one for the score, the best ones on top."""
    names, scores = list(points[0][0]), [score for _, score in points]
    axes_values = [*([values[name] for values, _ in points] for name in names), scores]
    places = [_on_axis(values) for values in axes_values]
    figures: list[Figure] = []
    alt = "Parallel coordinates: parameters and score of every point"
    with panel(folder, "parallel", alt, figures, (max(WIDTH, 1.6 * len(places)), 3.6)) as axes:
        shade = mpl.colormaps["viridis"]
        for number in sorted(range(len(points)), key=scores.__getitem__):
            color = shade(0.9 * (1 - places[-1][0][number]))
            axes.plot([ys[number] for ys, _ in places], color=color, alpha=0.85)
        for x, (_, ticks) in enumerate(places):
            axes.axvline(x, color=GREY, linewidth=0.8)
            for y, text in ticks:
                axes.annotate(
                    text, (x, y), (5, 0), "data", "offset points", fontsize=9, va="center", bbox=LEGIBLE
                )
        axes.set_xticks(range(len(places)), [*names, "score"])
        axes.set_xlim(-0.15, len(places) - 0.55)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    return figures


def _on_axis(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Places from 0 to 1 of values on an axis, by their logarithm over a decade and more, and its ticks."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        scale = math.log if low > 0 and high / low >= 10 else float
        width = (scale(high) - scale(low)) or 1.0
        known = {value: (scale(value) - scale(low)) / width for value in values}
    else:
        kinds = list(dict.fromkeys(map(str, values)))
        values = list(map(str, values))
        known = {kind: number / max(1, len(kinds) - 1) for number, kind in enumerate(kinds)}
    ends = [min(known, key=known.__getitem__), max(known, key=known.__getitem__)]
    shown: dict[Any, float] = {}
    for one in [*ends, *known] if len(known) <= 6 else ends:
        if all(abs(known[one] - place) >= APART for place in shown.values()):
            shown[one] = known[one]
    ticks = [(y, f"{one:.4g}" if isinstance(one, float) else str(one)) for one, y in shown.items()]
    return [known[value] for value in values], ticks
