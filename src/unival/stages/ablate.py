"""Studies of what each task, modality and choice of the curriculum buys, in one process.

A study trains variants under the same budget and compares each with the study's baseline on the same rows. A
variant is a list of phases, each a change to the study's common training configuration; equal variants of
different studies are trained once. Results are kept in the scratch folder under a digest of all they depend
on. Written files: reports/ablations/<study>.csv, a line per variant x seed x task (columns: COLUMNS).
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unival import config as configuration
from unival import files
from unival.engine.settings import TrainConfig
from unival.errors import UserError, nearest
from unival.stages.base import StageIO, rounded
from unival.tasks import TaskConfig

if TYPE_CHECKING:
    from unival.study.cells import Result

COLUMNS = (
    "study", "variant", "baseline", "seed", "task", "metric", "value", "low", "high", "n",
    "difference", "difference_low", "difference_high",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """How one model of a study is trained."""

    phases: list[dict[str, Any]]
    """One after the other; each holds values over `train`."""
    init: str | None = None
    """Model folder to start from; null: new weights."""


@dataclass(frozen=True)
class Study:
    """One question."""

    question: str
    tasks: list[str]
    """Where the variants are compared."""
    baseline: str
    """The variant the others are compared with."""
    variants: dict[str, Variant]
    paper: str = ""
    """The table of the paper it repeats in small."""

    def __post_init__(self) -> None:
        if self.baseline not in self.variants:
            raise ValueError(
                f"baseline '{self.baseline}' is no variant: {nearest(self.baseline, self.variants)}"
            )


@dataclass(frozen=True)
class Config:
    """`conf/stage/ablate.yaml`."""

    stage: str
    item: None
    data: str
    """The prepared benchmark."""
    model: dict[str, Any]
    processor: dict[str, Any]
    train: dict[str, Any]
    """TrainConfig that every phase of every variant starts from."""
    studies: list[str]
    """Which are made."""
    definitions: dict[str, Study]
    """name -> study, of those that are made."""
    tasks: dict[str, TaskConfig]
    seeds: list[int]
    rows: int
    """Test rows per task."""
    only: list[str] = field(default_factory=list)
    """Variants to run, for a sweep with a variant per job; empty: all."""
    batch_size: int = 128
    resamples: int = 1000

    def __post_init__(self) -> None:
        known = {variant for study in self.definitions.values() for variant in study.variants}
        for name in self.only:
            if name not in known:
                raise ValueError(f"only: '{name}' is no variant: {nearest(name, known)}")


def run(config: Config, io: StageIO) -> None:
    """Write a table per study."""
    from unival.engine.machine.runtime import parallel
    from unival.study.benchmark import Benchmark

    Benchmark(config.data, config.tasks).log(io, ["train", "test"])
    lab = Laboratory(config, io.shared_scratch)
    wanted = {
        name: [
            (variant, seed)
            for seed in config.seeds
            for variant in study.variants
            if not config.only or variant in config.only
        ]
        for name, study in config.definitions.items()
    }
    models = {lab.key(name, *one): (name, *one) for name, ones in wanted.items() for one in ones}
    parallel([partial(_results, config, io.shared_scratch, *model) for model in models.values()], "ablate")
    folder = io.scratch / "ablations"
    folder.mkdir(exist_ok=True)  # there may be no study
    for name, study in config.definitions.items():
        results = {one: lab.results(name, *one) for one in wanted[name]}
        files.write_csv(folder / f"{name}.csv", COLUMNS, _rows(name, study, results, config.resamples))
        _log(name, results, io)
    io.publish(folder, "reports/ablations")


def _results(config: Config, scratch: Path, study: str, variant: str, seed: int) -> None:
    """Train and evaluate a variant; the results are kept on disk."""
    Laboratory(config, scratch).results(study, variant, seed)


class Laboratory:
    """Trains variants and keeps their results."""

    def __init__(self, config: Config, scratch: Path) -> None:
        from unival.study.benchmark import Benchmark

        self.config, self.benchmark = config, Benchmark(config.data, config.tasks)
        self.folder = scratch / "variants"
        self.wanted: dict[str, set[str]] = {}
        for study_name, study in config.definitions.items():
            for name in study.variants:
                for seed in config.seeds:
                    # every configuration is checked before the first one runs
                    self._phases(study, name, seed)
                    self.wanted.setdefault(self.key(study_name, name, seed), set()).update(self._tasks(study))

    def results(self, study_name: str, name: str, seed: int) -> dict[str, "Result"]:
        """Results of a variant on the study's tasks; it is trained when it was not before."""
        from unival.study.benchmark import load_model
        from unival.study.cells import Cells, Spec

        study, key = self.config.definitions[study_name], self.key(study_name, name, seed)
        cells = Cells(
            self.folder / key / "cells", self.benchmark, self.config.tasks, self.config.batch_size,
            self.config.resamples,
        )  # fmt: skip
        load = cache(lambda: load_model(self._train(study, name, seed, key)))
        wanted = sorted(self.wanted[key])
        specs = [Spec(f"variant/{name}", "pretrained", task, "test", self.config.rows) for task in wanted]
        with files.locked(self.folder / f"{key}.lock"):  # a queued experiment may train the same variant
            found = cells.run(specs, key, load)
            shutil.rmtree(self.folder / key / "phases", ignore_errors=True)
        return {result.spec.task: result for result in found if result.spec.task in self._tasks(study)}

    def _tasks(self, study: Study) -> list[str]:
        return [task for task in study.tasks if self.benchmark.has("train", task)]

    def key(self, study_name: str, name: str, seed: int) -> str:
        """Digest of all that the variant's results depend on; variants of several studies may share it."""
        variant = self.config.definitions[study_name].variants[name]
        init = files.file_digest(Path(variant.init) / "model.safetensors") if variant.init else None
        data = [self.benchmark.digest(split) for split in ("train", "test")]
        tasks = {task: asdict(config) for task, config in self.config.tasks.items()}
        trained = [self.config.train, self.config.model, self.config.processor]
        return files.digest([variant.phases, init, seed, data, *trained, tasks])

    def _phases(self, study: Study, name: str, seed: int) -> list[TrainConfig]:
        """The training configuration of every phase.

        Raises:
            UserError: an unknown key or task.
        """
        phases = []
        for number, over in enumerate(study.variants[name].phases):
            where = f"study '{study.question}': variant '{name}': phase {number}"
            values = {**self.config.train, "seed": seed}
            for key, value in over.items():
                values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
            values["mixture"] = self._present(values["mixture"], where)
            phases.append(configuration.build(TrainConfig, values, where))
        return phases

    def _present(self, mixture: dict[str, Any], where: str) -> dict[str, Any]:
        """The mixture without the tasks that the benchmark lacks."""
        streams = [dict(stream) for stream in mixture["streams"]]
        for stream in streams:
            if stream["task"] not in self.config.tasks:
                raise UserError(
                    f"{where}: unknown task '{stream['task']}': {nearest(stream['task'], self.config.tasks)}"
                )
        kept = [stream for stream in streams if self.benchmark.has("train", stream["task"])]
        return {**mixture, "streams": kept, "rows": sum(stream.get("rows", 0) for stream in kept)}

    def _train(self, study: Study, name: str, seed: int, key: str) -> Path:
        """The model folder of the last phase."""
        from unival.engine.machine.runtime import load as load_runtime
        from unival.engine.train import train
        from unival.study.benchmark import load_model, new_model

        variant = study.variants[name]
        folder: Path | None = Path(variant.init) if variant.init else None
        for number, phase in enumerate(self._phases(study, name, seed)):
            work = self.folder / key / "phases" / str(number)
            if not (work / "model" / "training.json").is_file():
                if folder is None:
                    tokenizer = self.benchmark.tokenizer
                    model, processor = new_model(self.config.model, self.config.processor, tokenizer, seed)
                else:
                    model, processor = load_model(folder)
                names = [stream.task for stream in phase.mixture.streams]
                sources = self.benchmark.sources({task: self.config.tasks[task] for task in names}, processor)
                title = f"{name} phase {number}"
                train(phase, model, processor, sources, work / "model", work, load_runtime(), title=title)
            folder = work / "model"
        assert folder is not None
        return folder


Results = Mapping[tuple[str, int], Mapping[str, "Result"]]


def _rows(name: str, study: Study, results: Results, resamples: int) -> Iterator[tuple[Any, ...]]:
    for (variant, seed), found in results.items():
        for task, result in found.items():
            against = results.get((study.baseline, seed), {}).get(task)
            paired: tuple[Any, ...] = ("", "", "")
            if against is not None and variant != study.baseline:
                paired = rounded(result.minus(against, resamples))
            value = rounded(result.value)
            yield name, variant, study.baseline, seed, task, result.primary, *value, result.n, *paired


def _log(name: str, results: Results, io: StageIO) -> None:
    """A child run per variant and seed."""
    for (variant, seed), found in results.items():
        metrics = {f"{task}/{result.primary}": result.value.value for task, result in found.items()}
        for task, result in found.items():
            metrics |= {f"{task}/low": result.value.low, f"{task}/high": result.value.high}
        tags = {"unival.study": name, "unival.variant": variant, "unival.seed": str(seed)}
        io.tracker.child(f"{name}: {variant} (seed {seed})", tags, metrics)
        means = {f"summary/{name}/{variant}/{task}": result.value.value for task, result in found.items()}
        io.tracker.metrics(means)
