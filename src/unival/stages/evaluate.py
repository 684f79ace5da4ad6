"""Every model on its tasks, in and out of distribution: in one process, or dealt to all that there are.

Written files (their fields: `unival.study.tables`):

- `reports/metrics/tasks.json`: a task's score and baselines
- `reports/metrics/scores.json`: primary metrics of all models for DVC's tables (`unival.study.leaderboard`)
- `reports/metrics/cells.csv`: a line per model x task x split x shift x metric, with its interval
- `reports/metrics/interpolation.csv`: a line per pair x point x task: primary metric from one to the other
- `reports/metrics/comparisons.csv`: paired differences of a merged model from the task's expert and the
  pretrained model, of an expert from the latter
- `reports/metrics/{leaderboard,pairs,fronts}.csv`: merged models over their tasks, in and out of
  distribution; what lies between two models
- `reports/metrics/subsets.csv`: averages of random subsets of experts (`unival.study.subsets`)
- `reports/metrics/rows.parquet`: the primary score of every row of every model (`unival.study.row_scores`)
- `reports/predictions/<model>/<task>/<split>[-<shift>-<severity>].jsonl`: a line per row, with its scores
"""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unival import code, files
from unival.config import check_names, pick
from unival.data.remote import local
from unival.report import silent
from unival.stages.base import Laid, StageIO
from unival.study import archive, leaderboard, model_rows, row_scores, subsets, table_lines, tables
from unival.study import results as study_results
from unival.study.subsets import SubsetConfig
from unival.study.tables import (
    CellScore,
    Comparison,
    Front,
    PairScore,
    PointScore,
    Standing,
    Subset,
    TaskScore,
)
from unival.tasks import TaskConfig
from unival.tracking import STUDY

if TYPE_CHECKING:
    from unival.study.benchmark import Benchmark
    from unival.study.cells import Cells, CellSpec, Result

TEST = "test"
EXAMPLES = 50
"""Rows of a task that MLflow shows."""


@dataclass(frozen=True)
class ShiftConfig:
    """A shift of decoded media: `conf/shift/<name>.yaml`."""

    modality: Literal["image", "video", "audio"]
    """Tasks of this modality are evaluated under it."""


@dataclass(frozen=True)
class InterpolationConfig:
    """Curves between two experts, or two merged models."""

    pairs: list[list[str]]
    """Names of two models each; both are evaluated on the tasks of both."""
    points: int
    """Inner points; the ends are the models themselves."""
    rows: int
    """Test rows per point and task."""

    def __post_init__(self) -> None:
        if any(len(pair) != 2 for pair in self.pairs):
            raise ValueError("interpolation.pairs: a pair is two names of models")
        if self.points < 0 or self.rows < 1:
            raise ValueError("points must be at least 0, rows at least 1")


