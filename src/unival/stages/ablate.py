"""Studies of what each task, modality and choice of the curriculum buys, in one process.

A study trains variants under the same budget and compares each with the study's baseline on the same rows
(`unival.study.variants`). Written files: reports/ablations/<study>.csv, a line per variant x seed x task
(`unival.study.tables.Ablation`); reports/ablations/rows.parquet, the score of every row of these; and
reports/ablations/conflict.csv where variants compare the gradients of their tasks (`train.conflict`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from unival.config import check_names, pick
from unival.data.remote import local
from unival.errors import nearest
from unival.stages.base import Laid, StageIO
from unival.study import row_scores, tables
from unival.study.tables import CONFLICT, Ablation, Conflict
from unival.study.variants import Laboratory, Study
from unival.tasks import TaskConfig

if TYPE_CHECKING:
    from unival.study.cells import Result
    from unival.tracking import Tracker


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
    """Rows of the split per task."""
    split: str = "test"
    """Where variants are scored; `val` to choose between settings of one."""
    only: list[str] = field(default_factory=list)
    """Variants to run, for a sweep with a variant per job; empty: all."""
    batch_size: int = 128
    resamples: int = 1000

    def __post_init__(self) -> None:
        check_names("studies", self.definitions)
        if CONFLICT in self.definitions:
            raise ValueError(f"studies: '{CONFLICT}' is the name of another table: call the study otherwise")
        for study in self.definitions.values():
            check_names("variants", study.variants)
        known = {variant for study in self.definitions.values() for variant in study.variants}
        for name in self.only:
            if name not in known:
                raise ValueError(f"only: '{name}' is not a variant: {nearest(name, known)}")


def keep(values: dict[str, Any], laid: Laid) -> dict[str, Any]:
    """The values with the definitions of the chosen studies alone."""
    return values | {"definitions": pick(values["definitions"], values["studies"], "studies")}


def inputs(config: Config) -> list[Path]:
    """What the stage reads."""
    variants = [variant for study in config.definitions.values() for variant in study.variants.values()]
    return [local(config.data), *(Path(variant.init) for variant in variants if variant.init)]


def run(config: Config, io: StageIO) -> None:
    """Write a table per study."""
    from unival.engine.machine.runtime import parallel
    from unival.study.benchmark import Benchmark

    benchmark = Benchmark(config.data, config.tasks)
    benchmark.log(io.tracker, ["train", config.split])
    lab = Laboratory(
        io.shared_scratch / "variants", benchmark, config.tasks, config.definitions, config.seeds,
        config.model, config.processor, config.train, config.split, config.rows, config.batch_size,
        config.resamples,
    )  # fmt: skip
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
    parallel([partial(lab.results, *model) for model in models.values()], "ablate")  # kept on disk
    if not io.main:
        return
    folder = io.scratch / "ablations"
    folder.mkdir(exist_ok=True)  # there may be no study
    rows: list[tuple[str, Result]] = []
    conflict: list[Conflict] = []
    for name, study in config.definitions.items():
        results = {one: lab.results(name, *one) for one in wanted[name]}
        ablations = _ablations(name, study, results, config.resamples)
        tables.write(folder / f"{name}.csv", Ablation, ablations)
        rows += [
            (f"{name}/{variant}", result)
            for (variant, _), of_tasks in results.items()
            for result in of_tasks.values()
        ]
        lines = {one: list(lab.conflict(name, *one)) for one in wanted[name]}
        conflict += [line for of_one in lines.values() for line in of_one]
        _log(name, results, lines, io.tracker)
    row_scores.write(folder / row_scores.NAME, rows)
    if conflict:
        tables.write(folder / f"{CONFLICT}.csv", Conflict, conflict)
    io.publish(folder, "reports/ablations")


Results = Mapping[tuple[str, int], Mapping[str, "Result"]]


def _ablations(name: str, study: Study, results: Results, resamples: int) -> Iterator[Ablation]:
    for (variant, seed), by_task in results.items():
        for task, result in by_task.items():
            line = Ablation(
                study=name,
                variant=variant,
                baseline=study.baseline,
                seed=seed,
                task=task,
                **result.columns,
            )
            against = results.get((study.baseline, seed), {}).get(task)
            if against is not None and variant != study.baseline:
                line = replace(line, difference=result.minus(against, resamples).rounded())
            yield line


def _log(
    name: str, results: Results, conflict: Mapping[tuple[str, int], Sequence[Conflict]], tracker: "Tracker"
) -> None:
    """A child run per variant and seed with its scores and cosines; means over seeds in the run itself."""
    scores: dict[str, list[float]] = {}
    for (variant, seed), by_task in results.items():
        metrics = {f"{task}/{result.primary}": result.value.value for task, result in by_task.items()}
        for task, result in by_task.items():
            metrics |= {f"{task}/low": result.value.low, f"{task}/high": result.value.high}
            scores.setdefault(f"summary/{name}/{variant}/{task}", []).append(result.value.value)
        tags = {"unival.study": name, "unival.variant": variant, "unival.seed": str(seed)}
        cosines: dict[int, dict[str, float]] = {}
        for line in conflict[variant, seed]:
            metric = "/".join(("conflict", line.module, line.first, line.second))  # as a training names it
            cosines.setdefault(line.step, {})[metric] = line.cosine
        tracker.child(f"{name}: {variant} (seed {seed})", tags, metrics, cosines)
    tracker.metrics({metric: fmean(of_seeds) for metric, of_seeds in scores.items()})
