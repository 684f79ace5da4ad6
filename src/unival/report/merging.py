"""What merging bought, on the page: plane and front of ID against OOD, pairwise matrix, task vectors."""

import textwrap
from pathlib import Path
from typing import Any

from unival.report import charts, words
from unival.report.page import Block, DataTable, Figure, Figures, Text
from unival.study.results import Results

TEXT = (
    "**Share** is the mean over tasks of the score divided by that of the task's own expert. In the plane, "
    "filled points are on the Pareto front of both shares; the dashed line goes from the pretrained model to "
    "the experts. The matrix shows the middle between two models minus the better of its ends (* : p < 0.05 "
    "after Holm's correction over the matrix). A barrier is the largest drop below the line between the "
    "scores of both ends. Neither it nor the area gained can be negative: noise alone puts their intervals "
    "above 0. Cosines are those of the changes that finetuning made to all weights."
)


def blocks(study: Results, figures: Path) -> list[Block]:
    """Charts and the table of barriers; nothing where there are no tables."""
    drawn = [*plane(study, figures), *matrix(study, figures), *cosines(study, figures)]
    merged = [Text(TEXT), Figures(drawn), *_barriers(study), *_modules(study)] if drawn else []
    return [*merged, *_subsets(study, figures)]


def plane(study: Results, folder: Path) -> list[Figure]:
    """A panel per group of tasks: share of the experts' scores, in and out of distribution."""
    figures: list[Figure] = []
    known = [(row, row.share) for row in study.leaderboard if row.share is not None]
    for number, tasks in enumerate(dict.fromkeys(row.tasks for row, _ in known)):
        own = [(row, share) for row, share in known if row.tasks == tasks]
        outside_of = {row.model: share for row, share in own if row.part == "ood"}
        both = {
            row.model: (share, outside_of[row.model], row.front)
            for row, share in own
            if row.part == "id" and row.model in outside_of
        }
        if not both:
            continue
        alt = f"ID and OOD share of models on {tasks}"
        with charts.panel(folder, f"plane-{number}", alt, figures, (charts.WIDTH, 3.8)) as axes:
            for place, (model, (inside, outside, on_front)) in enumerate(both.items()):
                style: Any = {"color": charts.COLORS[place % 7], "marker": charts.MARKERS[place // 7 % 7]}
                x, y = (charts.whiskers(*share) for share in (inside, outside))
                axes.errorbar(
                    inside.value, outside.value, xerr=x, yerr=y, ls="", lw=0.8, label=_name(model),
                    mfc=None if on_front else "white", **style,
                )  # fmt: skip
            ends = [both[m] for m in both if m == "experts" or m.startswith("pretrain/")]
            if len(ends) == 2:
                line = [inside.value for inside, _, _ in ends], [outside.value for _, outside, _ in ends]
                axes.plot(*line, color=charts.GREY, ls="--", lw=1)
            axes.set_title(textwrap.fill(" + ".join(map(words.task, tasks.split())), 44))
            axes.set(xlabel="share, in distribution", ylabel="share, out of distribution")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, fontsize=7.5)
    return figures


def matrix(study: Results, folder: Path) -> list[Figure]:
    """Pairs by task: the middle of the line minus the better end."""
    rows = [row for row in study.pairs if row.middle is not None]
    if not rows:
        return []
    figures: list[Figure] = []
    pairs = list(dict.fromkeys((row.first, row.second) for row in rows))
    tasks = list(dict.fromkeys(row.task for row in rows))
    size = (2.0 + 1.1 * len(tasks), 0.6 * len(pairs) + 1.0)
    with charts.panel(
        folder, "merge-matrix", "Middle of each pair minus its better end", figures, size
    ) as axes:
        axes.set(xlim=(-0.5, len(tasks) - 0.5), ylim=(len(pairs) - 0.5, -0.5))
        axes.set_title("middle of a pair minus its better end")
        for row in rows:
            place = tasks.index(row.task), pairs.index((row.first, row.second))
            if row.minus_best is not None and row.p is not None:
                charts.square(axes, row.minus_best, *place, "*" if row.p < 0.05 else "")
        axes.set_xticks(range(len(tasks)), [words.task(task) for task in tasks], rotation=20, ha="right")
        axes.set_yticks(range(len(pairs)), [" + ".join(map(words.task, pair)) for pair in pairs])
        charts.bare(axes)
    return figures


def cosines(study: Results, folder: Path) -> list[Figure]:
    """The cosine of every two task vectors, over all weights."""
    rows = [row for row in study.angles if row.module == "all"]
    names = list(dict.fromkeys(row.first for row in rows))
    if len(names) < 2:
        return []
    figures: list[Figure] = []
    size = (1.6 + 0.62 * len(names), 1.3 + 0.5 * len(names))
    with charts.panel(folder, "cosines", "Cosines of the experts' task vectors", figures, size) as axes:
        for row in rows:
            x, y = names.index(row.first), names.index(row.second)
            if row.cosine is not None:
                axes.text(x, y, f"{row.cosine:.2f}", ha="center", va="center", fontsize=8)
                axes.add_patch(charts.box(x, y, row.cosine if x != y else 0.0))
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), title="cosine of task vectors")
        labels = [words.task(name) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=35, ha="right")
        axes.set_yticks(range(len(names)), labels)
        charts.bare(axes)
    return figures


