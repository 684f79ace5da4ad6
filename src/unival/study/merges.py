"""Models of a study that merging makes: a folder per recipe, or per model that is finetuned around one.

Each folder holds `made.json` (`card.NOTE`).
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unival import config as configuration
from unival import files
from unival.errors import UserError
from unival.folders import copy as copy_folder
from unival.merging import Recipe, merge
from unival.merging.merge_json import equal_inputs, read_record
from unival.model.folder import learned
from unival.study import card
from unival.study.coefficients import Fit
from unival.study.merge_settings import STATISTICS, Refinetuning, Search


@dataclass
class Workshop:
    """Makes models in a folder."""

    folder: Path
    published: Path
    """Where the folder will lie: records of merges name their inputs there."""
    scratch: Path
    """What a training run needs to go on after a crash."""
    fit: Fit
    """The base, the experts, their tasks and rows."""
    finetuned: Sequence[str]
    """Experts there are."""
    recipes: Mapping[str, Recipe]
    refinetune: Mapping[str, Refinetuning] = field(default_factory=dict)
    searches: Mapping[str, Search] = field(default_factory=dict)
    """recipe -> how its coefficients are chosen."""
    batch_norm: Sequence[str] = ()
    """Recipes whose statistics of batch norm are estimated anew."""
    statistics_rows: int = 256
    """Training rows of a task behind statistics."""

    def _found(self, models: tuple[str, ...] | list[str], name: str) -> dict[str, Path] | None:
        """Where models lie; None, and a tag, when one is not there."""
        folders = {m: (self.folder if m in self.refinetune else self.fit.experts) / m for m in models}
        made = {*self.refinetune, *self.finetuned}
        missing = [m for m in models if m not in made or not (folders[m] / "config.json").is_file()]
        if not missing:
            return folders
        reason = f"there is no model {', '.join(missing)}"
        print(f"merge: {name} is left out: {reason}")
        self.fit.tracker.tags({f"skipped.{name}": reason})
        return None

    def merge(self, name: str) -> None:
        """A recipe: choose what is to be chosen, collect what it needs, merge."""
        recipe = self.recipes[name]
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
        if name in self.searches:
            recipe = self.fit.search(name, recipe, folders, self.searches[name], statistics)
        self._write(name, recipe, folders, tasks, updates, statistics)

    def _statistics(self, recipe: Recipe, folders: Mapping[str, Path]) -> dict[str, Path]:
        """What the method wants to know of each model, as files beside the merges."""
        copies = {}
        for model in recipe.models if recipe.method in STATISTICS else ():
            kind, rows = STATISTICS[recipe.method], self.statistics_rows
            made = self.fit.statistics(kind, model, folders[model], rows)
            copies[model] = self.folder / "statistics" / made.name
            files.copy(made, copies[model])
        return copies

    def _note(self, model: str, folder: Path) -> dict[str, Any]:
        """Tasks and updates of an expert, or of a model under `refinetune`."""
        if model in self.refinetune:
            return files.read_json(folder / card.NOTE)
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
        if name in self.batch_norm:
            estimated = self.folder / "statistics" / f"batch_norm-{name}.safetensors"
            self.fit.batch_norm(recipe, folders, statistics, self.statistics_rows, estimated)
        started, out = time.monotonic(), self.folder / name
        files.discard(out)  # of a run that was stopped: it holds more than the merge
        record = merge(
            recipe, folders, self.fit.base, out, statistics=statistics, estimated=estimated,
            moved=(self.folder, self.published),
        )  # fmt: skip
        files.write_json(out / card.NOTE, {"tasks": tasks, "updates": updates})
        for what in equal_inputs(read_record(out)):
            print(f"merge: {name}: {what}", flush=True)
        card.write(out)
        self.fit.tracker.metrics({f"seconds/{name}": time.monotonic() - started})
        self.fit.tracker.text(json.dumps(record, indent=2, sort_keys=True), f"merges/{name}.json")

    def finetune(self, name: str) -> None:
        """Fusing, ratatouille or joint finetuning."""
        new = self.refinetune[name]
        own = self._found(new.tasks, name)
        recipe = self.recipes[new.recipe] if new.recipe else None
        folders = self._found(recipe.models, name) if recipe else {}
        if own is None or folders is None:
            return
        updates = {f"finetune/{model}": _training(folder)["steps"] for model, folder in folders.items()}
        if new.each and recipe is not None:
            for model in [model for model in folders if model not in new.tasks]:
                folders[model], updates[f"{name}/{model}"] = self._train(new, folders[model], name, model)
            self._write(name, recipe, folders, new.tasks, updates, self._statistics(recipe, folders))
            return
        start = self.folder / new.recipe if new.recipe else self.fit.base
        known = self.published / new.recipe if new.recipe else self.fit.base
        made, updates[name] = self._train(new, start, name, "model", folders.values())
        copy_folder(made, self.folder / name)
        files.write_json(self.folder / name / card.NOTE, {"tasks": new.tasks, "updates": updates})
        card.write_trained(self.folder / name, self.fit.benchmark, known)

    def _train(
        self, new: Refinetuning, start: Path, name: str, part: str, merged: Iterable[Path] = ()
    ) -> tuple[Path, int]:
        """The model folder after finetuning `start`, and the updates it took: one per step and task.

        `merged`: the models that `start` was made of, whose places its record gives for when it is published.
        """
        from unival.engine.batches.mixture import MixtureConfig, StreamConfig
        from unival.engine.settings import TrainConfig
        from unival.study.models import load_model
        from unival.study.train import train_on

        source = self.fit.experts / new.tasks[0]
        expert = configuration.build(TrainConfig, _training(source)["train"], str(source))
        streams = [StreamConfig(task, new.rows.get(task, expert.mixture.rows)) for task in new.tasks]
        mixture = MixtureConfig(sum(stream.rows for stream in streams), streams)
        settings = replace(expert, mixture=mixture, steps=new.steps or expert.steps)
        work = self.scratch / name / part
        model, processor = load_model(start)
        if (known := [learned(folder) for folder in merged]) and None not in known:
            model.learned = frozenset().union(*filter(None, known))
        tasks = {task: self.fit.tasks[task] for task in new.tasks}
        title = f"{start.name} on {', '.join(tasks)}"
        train_on(model, processor, self.fit.benchmark, tasks, settings, work / "model", work, title)
        return work / "model", settings.steps * len(new.tasks)


def _training(folder: Path) -> dict[str, Any]:
    """training.json of an expert."""
    path = folder / "training.json"
    try:
        record = files.read_json(path)
        return {"steps": int(record["steps"]), "train": record["train"]}
    except (UserError, KeyError) as error:
        raise UserError(f"{error}: run the stage finetune again") from error
