"""Tables about merged models: the league, the pairwise merge matrix, and fronts between two tasks.

league.csv, a line per model and part (`id`: the test split; `ood`: the mean over shifted cells), over the
tasks that the model was merged for: merges beside experts, the pretrained and the jointly finetuned model.
`share` is the mean over tasks of the score relative to the task's expert, `worst` the smallest of these,
`front` whether no model with the same tasks is better in one of id and ood share and no worse in the other,
`robustness` (of ood) what the share has above the line from the pretrained model to the experts, `updates`
the finetuning behind the model: one for each step of each task.

pairs.csv, a line per pair and task, from the interpolation between two models: the barrier of the score, and
what the middle has above the better end and above the mean of both; p values are corrected after Holm.

fronts.csv, a line per pair: the area that the points of the line dominate in the plane of the two tasks'
scores, and the area that its ends do.

Intervals are bootstraps over media, with the same draws for all models and all corruptions of a task's rows.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unival import files
from unival.merging import curves
from unival.metrics.bootstrap import resampled_means

if TYPE_CHECKING:
    from unival.study.cells import Result

    Point = tuple[str, str, float, Result]
    """First and second model, place between them, result there."""

COLUMNS = (
    "model", "part", "tasks", "mean", "mean_low", "mean_high", "share", "share_low", "share_high",
    "worst", "worst_low", "worst_high", "worst_task", "front", "robustness", "updates",
)  # fmt: skip
PAIR_COLUMNS = (
    "first", "second", "task", "barrier", "barrier_low", "barrier_high", "barrier_at", "middle",
    "minus_best", "minus_best_low", "minus_best_high", "p", "minus_mean", "minus_mean_low", "minus_mean_high",
)  # fmt: skip
FRONT_COLUMNS = (
    "first", "second", "first_task", "second_task", "on_front", "points", "area", "area_of_ends",
    "gain", "gain_low", "gain_high",
)  # fmt: skip
EXPERTS = "experts"
Scores = dict[str, np.ndarray]
"""task -> its score, then the scores of the resamples: (1 + R,)."""


def rows(
    results: Sequence["Result"], tasks_of: Mapping[str, Sequence[str]], resamples: int
) -> Iterator[tuple[Any, ...]]:
    """Lines of the league. `tasks_of`: folder name of each merged model -> tasks."""
    pretrained = [result.spec.model for result in results if result.spec.kind == "pretrained"][:1]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, tasks in tasks_of.items():
        groups.setdefault(tuple(tasks), []).append(f"merged/{name}")
    for tasks, names in groups.items():
        lines = []
        for part in ("id", "ood"):
            experts = _of_tasks(results, {task: f"finetune/{task}" for task in tasks}, part, resamples)
            if experts is None:
                continue
            lines.append(_line(EXPERTS, part, experts, experts, sum(map(_updates, tasks))))
            for model in [*pretrained, *names]:
                found = _of_tasks(results, dict.fromkeys(tasks, model), part, resamples)
                if found is not None:
                    lines.append(_line(model, part, found, experts, _cost(model)))
        _compare(lines, pretrained)
        for line in lines:
            yield tuple(line[column] for column in COLUMNS)


def _of_tasks(
    results: Sequence["Result"], models: Mapping[str, str], part: str, resamples: int
) -> Scores | None:
    """Scores on tasks, each of its model; None where one is missing."""
    found = {}
    for task, name in models.items():
        cells = [
            _drawn(result, resamples)
            for result in results
            if (result.spec.model, result.spec.task) == (name, task)
            and (bool(result.spec.shift) or result.spec.split != "test") == (part == "ood")
        ]
        if not cells:
            return None
        found[task] = np.mean(cells, axis=0)
    return found


def _drawn(result: "Result", resamples: int) -> np.ndarray:
    """The score, then the scores of the resamples: (1 + R,).

    Equal draws for all models, and for all corruptions of the same rows: their mean is no better known
    than one of them. Tasks and splits are drawn apart also where they share media, which makes the intervals
    of means over them somewhat narrow.
    """
    seed = zlib.crc32(f"{result.spec.task}/{result.spec.split}".encode())
    drawn = resampled_means(result.scores, seed, resamples, result.groups)
    return np.concatenate([[result.value.value], drawn])


def _line(model: str, part: str, found: Scores, experts: Scores, updates: int) -> dict[str, Any]:
    scores = np.stack(list(found.values()))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = scores / np.stack([experts[task] for task in found])
    lowest = list(found)[int(shares[:, 0].argmin())] if np.isfinite(shares).all() else ""
    line: dict[str, Any] = {"model": model, "part": part, "tasks": " ".join(found)}
    measures = {"mean": scores.mean(axis=0), "share": shares.mean(axis=0), "worst": shares.min(axis=0)}
    for name, values in measures.items():
        line |= _interval(name, values)
    return {**line, "worst_task": lowest, "front": "", "robustness": "", "updates": updates}


def _compare(lines: Sequence[dict[str, Any]], pretrained: Sequence[str]) -> None:
    """Fill in `front` and `robustness` of models that have both parts."""
    parts = {(line["model"], line["part"]): line for line in lines if line["share"] != ""}
    models = [model for model, part in parts if part == "id" and (model, "ood") in parts]
    plane = {model: (parts[model, "id"]["share"], parts[model, "ood"]["share"]) for model in models}
    on_front = {models[i] for i in curves.pareto_front(list(plane.values()))} if models else set()
    ends = [plane[model] for model in (*pretrained, EXPERTS) if model in plane]
    for model, (inside, outside) in plane.items():
        for part in ("id", "ood"):
            parts[model, part]["front"] = int(model in on_front)
        if len(ends) == 2 and ends[0][0] != ends[1][0]:
            found = curves.effective_robustness(inside, outside, ends, "linear")
            parts[model, "ood"]["robustness"] = round(found, 6)


def _interval(name: str, values: np.ndarray) -> dict[str, Any]:
    """Value, low and high; empty where an expert scored nothing, so that there is no share."""
    keys = (name, f"{name}_low", f"{name}_high")
    if not np.isfinite(values).all():
        return dict.fromkeys(keys, "")
    found = (values[0], *np.quantile(values[1:], [0.025, 0.975]))
    return {key: round(float(value), 6) for key, value in zip(keys, found, strict=True)}


def _updates(task: str) -> int:
    return int(files.read_json(Path("models/finetune") / task / "training.json")["steps"])


def made(model: str) -> dict[str, Any]:
    """The note of the stage merge about a model below models/ (tasks, updates); empty for other models."""
    note = Path("models") / model / "made.json"
    return dict(files.read_json(note)) if note.is_file() else {}


def _cost(model: str) -> int:
    """Updates of finetuning behind a model."""
    return sum(made(model).get("updates", {}).values())


Lines = dict[tuple[str, str], dict[str, tuple[list[float], np.ndarray]]]
"""pair -> task -> places, and scores there with those of the resamples: (1 + R, T)."""


def lines_of(points: Sequence["Point"], resamples: int) -> Lines:
    """The interpolated points put together by pair and task."""
    found: dict[tuple[str, str], dict[str, list[tuple[float, np.ndarray]]]] = {}
    for first, second, place, result in points:
        tasks = found.setdefault((first, second), {})
        tasks.setdefault(result.spec.task, []).append((place, _drawn(result, resamples)))
    return {
        pair: {
            task: ([place for place, _ in line], np.stack([scores for _, scores in line], axis=1))
            for task, line in tasks.items()
        }
        for pair, tasks in found.items()
    }


def pair_rows(lines: Lines) -> Iterator[tuple[Any, ...]]:
    """Lines of pairs.csv."""
    table = []
    for (first, second), tasks in lines.items():
        for task, (places, scores) in tasks.items():
            heights, tops = curves.barrier(places, -scores)
            row = {"first": first, "second": second, "task": task, **_interval("barrier", heights)}
            row |= dict.fromkeys(PAIR_COLUMNS[7:], "") | {"barrier_at": round(float(tops[0]), 6)}
            if 0.5 in places:
                middle, ends = scores[:, places.index(0.5)], scores[:, [0, -1]]
                best = middle - ends.max(axis=1)
                below, above = (float(found.mean()) for found in (best[1:] <= 0, best[1:] >= 0))
                row |= {"middle": round(float(middle[0]), 6), **_interval("minus_best", best)}
                row |= {**_interval("minus_mean", middle - ends.mean(axis=1))}
                row["p"] = min(2 * max(min(below, above), 1 / len(best)), 1.0)
            table.append(row)
    tested = [row for row in table if row["p"] != ""]
    for row, p in zip(tested, curves.holm([row["p"] for row in tested]), strict=True):
        row["p"] = round(p, 6)
    for row in table:
        yield tuple(row[column] for column in PAIR_COLUMNS)


def front_rows(lines: Lines) -> Iterator[tuple[Any, ...]]:
    """Lines of fronts.csv; scores are above 0, the corner that areas are measured from."""
    for pair, tasks in lines.items():
        if len(tasks) != 2:
            continue
        planes = np.stack([scores for _, scores in tasks.values()], axis=-1)  # (1 + R, T, 2)
        front = curves.pareto_front(planes[0])
        areas = np.array([curves.hypervolume(points, (0, 0)) for points in planes])
        of_ends = np.array([curves.hypervolume(points[[0, -1]], (0, 0)) for points in planes])
        gain = _interval("gain", areas - of_ends)
        areas_found = (round(float(areas[0]), 6), round(float(of_ends[0]), 6))
        yield (*pair, *tasks, len(front), planes.shape[1], *areas_found, *gain.values())
