"""Variants of a study: trained under one budget, each once, their results kept on disk.

A variant is a list of phases, each a change to the study's common training configuration; equal variants of
different studies are trained once. Results lie under a digest of all they depend on.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unival import code, files, provenance
from unival import config as configuration
from unival.engine.settings import TrainConfig
from unival.errors import UserError, nearest
from unival.study.tables import Conflict
from unival.tasks import TaskConfig

if TYPE_CHECKING:
    from unival.study.benchmark import Benchmark
    from unival.study.cells import Result


COSINES = "conflict.json"
"""Beside a variant's results: lines of `unival.engine.conflict`, none where its phases ask for none."""


@dataclass(frozen=True)
class Variant:
    """How one model of a study is trained."""

    phases: list[dict[str, Any]]
    """One after the other; each holds values over `train`."""
    init: str | None = None
    """Model folder to start from, which is tested as it is where there is no phase; null: new weights."""
    model: dict[str, Any] = field(default_factory=dict)
    """Values over the study's model, for new weights of another size."""

    def __post_init__(self) -> None:
        if self.model and self.init is not None:
            raise ValueError(f"model is for new weights, and init names the model {self.init}: leave one out")
        if not self.phases and self.init is None:
            raise ValueError("phases is empty and init names no model: there is nothing to test")


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
                f"baseline '{self.baseline}' is not a variant: {nearest(self.baseline, self.variants)}"
            )


@dataclass
class Laboratory:
    """Trains variants and keeps their results."""

    folder: Path
    """Where the results are kept."""
    benchmark: "Benchmark"
    tasks: dict[str, TaskConfig]
    definitions: Mapping[str, Study]
    """name -> study."""
    seeds: Sequence[int]
    model: dict[str, Any]
    """Fields of UnivalConfig, for new weights."""
    processor: dict[str, Any]
    """Settings of UnivalProcessor, for new weights."""
    train: dict[str, Any]
    """TrainConfig that every phase of every variant starts from."""
    split: str
    """Where models are scored."""
    rows: int
    """Its rows per task."""
    batch_size: int
    resamples: int

    def __post_init__(self) -> None:
        from unival.model.configuration import UnivalConfig

        self.wanted: dict[str, set[str]] = {}
        for study_name, study in self.definitions.items():
            for name in study.variants:
                for seed in self.seeds:
                    # every configuration is checked before the first one runs
                    self._phases(study, name, seed)
                    model, where = self._model(study, name), f"variant '{name}': model"
                    UnivalConfig.from_settings(model, UnivalConfig.vocab_size, where)
                    self.wanted.setdefault(self.key(study_name, name, seed), set()).update(self._tasks(study))

    def results(self, study_name: str, name: str, seed: int) -> dict[str, "Result"]:
        """Results of a variant on the study's tasks; it is trained when it was not before."""
        from unival.study.cells import Cells, CellSpec
        from unival.study.models import load_model

        study, key = self.definitions[study_name], self.key(study_name, name, seed)
        cells = Cells(
            self.folder / key / "cells", self.benchmark, self.tasks, self.batch_size,
            self.resamples,
        )  # fmt: skip
        load = cache(lambda: load_model(self._train(study, name, seed, key)))
        wanted = sorted(self.wanted[key])
        specs = [CellSpec(f"variant/{name}", "pretrained", task, self.split, self.rows) for task in wanted]
        with files.locked(self.folder / f"{key}.lock"):  # a queued experiment may train the same variant
            if not (self.folder / key / COSINES).is_file():
                load()
            scored = cells.run(specs, key, load)
            shutil.rmtree(self.folder / key / "phases", ignore_errors=True)
        return {result.spec.task: result for result in scored if result.spec.task in self._tasks(study)}

    def conflict(self, study_name: str, name: str, seed: int) -> Iterator[Conflict]:
        """Of the variant, whose results are there: how the gradients of its tasks lie to each other."""
        for line in files.read_json(self.folder / self.key(study_name, name, seed) / COSINES)["lines"]:
            yield Conflict(study=study_name, variant=name, seed=seed, **line)

    def _model(self, study: Study, name: str) -> dict[str, Any]:
        return configuration.overlay(self.model, study.variants[name].model)

    def _tasks(self, study: Study) -> list[str]:
        return [task for task in study.tasks if self.benchmark.has("train", task)]

    def key(self, study_name: str, name: str, seed: int) -> str:
        """Digest of all that the variant's results depend on; variants of several studies may share it."""
        study = self.definitions[study_name]
        variant = study.variants[name]
        init = files.file_digest(Path(variant.init) / "model.safetensors") if variant.init else None
        read = {"train", self.split, *(phase.split for phase in self._phases(study, name, seed))}
        data = [
            self.benchmark.digest(split) for split in sorted(read) if split in self.benchmark.facts["splits"]
        ]
        tasks = {task: asdict(config) for task, config in self.tasks.items()}
        trained = [self.train, self._model(study, name), self.processor]
        made_by = [code.digest("unival.study.variants"), provenance.kernels()]
        return files.digest([variant.phases, init, seed, data, *trained, tasks, made_by])

    def _phases(self, study: Study, name: str, seed: int) -> list[TrainConfig]:
        """The training configuration of every phase.

        Raises:
            UserError: an unknown key or task.
        """
        phases = []
        for number, over in enumerate(study.variants[name].phases):
            where = f"study '{study.question}': variant '{name}': phase {number}"
            values = configuration.overlay({**self.train, "seed": seed}, over)
            values["mixture"] = self._present(values["mixture"], where)
            phases.append(configuration.build(TrainConfig, values, where))
        return phases

    def _present(self, mixture: dict[str, Any], where: str) -> dict[str, Any]:
        """The mixture without the tasks that the benchmark lacks."""
        streams = [dict(stream) for stream in mixture["streams"]]
        for stream in streams:
            if stream["task"] not in self.tasks:
                raise UserError(
                    f"{where}: unknown task '{stream['task']}': {nearest(stream['task'], self.tasks)}"
                )
        kept = [stream for stream in streams if self.benchmark.has("train", stream["task"])]
        return {**mixture, "streams": kept, "rows": sum(stream.get("rows", 0) for stream in kept)}

    def _train(self, study: Study, name: str, seed: int, key: str) -> Path:
        """The model folder of the last phase."""
        from unival.study.models import load_model, new_model
        from unival.study.train import train_on

        variant, conflict = study.variants[name], list[dict[str, Any]]()
        folder: Path | None = Path(variant.init) if variant.init else None
        before = 0
        for number, phase in enumerate(self._phases(study, name, seed)):
            work = self.folder / key / "phases" / str(number)
            if not (work / "model" / "training.json").is_file():
                if folder is None:
                    tokenizer = self.benchmark.tokenizer
                    settings = self._model(study, name)
                    model, processor = new_model(settings, self.processor, tokenizer, seed)
                else:
                    model, processor = load_model(folder)
                tasks = {stream.task: self.tasks[stream.task] for stream in phase.mixture.streams}
                title = f"{name} phase {number}"
                train_on(model, processor, self.benchmark, tasks, phase, work / "model", work, title)
            folder = work / "model"
            found = files.read_json(folder / "training.json").get("conflict", [])
            conflict += [{**line, "step": before + line["step"]} for line in found]
            before += phase.steps
        files.write_json(self.folder / key / COSINES, {"lines": conflict})
        assert folder is not None
        return folder
