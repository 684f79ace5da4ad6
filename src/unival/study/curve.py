"""The learning curve of a stage that trains: followed by MLflow, written as tables at its end."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unival import files
from unival.engine.settings import TrainConfig
from unival.errors import UserError
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.study.benchmark import Benchmark
from unival.study.train import train_on
from unival.tasks import TaskConfig
from unival.tracking import Tracker


class Curve:
    """Callback of a training run: figures go to MLflow, and the ones that do not depend on the machine to
    tables (`write`). A resumed run drops the lines after its checkpoint and goes on."""

    def __init__(self, tracker: Tracker, scratch: Path) -> None:
        self.tracker = tracker
        self.path = scratch / "curve.jsonl"

    def on_start(self, info: dict[str, Any]) -> None:
        """Forget what came after the checkpoint."""
        kept = [line for line in self._lines() if line["step"] <= info["start"]]
        files.write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.tracker.params(
            {key: info[key] for key in ("parameters", "trained_parameters", "device", "ranks")}
        )

    def on_log(self, step: int, values: dict[str, float]) -> None:
        """Append one line."""
        self.tracker.metrics(values, step)
        stable = {key: value for key, value in values.items() if not key.startswith("perf/")}
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, **stable}) + "\n")
            handle.flush()
            os.fsync(handle.fileno())  # a checkpoint without the lines before it would leave a hole

    def on_checkpoint(self, step: int, path: Any) -> None:
        """What is on disk should be in the store too."""
        self.tracker.flush()

    def on_end(self, result: Any) -> None:
        """The speed; the rest is written with the out."""
        self.tracker.metrics({"summary/examples_per_second": result.examples_per_second}, result.steps)

    def write(self, path: Path, finished: Path, validation: Path | None = None) -> None:
        """Write the tables, and the summary to MLflow.

        Args:
            path: a line per window of updates.
            finished: the folder of the trained model.
            validation: a line per validation; None where there is none.
        """
        lines, result = self._lines(), files.read_json(finished / "training.json")
        _write_lines(path, "train/loss", [line for line in lines if "train/loss" in line])
        if validation is not None:
            _write_lines(validation, "val/score", [line for line in lines if "val/score" in line])
        losses = [line["train/loss"] for line in lines if "train/loss" in line]
        summary = {"summary/loss": losses[-1]} if losses else {}
        if result["score"] is not None:
            summary |= {"best/score": result["score"], "best/step": result["best_step"]}
        self.tracker.metrics(summary, result["steps"])

    def _lines(self) -> list[dict[str, Any]]:
        """What has been logged. Half a line, which a kill or a full disk left at the end, is no line.

        Raises:
            UserError: another line is damaged.
        """
        if not self.path.exists():
            return []
        whole = self.path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            return [{**line, "step": int(line["step"])} for line in lines]
        except (ValueError, LookupError, TypeError) as error:
            fix = f"the curve is damaged: delete {self.path.parent} to train from the start"
            raise UserError(f"{self.path}: {error}: {fix}") from error


def _write_lines(path: Path, drawn: str, lines: list[dict[str, Any]]) -> None:
    """A table of lines; `drawn` is the column of its plot, which is there without any line, too."""
    columns = ["step", *sorted({drawn, *(key for line in lines for key in line)} - {"step"})]
    files.write_csv(path, columns, ([line.get(column) for column in columns] for line in lines))


def train_with_curve(
    model: UnivalForConditionalGeneration,
    processor: UnivalProcessor,
    benchmark: Benchmark,
    tasks: Mapping[str, TaskConfig],
    settings: TrainConfig,
    scratch: Path,
    tracker: Tracker,
    title: str,
) -> tuple[Path, Curve]:
    """Train in the scratch folder; returns the finished model folder in it, and the curve to be written.

    Raises:
        UserError: as `train_on`.
    """
    finished, curve = scratch / "finished", Curve(tracker, scratch)
    train_on(model, processor, benchmark, tasks, settings, finished, scratch, title, [curve])
    return finished, curve
