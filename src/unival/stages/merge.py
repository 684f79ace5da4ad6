"""Merge the experts, a folder per recipe. Coefficients are chosen on validation rows, never on test rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        record = merge(recipe, experts, config.base, finished / name, home=io.out(f"models/merged/{name}"))
        io.tracker.text(_summary(record), f"merges/{name}.json")
    finished.mkdir(exist_ok=True)
    io.publish(finished, "models/merged")


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