@dataclass(frozen=True)
class Config:
    """`conf/stage/evaluate.yaml`."""

    stage: str
    item: None
    data: str
    """The prepared benchmark."""
    pretrained: str
    """Model folder that is evaluated on `pretrained_tasks` and on the tasks of the experts."""
    pretrained_tasks: list[str]
    """Tasks without an expert: the pretrained model stands for them, with the blind baselines."""
    experts: list[str]
    """Finetuned tasks."""
    merges: list[str]
    """Names below models/merged."""
    tasks: dict[str, TaskConfig]
    rows: int | None
    """Test rows of a cell, in distribution; null: all."""
    shift_rows: int
    """Rows of a cell out of distribution."""
    shifts: dict[str, ShiftConfig]
    severities: list[int]
    interpolation: InterpolationConfig
    subsets: SubsetConfig
    batch_size: int = 128
    resamples: int = 1000
    """Of the bootstrap."""
    shifted_merges: list[str] = field(default_factory=list)
    """Merges that are evaluated out of distribution too; refinetuned models always are."""
    shifted_pretrained: bool = False
    """Whether the pretrained model is, on the experts' tasks."""

    def __post_init__(self) -> None:
        models = (*self.experts, *self.merges, *itertools.chain(*self.interpolation.pairs))
        check_names("models", models)
        for name in ("rows", "shift_rows", "batch_size", "resamples"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")


def keep(values: dict[str, Any], laid: Laid) -> dict[str, Any]:
    """The values as they are; merges must be recipes, or models that are finetuned around one."""
    merge = laid("merge")
    pick(
        merge["recipes"] | merge.get("refinetune", {}),
        [*values["merges"], *values["shifted_merges"]],
        "merges",
    )
    return values


def inputs(config: Config) -> list[Path]:
    """What the stage reads."""
    experts = [Path("models/finetune") / task for task in config.experts]
    return [local(config.data), Path(config.pretrained), *experts, Path("models/merged")]


def run(config: Config, io: StageIO) -> None:
    """Write metrics and predictions."""
    from unival.engine.machine.runtime import parallel
    from unival.study.benchmark import Benchmark

    benchmark = Benchmark(config.data, config.tasks)
    benchmark.log(io.tracker, [TEST, *benchmark.shifts])
    # the rows and media that one model was shown are at hand for the next
    cells = cells_of(config, benchmark, io.shared_scratch / "cells")
    plan, pairs = list(_plan(config, benchmark)), _pairs(config)
    jobs = [
        partial(of_model, cells, folder, [spec for spec in specs if spec.task == task])
        for folder, specs in plan
        for task in dict.fromkeys(spec.task for spec in specs)
    ]
    between = [partial(_of_pair, config, cells, *pair) for pair in pairs]
    parallel([*jobs, *between, *_of_subsets(config, cells).values()], "evaluate")
    if not io.main:
        return
    # what the jobs computed is on disk: this reads it
    results = [result for part in plan for result in of_model(cells, *part)]
    points = [point for pair in pairs for point in _of_pair(config, cells, *pair)]
    averages = {experts: job() for experts, job in _of_subsets(config, cells).items()}
    _write(config, benchmark, results, points, averages, io)


def cells_of(config: Config, benchmark: "Benchmark", folder: Path) -> "Cells":
    """What computes cells as the settings say.

    Args:
        folder: of the cells that are known.
    """
    from unival.study.cells import Cells

    return Cells(folder, benchmark, config.tasks, config.batch_size, config.resamples)


def of_model(cells: "Cells", folder: Path, specs: list["CellSpec"]) -> list["Result"]:
    """The cells of one model, which is read when the first of them has to be computed.

    Args:
        cells: computes them.
        folder: of the model.
        specs: the cells.
    """
    from unival.study.models import load_model

    return cells.run(specs, model_rows.digests(folder), cache(partial(load_model, folder)))


def _plan(config: Config, benchmark: "Benchmark") -> Iterator[tuple[Path, list["CellSpec"]]]:
    """(model folder, its cells) of every model there is."""
    from unival.study.cells import CellSpec

    for task in config.experts:
        folder = Path("models/finetune") / task
        if (folder / "config.json").is_file():
            own = CellSpec(f"finetune/{task}", "finetuned", task, TEST, config.rows, blind=True)
            yield folder, [own, *_shifted(config, benchmark, own)]
    for merge, tasks in merged_tasks(config).items():
        folder = Path("models/merged") / merge
        if (folder / "config.json").is_file():
            specs = []
            for task in tasks:
                own = CellSpec(f"merged/{merge}", "merged", task, TEST, config.rows)
                shifted = merge in config.shifted_merges or merge not in config.merges
                specs += [own, *(_shifted(config, benchmark, own) if shifted else [])]
            yield folder, specs
    name = str(Path(config.pretrained).relative_to("models"))
    wanted = {**dict.fromkeys(config.experts, False), **dict.fromkeys(config.pretrained_tasks, True)}
    # On the experts' tasks too: what finetuning and merging add is measured from there.
    specs = [
        CellSpec(name, "pretrained", task, TEST, config.rows, blind=blind)
        for task, blind in wanted.items()
        if benchmark.has(TEST, task)
    ]
    if config.shifted_pretrained:
        experts = [own for own in specs if own.task in config.experts]
        specs += [shifted for own in experts for shifted in _shifted(config, benchmark, own)]
    yield Path(config.pretrained), specs


def merged_tasks(config: Config) -> dict[str, list[str]]:
    """The tasks of every merged model: its experts', or those it was refinetuned on."""
    there = [note.parent.name for note in sorted(Path("models/merged").glob("*/made.json"))]
    order = dict.fromkeys([*(name for name in config.merges if name in there), *there])
    return {name: leaderboard.made(f"merged/{name}")["tasks"] for name in order}


def _shifted(config: Config, benchmark: "Benchmark", own: "CellSpec") -> list["CellSpec"]:
    """The cell out of distribution: stored splits that hold the task, and the shifts of its modality."""
    stored = [split for split in benchmark.shifts if benchmark.has(split, own.task)]
    specs = [replace(own, split=split, rows=config.shift_rows, blind=False) for split in stored]
    modality = config.tasks[own.task].modality
    names = [name for name, shift in config.shifts.items() if shift.modality == modality]
    return specs + [
        replace(own, rows=config.shift_rows, shift=name, severity=severity, blind=False)
        for name in names
        for severity in config.severities
    ]


def _pairs(config: Config) -> list[list[str]]:
    """The pairs whose models are both there."""
    return [pair for pair in config.interpolation.pairs if all(_end(config, name)[1] for name in pair)]


def _end(config: Config, name: str) -> tuple[Path, list[str]]:
    """Folder and tasks of an expert or a merged model; no tasks where it is not there."""
    expert = Path("models/finetune") / name
    if name in config.experts and (expert / "config.json").is_file():
        return expert, [name]
    return Path("models/merged") / name, leaderboard.made(f"merged/{name}").get("tasks", [])


def _of_pair(
    config: Config, cells: "Cells", first: str, second: str
) -> list[tuple[str, str, float, "Result"]]:
    """Points between two models: (first, second, alpha, result), the ends included."""
    from unival.merging import Interpolation
    from unival.study.cells import CellSpec
    from unival.study.models import Loaded, load_model

    last = config.interpolation.points + 1
    ends = [_end(config, name) for name in (first, second)]
    tasks = dict.fromkeys(task for _, its in ends for task in its)
    weights = [
        *(model_rows.digests(folder) for folder, _ in ends),
        code.digest("unival.merging.live"),
        last,
    ]
    name, rows = f"{first}-{second}", config.interpolation.rows
    specs = [CellSpec(name, "interpolated", task, TEST, rows) for task in tasks]

    @cache
    def line() -> tuple[Interpolation, Loaded]:
        loaded = load_model(ends[0][0])
        return Interpolation(loaded[0], ends[0][0], ends[1][0], base=config.pretrained), loaded

    def moved(alpha: float) -> Loaded:
        path, loaded = line()
        path.move(alpha)
        return loaded

    points = []
    for number in range(last + 1):
        results = cells.run(specs, [*weights, number], partial(moved, number / last))
        points += [(first, second, number / last, result) for result in results]
    return points


def _of_subsets(config: Config, cells: "Cells") -> dict[subsets.Experts, Callable[[], list["Result"]]]:
    """What scores each average of experts, those alone and the pretrained model."""
    at_hand = [name for name in config.subsets.experts if name in config.experts]
    at_hand = [name for name in at_hand if (Path("models/finetune") / name / "config.json").is_file()]
    base, rows = Path(config.pretrained), config.subsets.rows
    return {
        experts: partial(subsets.score, cells, experts, experts if len(experts) > 1 else at_hand, rows, base)
        for experts in subsets.models(at_hand, config.subsets.number)
    }


def _write(
    config: Config,
    benchmark: "Benchmark",
    results: Sequence["Result"],
    points: Sequence[tuple[str, str, float, "Result"]],
    averages: Mapping[subsets.Experts, Sequence["Result"]],
    io: StageIO,
) -> None:
    folder = io.out("reports/metrics/tasks.json").parent
    scores = {result.spec.task: table_lines.task_score(result) for result in results if result.baselines}
    files.write_json(folder / "tasks.json", {task: asdict(score) for task, score in scores.items()})
    tables.write(
        folder / "cells.csv",
        CellScore,
        (cell for result in results for cell in table_lines.cell_scores(result)),
    )
    files.write_json(folder / "scores.json", leaderboard.scores(results, config.resamples))
    tables.write(
        folder / "interpolation.csv", PointScore, (table_lines.point_score(*point) for point in points)
    )
    tables.write(folder / "comparisons.csv", Comparison, table_lines.comparisons(results, config.resamples))
    of_models = [(result.spec.model, result) for result in results]
    between = [(f"{first}-{second}@{place:g}", result) for first, second, place, result in points]
    of_experts = [(subsets.name(experts), one) for experts, scored in averages.items() for one in scored]
    row_scores.write(folder / row_scores.NAME, [*of_models, *between, *of_experts])
    tables.write(folder / "subsets.csv", Subset, subsets.lines(averages, config.resamples))
    standings = leaderboard.standings(results, merged_tasks(config), config.resamples)
    tables.write(folder / "leaderboard.csv", Standing, standings)
    lines = leaderboard.lines_of(points, config.resamples)
    tables.write(folder / "pairs.csv", PairScore, leaderboard.pair_scores(lines))
    tables.write(folder / "fronts.csv", Front, leaderboard.fronts(lines))
    _write_predictions(results, io)
    archive.pack(io.scratch / "study.zip", io.out_root, local(config.data))
    io.tracker.artifact(io.scratch / "study.zip", STUDY)
    _log(scores, results, benchmark, io)
    silent.say("evaluate", silent.evaluated(study_results.read(io.out_root, local(config.data), "")))


def _write_predictions(results: Sequence["Result"], io: StageIO) -> None:
    """Link the stored predictions into the out, whole or not at all."""
    folder = io.scratch / "predictions"
    for result in results:
        target = folder / result.spec.model / result.spec.file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        os.link(result.predictions, target)
    io.publish(folder, "reports/predictions")


def _log(
    scores: Mapping[str, TaskScore], results: Sequence["Result"], benchmark: "Benchmark", io: StageIO
) -> None:
    """A row per model, so that selecting two compares an expert with its merge; examples per task."""
    io.tracker.metrics({f"summary/{task}": score.value for task, score in scores.items()})
    io.tracker.metrics({f"blind/{task}": score.blind for task, score in scores.items()})
    model_rows.log(results, benchmark, io.tracker)
    for result in results:
        if result.baselines:
            io.tracker.table(model_rows.examples(result, EXAMPLES), f"examples/{result.spec.task}")
