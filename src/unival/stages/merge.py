"""Merge the experts, a folder per recipe; coefficients and statistics come from `fit`, never from test rows.

Under `again` (edition `full`), models that are finetuned around a merge, and the jointly finetuned one; their
merges come after them. Written files: models/merged/<name>/, each with `made.json` (its tasks, and the
updates of finetuning behind it, by model), and reports/metrics/geometry.csv (norms and cosines of the
experts' task vectors per module).
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from unival import config as configuration
from unival import files
from unival.errors import UserError, nearest
from unival.merging import Recipe, merge
from unival.merging.canonical import canonical_form
from unival.merging.geometry import COLUMNS, geometry
from unival.stages.base import StageIO
from unival.study.coefficients import Fit, Search
from unival.tasks import TaskConfig

NOTE = "made.json"
STATISTICS: dict[str, Literal["fisher", "grams"]] = {"fisher": "fisher", "regmean": "grams"}
"""Method -> what it wants to know of each expert."""


@dataclass(frozen=True)
class Again:
    """A model that is finetuned again, with the settings and rows a step of the experts of `tasks`."""

    tasks: list[str]
    """Finetuned on; several: together, each with the budget its expert had."""
    recipe: str | None = None
    """null: from the pretrained model (on all tasks: the multitask model that merges are compared with)."""
    each: bool = False
    """false: merge by the recipe, then finetune (fusing, Choshen et al. 2022, arXiv 2204.03044). true:
    finetune the recipe's experts of other tasks on this one, then merge them and its own expert (ratatouille,
    Rame et al. 2023, arXiv 2212.10445; a recipe of two such models interpolates between them)."""

    def __post_init__(self) -> None:
        if not self.tasks or (self.each and not self.recipe):
            raise ValueError("again needs tasks, and a recipe where `each` is set")
        if self.each and len(self.tasks) > 1:
            raise ValueError("again: `each` takes one task")


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
    finetuned: list[str]
    """Which of them there are; other folders beside them are of earlier choices."""
    merges: list[str]
    """Which recipes are made."""
    recipes: dict[str, Recipe]
    """name -> recipe; its models are names of experts, or of models under `again`."""
    tasks: dict[str, TaskConfig]
    """Tasks of the experts, for searches, statistics and finetuning."""
    search: dict[str, Search] = field(default_factory=dict)
    """recipe -> how its coefficients are chosen on validation rows."""
    statistics_rows: int = 256
    """Training rows of a task behind the statistics of `fisher` and `regmean`."""
    batch_norm: list[str] = field(default_factory=list)
    """Recipes whose statistics of batch norm are estimated anew, on `statistics_rows` rows of each task."""
    again: dict[str, Again] = field(default_factory=dict)
    """name -> what is finetuned again, beside the recipes."""

    def __post_init__(self) -> None:
        for name, again in self.again.items():
            if again.recipe is not None and again.recipe not in self.recipes:
                raise ValueError(f"again: {name}: recipe '{again.recipe}' is not one of the merges")
            if lacking := [task for task in again.tasks if task not in self.tasks]:
                raise ValueError(f"again: {name}: no configuration of the task {lacking[0]}")
        for name, recipe in self.recipes.items():
            try:
                canonical_form(recipe)  # refuses an unknown method or option
            except UserError as error:
                raise ValueError(f"recipe {name}: {error}") from error
            fitted = name in self.search or name in self.batch_norm or recipe.method in STATISTICS
            if fitted and (lacking := [model for model in recipe.models if model not in self.tasks]):
                raise ValueError(f"recipe {name}: '{lacking[0]}' is no task: its rows are needed")
        for name, search in self.search.items():
            if name in self.recipes:
                self._check_search(name, self.recipes[name], search)

    def _check_search(self, name: str, recipe: Recipe, search: Search) -> None:
        if search.strategy == "entropy" and recipe.method != "task_arithmetic":
            raise ValueError(f"search: {name}: 'entropy' sets the coefficients of task_arithmetic")
        known = [*recipe.models, *canonical_form(recipe)["options"]]
        for key in search.over:
            if key not in known:
                raise ValueError(f"search: {name}: '{key}' is no model and no option: {nearest(key, known)}")


def run(config: Config, io: StageIO) -> None:
    """Write `models/merged/<name>` for every recipe and every model under `again` whose experts there are."""
    workshop = Workshop(config, io)
    late = [name for name, recipe in config.recipes.items() if set(recipe.models) & set(config.again)]
    for name in config.recipes:
        if name not in late:
            workshop.merge(name)
    for name in config.again:
        workshop.finetune(name)
    for name in late:
        workshop.merge(name)
    workshop.folder.mkdir(exist_ok=True)
    folders = {task: Path(config.experts) / task for task in config.finetuned}
    experts = {task: folder for task, folder in folders.items() if (folder / "config.json").is_file()}
    rows = (row.values() for row in geometry(experts, config.base))
    files.write_csv(io.out("reports/metrics/geometry.csv"), COLUMNS, rows)
    io.publish(workshop.folder, "models/merged")


class Workshop:
    """Makes models in a scratch folder."""

    def __init__(self, config: Config, io: StageIO) -> None:
        from unival.study.benchmark import Benchmark

        self.config, self.io, self.folder = config, io, io.scratch / "merged"
        self.base, self.experts = Path(config.base), Path(config.experts)
        self.benchmark = Benchmark(config.data, config.tasks)
        self.fit = Fit(self.base, self.experts, config.tasks, self.benchmark, io)

    def _found(self, models: tuple[str, ...] | list[str], name: str) -> dict[str, Path] | None:
        """Where models lie; None, and a tag, when one is not there."""
        folders = {m: (self.folder if m in self.config.again else self.experts) / m for m in models}
        made = {*self.config.again, *self.config.finetuned}
        lacking = [m for m in models if m not in made or not (folders[m] / "config.json").is_file()]
        if not lacking:
            return folders
        reason = f"there is no model {', '.join(lacking)}"
        print(f"merge: {name} is left out: {reason}")
        self.io.tracker.tags({f"skipped.{name}": reason})
        return None

    def merge(self, name: str) -> None:
        """A recipe: choose what is to be chosen, collect what it needs, merge."""
        recipe = self.config.recipes[name]
        folders = self._found(recipe.models, name)
        if folders is None:
            return
        updates: dict[str, int] = {}
        tasks: list[str] = []
        for model, folder in folders.items():
            note = self._note(model, folder)
            updates |= note["updates"]
            tasks += [task for task in note["tasks"] if task not in tasks]
        statistics = self._statistics(recipe, folders)
        if name in self.config.search:
            recipe = self.fit.search(name, recipe, folders, self.config.search[name], statistics)
        self._write(name, recipe, folders, tasks, updates, statistics)

    def _statistics(self, recipe: Recipe, folders: Mapping[str, Path]) -> dict[str, Path]:
        """What the method wants to know of each model, as files beside the merges."""
        found = {}
        for model in recipe.models if recipe.method in STATISTICS else ():
            kind, rows = STATISTICS[recipe.method], self.config.statistics_rows
            made = self.fit.statistics(kind, model, folders[model], rows)
            found[model] = self.folder / "statistics" / made.name
            found[model].parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made, found[model])
        return found

    def _note(self, model: str, folder: Path) -> dict[str, Any]:
        """Tasks and updates of an expert, or of a model under `again`."""
        if model in self.config.again:
            return dict(files.read_json(folder / NOTE))
        steps = _training(folder)["steps"]
        return {"tasks": [model], "updates": {f"finetune/{model}": steps}}

    def _write(
        self,
        name: str,
        recipe: Recipe,
        folders: Mapping[str, Path],
        tasks: list[str],
        updates: Mapping[str, int],
        statistics: Mapping[str, Path],
    ) -> None:
        """Merge into the folder, with the notes; the record goes to MLflow too."""
        estimated = None
        if name in self.config.batch_norm:
            estimated = self.folder / "statistics" / f"batch_norm-{name}.safetensors"
            self.fit.batch_norm(recipe, folders, statistics, self.config.statistics_rows, estimated)
        started, out = time.monotonic(), self.folder / name
        record = merge(
            recipe, folders, self.base, out, statistics=statistics, estimated=estimated,
            moved=(self.folder, self.io.out("models/merged")),
        )  # fmt: skip
        files.write_json(out / NOTE, {"tasks": tasks, "updates": updates})
        self.io.tracker.metrics({f"seconds/{name}": time.monotonic() - started})
        self.io.tracker.text(json.dumps(record, indent=2, sort_keys=True), f"merges/{name}.json")

    def finetune(self, name: str) -> None:
        """Fusing, ratatouille or joint finetuning."""
        again = self.config.again[name]
        own = self._found(again.tasks, name)
        recipe = self.config.recipes[again.recipe] if again.recipe else None
        folders = self._found(recipe.models, name) if recipe else {}
        if own is None or folders is None:
            return
        updates = {f"finetune/{model}": _training(folder)["steps"] for model, folder in folders.items()}
        if again.each and recipe is not None:
            for model in set(folders) - set(again.tasks):
                folders[model], updates[f"{name}/{model}"] = self._train(again, folders[model], name, model)
            self._write(name, recipe, folders, again.tasks, updates, self._statistics(recipe, folders))
            return
        start = self.folder / again.recipe if again.recipe else self.base
        made, updates[name] = self._train(again, start, name, "model")
        shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(made, self.folder / name)
        files.write_json(self.folder / name / NOTE, {"tasks": again.tasks, "updates": updates})

    def _train(self, again: Again, start: Path, name: str, part: str) -> tuple[Path, int]:
        """The model folder after finetuning `start`, and the updates it took: one per step and task."""
        from unival.engine.batches.mixture import MixtureConfig, StreamConfig
        from unival.engine.machine.runtime import load as load_runtime
        from unival.engine.settings import TrainConfig
        from unival.engine.train import train
        from unival.study.benchmark import load_model, validation

        source = self.experts / again.tasks[0]
        expert = configuration.build(TrainConfig, _training(source)["train"], str(source))
        rows = expert.mixture.rows
        streams = [StreamConfig(task, rows) for task in again.tasks]
        settings = replace(expert, mixture=MixtureConfig(rows * len(streams), streams))
        work = self.io.scratch / "again" / name / part
        model, processor = load_model(start)
        tasks = {task: self.config.tasks[task] for task in again.tasks}
        sources = self.benchmark.sources(tasks, processor, settings.loss.constrained)
        evaluate = validation(self.benchmark, tasks, processor, settings.selection)
        train(
            settings, model, processor, sources, work / "model", work, load_runtime(),
            evaluate=evaluate, title=f"{start.name} on {', '.join(tasks)}",
        )  # fmt: skip
        return work / "model", settings.steps * len(again.tasks)


def _training(folder: Path) -> dict[str, Any]:
    """training.json of an expert."""
    path = folder / "training.json"
    try:
        found = files.read_json(path)
        return {"steps": int(found["steps"]), "train": found["train"]}
    except (UserError, KeyError) as error:
        raise UserError(f"{error}: run the stage finetune again") from error
