"""Merge the experts, a folder per recipe. Coefficients are chosen on validation rows, never on test rows.

Under `again` (edition `full`), models that are finetuned around a merge, and the jointly finetuned one.
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unival import config as configuration
from unival import files
from unival.errors import UserError
from unival.merging import Recipe, merge
from unival.stages.base import StageIO
from unival.tasks import TaskConfig

if TYPE_CHECKING:
    from unival.stages.parts import Benchmark


@dataclass(frozen=True)
class Search:
    """A grid over one option of a method."""

    option: str
    """E.g. `scale`."""
    values: list[float]
    rows: int
    """Validation rows per task."""

    def __post_init__(self) -> None:
        if not self.values or self.rows < 1:
            raise ValueError("search needs values and rows")


@dataclass(frozen=True)
class Again:
    """A model that is finetuned again, with the settings and rows a step of the experts of `tasks`."""

    tasks: list[str]
    """Finetuned on; several: together, each with the budget its expert had."""
    recipe: str | None = None
    """null: from the pretrained model (on all tasks: the multitask model that merges are compared with)."""
    each: bool = False
    """false: merge by the recipe, then finetune (fusing, Choshen et al. 2022, arXiv 2204.03044). true:
    finetune each expert of the recipe, then merge (ratatouille, Rame et al. 2023, arXiv 2212.10445)."""

    def __post_init__(self) -> None:
        if not self.tasks or (self.each and not self.recipe):
            raise ValueError("again needs tasks, and a recipe where `each` is set")


@dataclass(frozen=True)
class Config:
    """`conf/stage/merge.yaml`."""

    stage: str
    item: None
    data: str
    """The prepared benchmark."""
    base: str
    """The pretrained model, the experts' common start."""
    experts: str
    """Folder of the finetuned models."""
    merges: list[str]
    """Which recipes are made."""
    recipes: dict[str, Recipe]
    """name -> recipe; its models are names of experts."""
    tasks: dict[str, TaskConfig]
    """Tasks of the experts, for the searches."""
    search: dict[str, Search] = field(default_factory=dict)
    """recipe -> what to choose on validation rows."""
    again: dict[str, Again] = field(default_factory=dict)
    """name -> what is finetuned again, beside the recipes."""

    def __post_init__(self) -> None:
        for name, again in self.again.items():
            if again.recipe is not None and again.recipe not in self.recipes:
                raise ValueError(f"again: {name}: recipe '{again.recipe}' is not one of the merges")
            if lacking := [task for task in again.tasks if task not in self.tasks]:
                raise ValueError(f"again: {name}: no configuration of the task {lacking[0]}")


def run(config: Config, io: StageIO) -> None:
    """Write `models/merged/<recipe>` for every recipe whose experts there are."""
    from unival.stages.parts import Benchmark

    benchmark = Benchmark(config.data, config.tasks)
    finished = io.scratch / "merged"
    for name, recipe in config.recipes.items():
        experts = {model: Path(config.experts) / model for model in recipe.models}
        if not all((folder / "config.json").is_file() for folder in experts.values()):
            io.tracker.tags({f"skipped.{name}": "the benchmark lacks the task of one of its experts"})
            continue
        if name in config.search:
            recipe = _searched(config, name, recipe, experts, benchmark, io)
        _merge(config, name, recipe, experts, io)
    finished.mkdir(exist_ok=True)
    for name, again in config.again.items():
        _make_again(config, name, again, benchmark, io)
    io.publish(finished, "models/merged")


def _merge(config: Config, name: str, recipe: Recipe, models: Mapping[str, Path], io: StageIO) -> None:
    """Write the merge and its record."""
    started, out = time.monotonic(), io.scratch / "merged" / name
    record = merge(recipe, models, config.base, out, home=io.out(f"models/merged/{name}"))
    io.tracker.metrics({f"seconds/{name}": time.monotonic() - started})
    io.tracker.text(_summary(record), f"merges/{name}.json")


