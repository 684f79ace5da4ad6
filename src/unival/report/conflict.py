"""Gradient conflict on the page: cosines of the tasks' gradients over training, and by module."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from unival.engine.conflict import WHOLE
from unival.metrics.bootstrap import Interval
from unival.metrics.significance import over_seeds
from unival.report import charts, words
from unival.report.page import Block, Figure, Figures, Text
from unival.study.results import Results
from unival.study.tables import Conflict

TEXT = (
    "**Gradient conflict.** Cosines of the raw gradients of two tasks (before clipping and optimiser) with "
    "the same weights, each on two batches of rows. Below 0 a step for one task undoes some of the other. "
    "Noise shrinks a cosine: open marks, geometric means of both tasks' cosines between their own two "
    "batches, are what tasks that want the same would reach. Bars and bands: 95 % over seeds, if several."
)
SIZE = (6.4, 3.9)
Pair = tuple[str, str]


def blocks(study: Results, figures: Path) -> list[Block]:
    """Two charts of each variant that was measured; nothing where none was."""
    by_variant: dict[Pair, list[Conflict]] = {}
    for row in study.conflict:
        by_variant.setdefault((row.study, row.variant), []).append(row)
    drawn = [figure for variant, rows in by_variant.items() for figure in charts_of(variant, rows, figures)]
    return [Text(TEXT), Figures(drawn)] if drawn else []


def charts_of(variant: Pair, rows: Sequence[Conflict], folder: Path) -> list[Figure]:
    """Over the steps in all weights together, and in each module, mean of the later half of the steps."""
    figures: list[Figure] = []
    name = f"conflict-{'-'.join(variant)}"
    seeds = len({row.seed for row in rows})
    title = f"{words.task(variant[1])}, {seeds} {'seed' if seeds == 1 else 'seeds'}"
    alt = f"Gradient conflict, {title}"
    with charts.panel(folder, name, f"{alt}: over training", figures, SIZE) as axes:
        _over_steps(axes, [row for row in rows if row.module == WHOLE])
        axes.set_title(f"all weights: {title}")
    steps = sorted({row.step for row in rows})
    later = steps[len(steps) // 2 :]
    with charts.panel(folder, f"{name}-modules", f"{alt}: by module", figures, SIZE) as axes:
        _by_module(axes, [row for row in rows if row.step in later])
        axes.set_title(f"from update {later[0]} to {later[-1]}: {title}")
    return figures


def _over_steps(axes: Axes, rows: Sequence[Conflict]) -> None:
    steps = sorted({row.step for row in rows})
    for number, pair in enumerate(pairs(rows)):
        found = [spread([row for row in rows if row.step == step], pair) for step in steps]
        style = charts.style(number)
        band = [value.low for value, _ in found], [value.high for value, _ in found]
        axes.fill_between(steps, *band, color=style["color"], alpha=0.18, lw=0)
        axes.plot(steps, [value.value for value, _ in found], label=_label(pair), **style)
        axes.plot(steps, [limit for _, limit in found], ls=":", mfc="white", **style)
    axes.axhline(0, color=charts.GREY, lw=0.8)
    axes.set(xlabel="updates", ylabel="cosine of gradients")
    _legend(axes)


def _by_module(axes: Axes, rows: Sequence[Conflict]) -> None:
    modules = list(dict.fromkeys(row.module for row in rows))
    for place, module in enumerate(modules):
        own = [row for row in rows if row.module == module]
        for number, pair in enumerate(pairs(own)):
            value, limit = spread(own, pair)
            y, style = place + 0.22 * (number - 1), charts.style(number)
            label = None if place else _label(pair)
            axes.errorbar(value.value, y, xerr=charts.whiskers(*value), ls="", label=label, **style)
            axes.plot(limit, y, mfc="white", ls="", **style)
    axes.axvline(0, color=charts.GREY, lw=0.8)
    axes.set_yticks(range(len(modules)), ["all weights" if m == WHOLE else m for m in modules])
    axes.set(ylim=(len(modules) - 0.5, -0.5), xlabel="cosine of gradients")
    _legend(axes)


def _legend(axes: Axes) -> None:
    limit: Any = {"color": charts.GREY, "marker": "o", "mfc": "white", "ls": ":"}
    axes.plot([], [], label="the same task twice: limit by noise", **limit)
    axes.figure.legend(loc="outside lower center", ncols=2)


def pairs(rows: Sequence[Conflict]) -> list[Pair]:
    """Of different tasks, in their order."""
    return list(dict.fromkeys((row.first, row.second) for row in rows if row.first != row.second))


def spread(rows: Sequence[Conflict], pair: Pair) -> tuple[Interval, float]:
    """Of one module, mean over steps and seeds: the pair's cosine, its interval, and the limit by noise."""
    places: dict[tuple[int, int], dict[Pair, float]] = {}
    for row in rows:
        places.setdefault((row.seed, row.step), {})[row.first, row.second] = row.cosine
    (first, second), by_seed = pair, dict[int, list[float]]()
    for (seed, _), of in places.items():
        by_seed.setdefault(seed, []).append(of[pair])
    limits = [max(of[first, first], 0.0) * max(of[second, second], 0.0) for of in places.values()]
    found = over_seeds([float(np.mean(values)) for values in by_seed.values()])
    return Interval(found.value, found.low, found.high), float(np.sqrt(limits).mean())


def _label(pair: Pair) -> str:
    return " and ".join(map(words.task, pair))
