"""The league table: every merged model beside the experts, the pretrained and the jointly finetuned model.

A line per model and part (`id`: the test split; `ood`: the mean over shifted cells), over the tasks that the
model was merged for. `share` is the mean over tasks of the score relative to the task's expert, `worst` the
smallest of these. Intervals are bootstraps over rows, with the same draws for model and expert. `updates` is
the finetuning it took: one for each step of each task.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unival.metrics.bootstrap import resampled_means

if TYPE_CHECKING:
    from unival.stages.cells import Result

COLUMNS = (
    "model", "part", "tasks", "mean", "mean_low", "mean_high", "share", "share_low", "share_high",
    "worst", "worst_low", "worst_high", "worst_task", "updates",
)  # fmt: skip
EXPERTS = "experts"
Scores = dict[str, np.ndarray]
"""task -> its score, then the scores of the resamples: (1 + R,)."""


def rows(
    results: Sequence["Result"], tasks_of: Mapping[str, Sequence[str]], resamples: int
) -> Iterator[tuple[Any, ...]]:
    """Lines of the table. `tasks_of`: folder name of each merged model -> tasks."""
    pretrained = [result.spec.model for result in results if result.spec.kind == "pretrained"][:1]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, tasks in tasks_of.items():
        groups.setdefault(tuple(tasks), []).append(name)
    for tasks, names in groups.items():
        for part in ("id", "ood"):
            alone = {task: _scores(results, f"finetune/{task}", task, part, resamples) for task in tasks}
            experts = {task: found for task, found in alone.items() if found is not None}
            if len(experts) < len(tasks):
                continue
            yield _line(EXPERTS, part, experts, experts, sum(map(_updates, tasks)))
            for model in [*pretrained, *(f"merged/{name}" for name in names)]:
                found = {task: _scores(results, model, task, part, resamples) for task in tasks}
                known = {task: scores for task, scores in found.items() if scores is not None}
                if len(known) == len(tasks):
                    yield _line(model, part, known, experts, _cost(model, tasks))


def _scores(
    results: Sequence["Result"], model: str, task: str, part: str, resamples: int
) -> np.ndarray | None:
    """Mean over the cells of a part: the value, then the resamples; None without cells."""
    cells = []
    for result in results:
        spec = result.spec
        shifted = bool(spec.shift) or spec.split != "test"
        if (spec.model, spec.task, shifted) == (model, task, part == "ood"):
            seed = zlib.crc32(f"{task}/{spec.file}".encode())
            drawn = resampled_means(result.scores, seed, resamples)
            cells.append(np.concatenate([[result.value.value], drawn]))
    return np.mean(cells, axis=0) if cells else None


def _line(model: str, part: str, found: Scores, experts: Scores, updates: int) -> tuple[Any, ...]:
    scores = np.stack(list(found.values()))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = scores / np.stack([experts[task] for task in found])
    worst = shares.min(axis=0)
    lowest = list(found)[int(shares[:, 0].argmin())] if np.isfinite(shares).all() else ""
    return (
        model, part, " ".join(found), *_interval(scores.mean(axis=0)), *_interval(shares.mean(axis=0)),
        *_interval(worst), lowest, updates,
    )  # fmt: skip


def _interval(values: np.ndarray) -> tuple[Any, ...]:
    """Value, low and high; empty where an expert scored nothing, so that there is no share."""
    if not np.isfinite(values).all():
        return "", "", ""
    return tuple(round(float(v), 6) for v in (values[0], *np.quantile(values[1:], [0.025, 0.975])))


def _updates(task: str) -> int:
    path = Path("models/finetune") / task / "training.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["steps"])


def _cost(model: str, tasks: Sequence[str]) -> int:
    """Updates of finetuning behind a model: of its experts, and after them."""
    note = Path("models") / model / "again.json"
    if note.is_file():
        again = json.loads(note.read_text(encoding="utf-8"))
        return int(again["updates"]) + sum(map(_updates, again["experts"]))
    return sum(map(_updates, tasks)) if model.startswith("merged/") else 0
