"""What several stages put together: models and processors from folders, rows and media of a split, tasks, and
the callback that carries a training run to MLflow and to its curve."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from unival import files
from unival.data.manifest import Records, read_records
from unival.data.remote import mirror
from unival.data.store import MediaStore
from unival.engine.batches.collate import MediaCache, Source
from unival.engine.inference.candidates import continuations
from unival.engine.inference.evaluate import validation_score
from unival.engine.machine.runtime import load as load_runtime
from unival.engine.settings import SelectionConfig, TrainConfig
from unival.engine.train import Evaluate, train
from unival.errors import UserError
from unival.model.configuration import UnivalConfig
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.stages.base import StageIO
from unival.tasks import Task, TaskConfig
from unival.tasks import build as build_task
from unival.tasks.base import AnsweringTask
from unival.vocab import UnivalTokenizer

TRAIN, VAL = "train", "val"

logging.disable_progress_bar()  # of transformers: a bar per small file says nothing


def load_model(
    folder: str | Path, processor: Mapping[str, Any] | None = None
) -> tuple[UnivalForConditionalGeneration, UnivalProcessor]:
    """Model, on the device of the runtime, and processor of a model folder; `processor` changes settings.

    Raises:
        UserError: the folder is missing or incomplete.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model there: run the stage that makes it, or `dvc repro`")
    model = UnivalForConditionalGeneration.from_pretrained(folder)
    model.to(load_runtime().apply())  # type: ignore[arg-type]
    return model, UnivalProcessor.from_pretrained(folder, **(processor or {}))


def new_model(
    model: Mapping[str, Any], processor: Mapping[str, Any], tokenizer: Path, seed: int
) -> tuple[UnivalForConditionalGeneration, UnivalProcessor]:
    """Model with new weights, and its processor, for the vocabulary in a folder.

    Raises:
        UserError: an unknown field or a value that does not fit.
    """
    vocabulary = UnivalTokenizer.from_pretrained(tokenizer)
    settings = UnivalConfig.from_settings(model, len(vocabulary), "model")
    torch.manual_seed(seed)
    return UnivalForConditionalGeneration(settings), UnivalProcessor(vocabulary, **processor)


@dataclass(frozen=True)
class Split:
    """Rows and media of one split; manifests open when asked for."""

    folder: Path
    store: MediaStore
    rows: Mapping[str, str]
    """Task -> the task whose rows it reads, where that is another one."""

    def records(self, task: str) -> Records:
        """Rows of a task."""
        return read_records(self.folder, self.rows.get(task, task))


class Benchmark:
    """A prepared benchmark: its description, splits and tasks (`tasks`: those that may read others' rows)."""

    def __init__(self, folder: str | Path, tasks: Mapping[str, TaskConfig]) -> None:
        self.folder = mirror(folder, Path("scratch/cache")) if "://" in str(folder) else Path(folder)
        self.rows = {name: config.rows for name, config in tasks.items() if config.rows}
        path = self.folder / "benchmark.json"
        try:
            self.facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no prepared data there: run `dvc repro prepare`") from error
        self._splits: dict[str, Split] = {}

    @property
    def shifts(self) -> list[str]:
        """Names of the stored out-of-distribution splits."""
        return [name for name in self.facts["splits"] if name.startswith("ood-")]

    def has(self, split: str, task: str) -> bool:
        """Whether there are rows of this task."""
        rows = self.facts["splits"].get(split, {}).get("rows", {})
        return bool(rows.get(self.rows.get(task, task)))

    def split(self, name: str) -> Split:
        """A split, opened once."""
        if name not in self._splits:
            folder = self.folder / name
            self._splits[name] = Split(folder, MediaStore(folder), self.rows)
        return self._splits[name]

    @property
    def tokenizer(self) -> Path:
        """Folder of the vocabulary trained on the train split."""
        return self.folder / "tokenizer"

    def digest(self, split: str) -> str:
        """Digest of all files of a split."""
        return str(self.facts["splits"][split]["digest"])

    def task(self, name: str, config: TaskConfig, processor: UnivalProcessor, split: str) -> Task:
        """A task that will see the rows of `split`."""
        train = self.split(TRAIN).records(name)
        task = build_task(name, config, processor, self.split(split).store, train, self.split(TRAIN).store)
        if config.answers_from == "train_and_evaluated" and isinstance(task, AnsweringTask):
            task.leaked = self.split(split).records(name)
        return task

    def sources(
        self, tasks: Mapping[str, TaskConfig], processor: UnivalProcessor, constrained: bool = False
    ) -> dict[str, Source]:
        """Training rows of each task; `constrained`: losses are limited to the set of answers, if any."""
        train, found = self.split(TRAIN), {}
        for name, config in tasks.items():
            task, allowed = self.task(name, config, processor, TRAIN), None
            if constrained and config.constraint == "answers":
                answers = [processor.tokenizer.encode_text(f" {answer}") for answer in task.answers()]
                allowed = continuations(answers, processor.tokenizer.eos_token_id)
            found[name] = Source(task, train.records(name), train.store, allowed, self.digest(TRAIN))
        return found

    def log(self, io: StageIO, splits: Iterable[str]) -> None:
        """Note in MLflow which data were read."""
        for name in splits:
            io.tracker.dataset(f"{self.folder.name}-{name}", self.digest(name), str(self.folder / name), name)