def _barriers(study: Results) -> list[Block]:
    fronts = {(row.first, row.second): row for row in study.fronts}
    lines = []
    for row in study.pairs:
        front = fronts.get((row.first, row.second))
        lines.append([
            " + ".join(map(words.task, (row.first, row.second))), words.task(row.task),
            words.number(row.barrier.value), words.interval(row.barrier.low, row.barrier.high),
            words.number(row.barrier_at, 2),
            words.change(front.gain if front else None),
        ])  # fmt: skip
    columns = ("pair", "task", "barrier", "95 % interval", "at", "area gained over the ends")
    return [DataTable(columns, lines)] if lines else []


def _modules(study: Results) -> list[Block]:
    """Per module, the mean cosine of two task vectors and the range of their relative norms."""
    rows = study.angles
    lines = []
    for module in dict.fromkeys(row.module for row in rows):
        own = [row for row in rows if row.module == module]
        pairs = [row.cosine for row in own if row.first != row.second and row.cosine is not None]
        norms = [row.relative_first for row in own if row.first == row.second]
        mean = sum(pairs) / len(pairs) if pairs else None
        known = [norm for norm in norms if norm is not None]
        spread = f"{min(known):.3f} to {max(known):.3f}" if known else "–"
        lines.append([module, words.number(mean, 2), spread])
    columns = ("module", "mean cosine of two task vectors", "norm relative to the pretrained weights")
    return [DataTable(columns, lines)] if lines else []


def _subsets(study: Results, folder: Path) -> list[Block]:
    """Averages of random subsets of experts: two matrices, and how often they won."""
    rows = [row for row in study.subsets if len(row.experts.split()) > 1]
    if not rows:
        return []
    starts, owns = (
        [getattr(row, f"minus_{other}").value > 0 for row in rows] for other in ("pretrained", "expert")
    )
    text = (
        f"Averages of random subsets of experts, {len(rows)} comparisons of one seed: above the pretrained "
        f"model in {sum(starts)}, above the task's own expert in {sum(owns)}. Rates over all seeds are among "
        "the claims. Single experts are scored on other tasks than their own, too. Blue: clearly better, "
        "orange: clearly worse."
    )
    figures: list[Figure] = []
    for other in ("pretrained", "expert"):
        _subset_matrix(study, other, folder, figures)
    return [Text(text), Figures(figures)]


def _subset_matrix(study: Results, other: str, folder: Path, figures: list[Figure]) -> None:
    """A field per average or expert and task: its score minus that of another model."""
    rows = [row for row in study.subsets if row.experts]
    tasks = list(dict.fromkeys(row.task for row in rows))
    models = list(dict.fromkeys(row.experts for row in rows))
    against = "the pretrained model" if other == "pretrained" else "the task's own expert"
    alt, size = f"Averages of experts minus {against}", (2.4 + 1.1 * len(tasks), 0.5 * len(models) + 1.0)
    with charts.panel(folder, f"subsets-{other}", alt, figures, size) as axes:
        axes.set(xlim=(-0.5, len(tasks) - 0.5), ylim=(len(models) - 0.5, -0.5), title=f"minus {against}")
        for row in rows:
            difference = getattr(row, f"minus_{other}")
            if difference is not None:
                charts.square(axes, difference, tasks.index(row.task), models.index(row.experts))
        axes.set_xticks(range(len(tasks)), [words.task(task) for task in tasks])
        axes.set_yticks(
            range(len(models)), [" + ".join(map(words.task, model.split())) for model in models], fontsize=8
        )
        charts.bare(axes)


def _name(model: str) -> str:
    return words.task(model.removeprefix("merged/").replace("pretrain/", "pretrained: "))
