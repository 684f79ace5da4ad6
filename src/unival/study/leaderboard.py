"""Tables about whole models: scores, the leaderboard, the pairwise merge matrix, fronts between two tasks.

The leaderboard compares models over the tasks that a merge was made for: merges beside experts, the
pretrained and the jointly finetuned model, on the test split and on the mean over shifted cells. Pairs and
fronts are made from the interpolation between two models. Columns: `unival.study.tables`.

Intervals are bootstraps over media, with the same draws for all models and all corruptions of a task's rows.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unival import files
from unival.merging import curves
from unival.metrics.bootstrap import Interval, resampled_means
from unival.metrics.significance import holm
from unival.study.tables import Front, PairScore, Standing

if TYPE_CHECKING:
    from unival.study.cells import Result

    Point = tuple[str, str, float, Result]
    """First and second model, place between them, result there."""

EXPERTS = "experts"
Part = Literal["id", "ood"]
PARTS: tuple[Part, ...] = ("id", "ood")
Scores = dict[str, np.ndarray]
"""task -> its score, then the scores of the resamples: (1 + R,)."""


def standings(
    results: Sequence["Result"], tasks_of: Mapping[str, Sequence[str]], resamples: int
) -> list[Standing]:
    """Lines of leaderboard.csv. `tasks_of`: folder name of each merged model -> tasks."""
    pretrained = [result.spec.model for result in results if result.spec.kind == "pretrained"][:1]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, tasks in tasks_of.items():
        groups.setdefault(tuple(tasks), []).append(f"merged/{name}")
    made = []
    for tasks, names in groups.items():
        lines = []
        for part in PARTS:
            experts = _of_tasks(results, {task: f"finetune/{task}" for task in tasks}, part, resamples)
            if experts is None:
                continue
            lines.append(_standing(EXPERTS, part, experts, experts, sum(map(_updates, tasks))))
            for model in [*pretrained, *names]:
                standing = _of_tasks(results, dict.fromkeys(tasks, model), part, resamples)
                if standing is not None:
                    lines.append(_standing(model, part, standing, experts, _cost(model)))
        made += _compared(lines, pretrained)
    return made


def scores(results: Sequence["Result"], resamples: int) -> dict[str, dict[str, Any]]:
    """`metrics/scores.json`: the primary metrics of all models, flat and few enough for DVC's tables.

    Task, or `<task>_ood` for the mean over its shifted cells -> `expert`, `pretrained`, `merged.<recipe>`;
    `n`, the rows that each of them is scored on; and `interval`, model -> [low, high]. DVC has no place for
    lists: its tables show the numbers alone.
    """
    cells: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        spec = result.spec
        place = f"{spec.task}_ood" if spec.shift or spec.split != "test" else spec.task
        kinds = {"finetuned": "expert", "pretrained": "pretrained"}
        name = kinds.get(spec.kind, spec.model.replace("/", "."))
        cells.setdefault(place, {}).setdefault(name, []).append(result)
    table: dict[str, dict[str, Any]] = {}
    for place, models in cells.items():
        values = {
            name: ones[0].value.rounded()
            if len(ones) == 1
            else _spread(np.mean([_drawn(one, resamples) for one in ones], axis=0))
            for name, ones in models.items()
        }
        table[place] = {
            **{name: value.value for name, value in values.items()},
            "n": sum(one.n for one in next(iter(models.values()))),
            "interval": {name: [value.low, value.high] for name, value in values.items()},
        }
    return table


def _of_tasks(
    results: Sequence["Result"], models: Mapping[str, str], part: str, resamples: int
) -> Scores | None:
    """Scores on tasks, each of its model; None where one is missing."""
    scores_of_task = {}
    for task, name in models.items():
        cells = [
            _drawn(result, resamples)
            for result in results
            if (result.spec.model, result.spec.task) == (name, task)
            and (bool(result.spec.shift) or result.spec.split != "test") == (part == "ood")
        ]
        if not cells:
            return None
        scores_of_task[task] = np.mean(cells, axis=0)
    return scores_of_task


def _drawn(result: "Result", resamples: int) -> np.ndarray:
    """The score, then the scores of the resamples: (1 + R,).

    Equal draws for all models, and for all corruptions of the same rows: their mean is no better known
    than one of them. Tasks and splits are drawn apart also where they share media, which makes the intervals
    of means over them somewhat narrow.
    """
    seed = zlib.crc32(f"{result.spec.task}/{result.spec.split}".encode())
    drawn = resampled_means(result.scores, seed, resamples, result.media)
    return np.concatenate([[result.value.value], drawn])


def _standing(model: str, part: Part, table: Scores, experts: Scores, updates: int) -> Standing:
    scores = np.stack(list(table.values()))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = scores / np.stack([experts[task] for task in table])
    return Standing(
        model=model,
        part=part,
        tasks=" ".join(table),
        mean=_spread(scores.mean(axis=0)),
        share=_known(shares.mean(axis=0)),
        worst=_known(shares.min(axis=0)),
        worst_task=list(table)[int(shares[:, 0].argmin())] if np.isfinite(shares).all() else "",
        updates=updates,
    )


def _compared(lines: Sequence[Standing], pretrained: Sequence[str]) -> list[Standing]:
    """The lines with `front` and `robustness` of models whose share is known in both parts."""
    shares = {(line.model, line.part): line.share.value for line in lines if line.share is not None}
    plane = {
        model: (inside, shares[model, "ood"])
        for (model, part), inside in shares.items()
        if part == "id" and (model, "ood") in shares
    }
    models = list(plane)
    best = {models[i] for i in curves.pareto_front(list(plane.values()))} if models else set()
    ends = [plane[model] for model in (*pretrained, EXPERTS) if model in plane]
    slanted = len(ends) == 2 and ends[0][0] != ends[1][0]
    made = []
    for line in lines:
        if line.model in plane and (line.model, line.part) in shares:
            line = replace(line, front=line.model in best)
            if slanted and line.part == "ood":
                above = curves.effective_robustness(*plane[line.model], ends)
                line = replace(line, robustness=round(above, 6))
        made.append(line)
    return made


def _spread(values: np.ndarray) -> Interval:
    """A value and its interval, of the value and its resamples: (1 + R,)."""
    return Interval(values[0], *np.quantile(values[1:], [0.025, 0.975])).rounded()


def _known(values: np.ndarray) -> Interval | None:
    """The same; None where an expert scored nothing, so that there is no share."""
    return _spread(values) if np.isfinite(values).all() else None


def _updates(task: str) -> int:
    return int(files.read_json(Path("models/finetune") / task / "training.json")["steps"])


def made(model: str) -> dict[str, Any]:
    """The note of the stage merge about a model below models/ (tasks, updates); empty for other models."""
    note = Path("models") / model / "made.json"
    return files.read_json(note) if note.is_file() else {}


def _cost(model: str) -> int:
    """Updates of finetuning behind a model."""
    return sum(made(model).get("updates", {}).values())


Lines = dict[tuple[str, str], dict[str, tuple[list[float], np.ndarray]]]
"""pair -> task -> places, and scores there with those of the resamples: (1 + R, T)."""


def lines_of(points: Sequence["Point"], resamples: int) -> Lines:
    """The interpolated points put together by pair and task."""
    points_of: dict[tuple[str, str], dict[str, list[tuple[float, np.ndarray]]]] = {}
    for first, second, place, result in points:
        tasks = points_of.setdefault((first, second), {})
        tasks.setdefault(result.spec.task, []).append((place, _drawn(result, resamples)))
    return {
        pair: {
            task: ([place for place, _ in line], np.stack([scores for _, scores in line], axis=1))
            for task, line in tasks.items()
        }
        for pair, tasks in points_of.items()
    }


def pair_scores(lines: Lines) -> list[PairScore]:
    """Lines of pairs.csv."""
    made = []
    for (first, second), tasks in lines.items():
        for task, (places, scores) in tasks.items():
            heights, tops = curves.barrier(places, -scores)
            line = PairScore(
                first=first,
                second=second,
                task=task,
                barrier=_spread(heights),
                barrier_at=round(float(tops[0]), 6),
            )
            if 0.5 in places:
                line = _with_middle(line, scores[:, places.index(0.5)], scores[:, [0, -1]])
            made.append(line)
    tested = [line.p for line in made if line.p is not None]
    corrected = iter(holm(tested))
    return [line if line.p is None else replace(line, p=round(next(corrected), 6)) for line in made]


def _with_middle(line: PairScore, middle: np.ndarray, ends: np.ndarray) -> PairScore:
    """The score half-way, against both ends: (1 + R,) and (1 + R, 2)."""
    best = middle - ends.max(axis=1)
    below, above = (float(side.mean()) for side in (best[1:] <= 0, best[1:] >= 0))
    return replace(
        line,
        middle=round(float(middle[0]), 6),
        minus_best=_spread(best),
        p=min(2 * max(min(below, above), 1 / len(best)), 1.0),
        minus_mean=_spread(middle - ends.mean(axis=1)),
    )


def fronts(lines: Lines) -> Iterator[Front]:
    """Lines of fronts.csv; scores are above 0, the corner that areas are measured from."""
    for (first, second), tasks in lines.items():
        if len(tasks) != 2:
            continue
        planes = np.stack([scores for _, scores in tasks.values()], axis=-1)  # (1 + R, T, 2)
        areas = np.array([curves.dominated_area(points) for points in planes])
        of_ends = np.array([curves.dominated_area(points[[0, -1]]) for points in planes])
        first_task, second_task = tasks
        yield Front(
            first=first,
            second=second,
            first_task=first_task,
            second_task=second_task,
            on_front=len(curves.pareto_front(planes[0])),
            points=planes.shape[1],
            area=round(float(areas[0]), 6),
            area_of_ends=round(float(of_ends[0]), 6),
            gain=_spread(areas - of_ends),
        )