def validation(
    benchmark: Benchmark,
    tasks: Mapping[str, TaskConfig],
    processor: UnivalProcessor,
    selection: SelectionConfig | None,
) -> Evaluate | None:
    """What scores the model on validation rows during training: the mean of the tasks' primary metrics."""
    if selection is None:
        return None
    split, cache = benchmark.split(selection.split), MediaCache()
    rows = {name: split.records(name)[: selection.rows] for name in tasks}
    built = {name: benchmark.task(name, config, processor, selection.split) for name, config in tasks.items()}

    def evaluate(model: Any) -> dict[str, float]:
        found = {
            name: validation_score(model, processor, task, rows[name], split.store, cache=cache)
            for name, task in built.items()
        }
        if len(found) == 1:
            return next(iter(found.values()))
        scores = {f"{name}/{key}": value for name, means in found.items() for key, value in means.items()}
        return {**scores, "score": sum(means["score"] for means in found.values()) / len(found)}

    return evaluate


class Curve:
    """Callback of a training run: figures go to MLflow, and the ones that do not depend on the machine to
    `reports/curves/<name>.csv`. A resumed run drops the lines after its checkpoint and goes on."""

    def __init__(self, io: StageIO) -> None:
        self.io = io
        self.path = io.scratch / "curve.jsonl"

    def on_start(self, info: dict[str, Any]) -> None:
        """Forget what came after the checkpoint."""
        kept = [line for line in self._lines() if line["step"] <= info["start"]]
        files.write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.io.tracker.params(
            {key: info[key] for key in ("parameters", "trained_parameters", "device", "ranks")}
        )

    def on_log(self, step: int, values: dict[str, float]) -> None:
        """Append one line."""
        self.io.tracker.metrics(values, step)
        stable = {key: value for key, value in values.items() if not key.startswith("perf/")}
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, **stable}) + "\n")

    def on_checkpoint(self, step: int, path: Any) -> None:
        """What is on disk should be in the store too."""
        self.io.tracker.flush()

    def on_end(self, result: Any) -> None:
        """The speed; the rest is written with the out."""
        self.io.tracker.metrics({"summary/examples_per_second": result.examples_per_second}, result.steps)

    def write(self, result: Mapping[str, Any]) -> None:
        """Write the curve and the summary; `result` is the model's training.json."""
        lines = self._lines()
        columns = ["step", *sorted({key for line in lines for key in line} - {"step"})]
        rows = ([line.get(column) for column in columns] for line in lines)
        files.write_csv(self.io.out(f"reports/curves/{self.io.name}.csv"), columns, rows)
        losses = [line["train/loss"] for line in lines if "train/loss" in line]
        summary = {"summary/loss": losses[-1]} if losses else {}
        if result["score"] is not None:
            summary |= {"best/score": result["score"], "best/step": result["best_step"]}
        self.io.tracker.metrics(summary, result["steps"])

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


def train_and_publish(
    config: TrainConfig,
    model: UnivalForConditionalGeneration,
    processor: UnivalProcessor,
    sources: Mapping[str, Source],
    out: str,
    io: StageIO,
    evaluate: Evaluate | None = None,
) -> None:
    """Train in the scratch folder, then write the out, the curve and the summary once."""
    finished, curve = io.scratch / "finished", Curve(io)
    train(config, model, processor, sources, finished, io.scratch, load_runtime(), [curve], evaluate, io.name)
    if io.main:
        curve.write(files.read_json(finished / "training.json"))
        io.publish(finished, out)
