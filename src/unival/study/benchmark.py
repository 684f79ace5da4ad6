"""A prepared benchmark as the stages use it: rows and media of its splits, tasks, validation scores."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unival.data.manifest import Records, read_records
from unival.data.remote import local
from unival.data.store import MediaStore
from unival.engine.batches.rows import MediaCache, Rows
from unival.engine.inference.candidates import continuations
from unival.engine.inference.evaluate import validation_score
from unival.engine.settings import SelectionConfig
from unival.engine.train import Evaluate
from unival.errors import UserError, nearest
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.tasks import Task, TaskConfig
from unival.tasks import build as build_task
from unival.tasks.base import AnsweringTask, AnswerPool
from unival.tracking import Tracker

PRETRAIN, TRAIN, VAL = "pretrain", "train", "val"


@dataclass(frozen=True)
class PreparedSplit:
    """Rows and media of one split; manifests open when asked for."""

    folder: Path
    store: MediaStore
    rows: Mapping[str, str]
    """Task -> the task whose rows it reads, where that is another one."""
    cache: MediaCache = field(default_factory=MediaCache)
    """Of media that are predicted on; a loader, which reads beside it, has its own."""
    opened: dict[str, Records] = field(default_factory=dict)

    def records(self, task: str) -> Records:
        """Rows of a task, opened once."""
        name = self.rows.get(task, task)
        if name not in self.opened:
            self.opened[name] = read_records(self.folder, name)
        return self.opened[name]


class Benchmark:
    """A prepared benchmark: its description, splits and tasks (`tasks`: those that may read others' rows)."""

    def __init__(self, folder: str | Path, tasks: Mapping[str, TaskConfig]) -> None:
        self.folder = local(folder)
        self.rows = {name: config.rows for name, config in tasks.items() if config.rows}
        path = self.folder / "benchmark.json"
        try:
            self.facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no prepared data there: run `dvc repro prepare`") from error
        self._splits: dict[str, PreparedSplit] = {}
        self._pools: dict[tuple[str, str], AnswerPool] = {}

    @property
    def shifts(self) -> list[str]:
        """Names of the stored out-of-distribution splits."""
        return [name for name in self.facts["splits"] if name.startswith("ood-")]

    def has(self, split: str, task: str) -> bool:
        """Whether there are rows of this task."""
        rows = self.facts["splits"].get(split, {}).get("rows", {})
        return bool(rows.get(self.rows.get(task, task)))

    def split(self, name: str) -> PreparedSplit:
        """A split, opened once."""
        if name not in self._splits:
            folder = self.folder / name
            self._splits[name] = PreparedSplit(folder, MediaStore(folder), self.rows)
        return self._splits[name]

    @property
    def tokenizer(self) -> Path:
        """Folder of the vocabulary trained on the train split."""
        return self.folder / "tokenizer"

    def digest(self, split: str) -> str:
        """Digest of all files of a split.

        Raises:
            UserError: there is no such split.
        """
        known = self.facts["splits"]
        if split not in known:
            raise UserError(f"{self.folder / 'benchmark.json'}: no split '{split}': {nearest(split, known)}")
        return str(known[split]["digest"])

    def task(self, name: str, config: TaskConfig, processor: UnivalProcessor, split: str) -> Task:
        """A task that will see the rows of `split`; what it knows is of that split's training rows."""
        known = PRETRAIN if split == PRETRAIN else TRAIN
        train = self.split(known)
        task = build_task(name, config, processor, self.split(split).store, train.records(name), train.store)
        if isinstance(task, AnsweringTask):
            if config.constraint == "answers":  # all rows are read for it: once for all cells and models
                task.pool = self._pools[known, name] = self._pools.get((known, name)) or task.pool
            if config.answers_from == "train_and_evaluated":
                task.leaked = self.split(split).records(name)
        return task

    def rows_of(
        self, name: str, config: TaskConfig, processor: UnivalProcessor, split: str, count: int | None
    ) -> Rows:
        """The rows of a task in a split, at most the first `count`, to be predicted."""
        records = self.split(split).records(name)[:count]
        task = self.task(name, config, processor, split)
        return Rows(task, records, self.split(split).store, self.split(split).cache)

    def training_rows(
        self,
        tasks: Mapping[str, TaskConfig],
        processor: UnivalProcessor,
        constrained: bool = False,
        split: str = TRAIN,
    ) -> dict[str, Rows]:
        """Training rows of each task, of `train` where `split` has none of it.

        Args:
            constrained: losses are limited to the set of answers, if any.
        """
        caches, rows_of = defaultdict[str, MediaCache](MediaCache), {}
        for name, config in tasks.items():
            source = self.trained_on(split, name)
            train = self.split(source)
            task, allowed = self.task(name, config, processor, source), None
            if constrained and config.constraint == "answers":
                answers = [processor.tokenizer.encode_text(f" {answer}") for answer in task.answers()]
                allowed = continuations(answers, processor.tokenizer.eos_token_id)
            rows_of[name] = Rows(
                task, train.records(name), train.store, caches[source], allowed, self.digest(source)
            )
        return rows_of

    def trained_on(self, split: str, task: str) -> str:
        """The split whose rows of a task are trained on: this one, or `train` where it has none."""
        return split if self.has(split, task) else TRAIN

    def log(self, tracker: Tracker, splits: Iterable[str]) -> None:
        """Note in MLflow which data were read."""
        for name in splits:
            tracker.dataset(f"{self.folder.name}-{name}", self.digest(name), str(self.folder / name), name)


def validation(
    benchmark: Benchmark,
    tasks: Mapping[str, TaskConfig],
    processor: UnivalProcessor,
    selection: SelectionConfig | None,
) -> Evaluate | None:
    """What scores the model on validation rows during training: the mean of the tasks' primary metrics."""
    if selection is None:
        return None
    rows = {
        name: benchmark.rows_of(name, config, processor, selection.split, selection.rows)
        for name, config in tasks.items()
    }

    def evaluate(model: UnivalForConditionalGeneration) -> dict[str, float]:
        by_task = {name: validation_score(model, processor, chosen) for name, chosen in rows.items()}
        if len(by_task) == 1:
            return next(iter(by_task.values()))
        scores = {f"{name}/{key}": value for name, means in by_task.items() for key, value in means.items()}
        return {**scores, "score": sum(means["score"] for means in by_task.values()) / len(by_task)}

    return evaluate
