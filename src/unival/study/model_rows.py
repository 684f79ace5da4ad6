"""What MLflow is told of the models of a study: where each lies, what made it, its scores by data set."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from unival import config, files
from unival.engine.inference.predictions import entries
from unival.study.leaderboard import made
from unival.tasks import TaskConfig
from unival.tracking import DIGEST, ModelScore, Tracker

if TYPE_CHECKING:
    from unival.study.benchmark import Benchmark
    from unival.study.cells import Result

TEST = "test"
READ = ("model.safetensors", "config.json", "processor_config.json")
"""Files of a model folder that its scores hang on."""
EXAMPLES = 16
"""Rows of a task that a training run shows."""
ORDER = ("pretrained", "finetuned", "merged")


def digests(folder: Path) -> list[str]:
    """What identifies a model: its weights, its sizes and its processor.

    Raises:
        OSError: a file is not there.
    """
    return [files.file_digest(folder / name) for name in READ]


def tags(folder: Path) -> dict[str, str]:
    """Where a model lies and what made it, from the records in its folder.

    Raises:
        OSError: as `digests`.
    """
    training = folder / "training.json"
    origin = files.read_json(training).get("origin", {}) if training.is_file() else {}
    parents = list(made(f"merged/{folder.name}").get("updates", {})) or [origin.get("start")]
    tags_of_model = {
        DIGEST: files.digest(digests(folder)),
        "unival.folder": str(folder),
        "unival.parents": ", ".join(parent for parent in parents if parent),
        "dvc.md5": _dvc_digest(folder),
    }
    return {key: value for key, value in tags_of_model.items() if value}


def log(results: Sequence["Result"], benchmark: "Benchmark", tracker: Tracker) -> None:
    """A row per model: task -> primary metric and the ends of its interval, on each data set."""
    by_model: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: ORDER.index(result.spec.kind)):
        by_model.setdefault(result.spec.model, []).append(result)
    for model, cells in by_model.items():
        scores = [
            ModelScore(f"{cell.spec.task}{end}", value, cell.spec.place, benchmark.digest(cell.spec.split))
            for cell in sorted(
                cells, key=lambda cell: cell.spec.place == TEST
            )  # it stands for the model in a run
            for end, value in zip(("", "/low", "/high"), cell.value, strict=True)
        ]
        tracker.model(model, cells[0].spec.kind, tags(Path("models") / model), _source(model), scores)


def _source(model: str) -> str | None:
    """The run that made a model, as its stage has noted."""
    name = "merge" if model.startswith("merged/") else model.replace("/", "-")
    pointer = Path(f"reports/runs/{name}.json")
    return files.read_json(pointer).get("run_id") if pointer.is_file() else None


def _dvc_digest(folder: Path) -> str:
    """What `dvc.lock` has for a folder, or for the one it is in."""
    lock = Path("dvc.lock")
    stages = config.load(lock).get("stages", {}) if lock.is_file() else {}
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ())}
    return str(outs.get(str(folder)) or outs.get(str(folder.parent)) or "")


def log_examples(
    folder: Path, benchmark: "Benchmark", tasks: Mapping[str, TaskConfig], scratch: Path, tracker: Tracker
) -> None:
    """Tables of what a trained model says of validation rows: `examples/<task>`."""
    from unival.study.cells import Cells, CellSpec
    from unival.study.models import load_model

    cells = Cells(scratch / "examples", benchmark, dict(tasks), EXAMPLES, resamples=1)
    shown = [task for task in tasks if benchmark.has("val", task)]
    specs = [CellSpec(folder.name, "finetuned", task, "val", EXAMPLES) for task in shown]
    for result in cells.run(specs, digests(folder), cache(lambda: load_model(folder))):
        tracker.table(examples(result, EXAMPLES), f"examples/{result.spec.task}")


def examples(result: "Result", count: int) -> list[dict[str, str]]:
    """The first rows of a cell: what was asked, what is right, what was said, and its score."""
    shown = []
    for _, row in islice(entries(result.predictions), count):
        names = ["answers", "references"] if isinstance(row["prediction"], str) else ["box"]
        right = next((row[name] for name in names if row.get(name)), None)
        values = {"question": row["text"], "reference": right, "prediction": row["prediction"]}
        cells = {"id": row["id"], **values, result.primary: row["scores"].get(result.primary)}
        shown.append({key: json.dumps(value) for key, value in cells.items()})
    return shown