def _make_again(config: Config, name: str, again: Again, benchmark: "Benchmark", io: StageIO) -> None:
    """Fusing, ratatouille or joint finetuning; a note of tasks and updates beside the model."""
    out, work = io.scratch / "merged" / name, io.scratch / "again" / name
    merged = out.with_name(again.recipe) if again.recipe else None
    experts = [Path(config.experts) / task for task in again.tasks]
    if (merged and not merged.is_dir()) or not all(folder.is_dir() for folder in experts):
        io.tracker.tags({f"skipped.{name}": "the benchmark lacks the task of one of its experts"})
        return
    if again.each and again.recipe:
        recipe = config.recipes[again.recipe]
        starts = {model: Path(config.experts) / model for model in recipe.models}
        found = {
            model: _finetuned(config, again, start, work / model, benchmark)
            for model, start in starts.items()
        }
        _merge(config, name, recipe, {model: folder for model, (folder, _) in found.items()}, io)
        updates = sum(steps for _, steps in found.values())
    else:
        folder, updates = _finetuned(config, again, merged or Path(config.base), work, benchmark)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder, out)
    cost = {
        "tasks": again.tasks,
        "experts": list(config.recipes[again.recipe].models) if again.recipe else [],
    }
    files.write_json(out / "again.json", {**cost, "updates": updates * len(again.tasks)})


def _finetuned(
    config: Config, again: Again, start: Path, work: Path, benchmark: "Benchmark"
) -> tuple[Path, int]:
    """The model folder after finetuning `start`, and the updates it took."""
    from unival.engine.mixture import MixtureConfig, StreamConfig
    from unival.engine.runtime import load as load_runtime
    from unival.engine.settings import TrainConfig
    from unival.engine.train import train
    from unival.stages.parts import load_model, validation

    source = Path(config.experts) / again.tasks[0] / "training.json"
    try:
        expert = configuration.build(TrainConfig, json.loads(source.read_text())["train"], str(source))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{source}: not readable ({error}): run the stage finetune again") from error
    rows = expert.mixture.rows
    streams = [StreamConfig(task, rows) for task in again.tasks]
    settings = replace(expert, mixture=MixtureConfig(rows * len(streams), streams))
    if not (work / "model" / "training.json").is_file():
        model, processor = load_model(start)
        tasks = {task: config.tasks[task] for task in again.tasks}
        sources = benchmark.sources(tasks, processor, settings.loss.constrained)
        evaluate = validation(benchmark, tasks, processor, settings.selection)
        title = f"{start.name} on {', '.join(tasks)}"
        train(
            settings, model, processor, sources, work / "model", work, load_runtime(),
            evaluate=evaluate, title=title,
        )  # fmt: skip
    return work / "model", settings.steps


def _searched(
    config: Config,
    name: str,
    recipe: Recipe,
    experts: Mapping[str, Path],
    benchmark: "Benchmark",
    io: StageIO,
) -> Recipe:
    """The recipe with the value that is best on validation rows, relative to each expert on its own task."""
    from unival.engine.settings import SelectionConfig
    from unival.merging.live import merge_into
    from unival.stages.parts import load_model, validation

    search = config.search[name]
    model, processor = load_model(config.base)
    tasks = {task: config.tasks[task] for task in recipe.models}
    evaluate = validation(benchmark, tasks, processor, SelectionConfig(1, search.rows))
    assert evaluate is not None
    alone = {task: _expert_score(experts[task], task, tasks[task], benchmark, search.rows) for task in tasks}
    found: dict[float, float] = {}
    for number, value in enumerate(search.values):
        trial = replace(recipe, options={**recipe.options, search.option: value})
        scores = evaluate(merge_into(model, trial, experts, config.base))
        shares = [scores[f"{task}/score"] / max(alone[task], 1e-9) for task in tasks]
        found[value] = sum(shares) / len(shares)
        io.tracker.metrics({f"search/{name}": found[value]}, number)
    best = max(found, key=lambda value: found[value])
    io.tracker.metrics({f"best/{name}_{search.option}": best, f"best/{name}_share": found[best]})
    return replace(recipe, options={**recipe.options, search.option: best})


def _expert_score(folder: Path, name: str, task: TaskConfig, benchmark: "Benchmark", rows: int) -> float:
    from unival.engine.settings import SelectionConfig
    from unival.stages.parts import load_model, validation

    model, processor = load_model(folder)
    evaluate = validation(benchmark, {name: task}, processor, SelectionConfig(1, rows))
    assert evaluate is not None
    return evaluate(model)["score"]


def _summary(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, sort_keys=True, default=str)
