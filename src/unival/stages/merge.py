"""Merge the experts, a folder per recipe; coefficients and statistics come from `fit`, never from test rows.

Under `refinetune`, models that are finetuned around a merge: `unival`, the one model for all tasks, and in
the edition `full` others, the jointly finetuned one among them; their merges come after them. Written files:
models/merged/<name>/ (`unival.study.merges`), and reports/metrics/geometry.csv (norms and cosines of the
experts' task vectors per module).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unival.config import check_names, pick
from unival.data.remote import local
from unival.errors import UserError, nearest
from unival.merging import AlignRule, Recipe
from unival.merging.recipe_digest import canonical_form
from unival.stages.base import Laid, StageIO
from unival.study import tables
from unival.study.merge_settings import STATISTICS, Refinetuning, Search
from unival.study.tables import Angle
from unival.tasks import TaskConfig


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
    """name -> recipe; its models are names of experts, or of models under `refinetune`."""
    align: tuple[AlignRule, ...]
    """Rules of every recipe, after its own."""
    tasks: dict[str, TaskConfig]
    """Tasks of the experts, for searches, statistics and finetuning."""
    search: dict[str, Search] = field(default_factory=dict)
    """recipe -> how its coefficients are chosen on validation rows."""
    statistics_rows: int = 256
    """Training rows of a task behind the statistics of `fisher` and `regmean`."""
    batch_norm: list[str] = field(default_factory=list)
    """Recipes whose statistics of batch norm are estimated anew, on `statistics_rows` rows of each task."""
    refinetune: dict[str, Refinetuning] = field(default_factory=dict)
    """name -> a model that is refinetuned, beside the recipes."""

    def __post_init__(self) -> None:
        check_names("recipes", self.recipes)
        check_names("refinetune", self.refinetune)
        check_names("finetuned", self.finetuned)
        for name, model in self.refinetune.items():
            if model.recipe is not None and model.recipe not in self.recipes:
                raise ValueError(f"refinetune: {name}: recipe '{model.recipe}' is not one of the merges")
            if missing := [task for task in model.tasks if task not in self.tasks]:
                raise ValueError(f"refinetune: {name}: no configuration of the task {missing[0]}")
        for name, recipe in self.recipes.items():
            try:
                canonical_form(recipe)  # refuses an unknown method or option
            except UserError as error:
                raise ValueError(f"recipe {name}: {error}") from error
            fitted = name in self.search or name in self.batch_norm or recipe.method in STATISTICS
            if fitted and (missing := [model for model in recipe.models if model not in self.tasks]):
                raise ValueError(f"recipe {name}: '{missing[0]}' is not a task: its rows are needed")
        for name, search in self.search.items():
            if name in self.recipes:
                self._check_search(name, self.recipes[name], search)

    def _check_search(self, name: str, recipe: Recipe, search: Search) -> None:
        if search.strategy == "entropy" and recipe.method != "task_arithmetic":
            raise ValueError(f"search: {name}: 'entropy' sets the coefficients of task_arithmetic")
        known = [*recipe.models, *canonical_form(recipe)["options"]]
        for key in search.over:
            if key not in known:
                raise ValueError(
                    f"search: {name}: '{key}' is neither a model nor an option: {nearest(key, known)}"
                )


def keep(values: dict[str, Any], laid: Laid) -> dict[str, Any]:
    """The values with the recipes that are made, and the tasks whose rows one of them needs."""
    fitted = {*values["search"], *values.get("batch_norm", ())}
    pick(values["recipes"], fitted, "recipes")
    started = [model["recipe"] for model in values.get("refinetune", {}).values() if model.get("recipe")]
    recipes = pick(values["recipes"], [*values["merges"], *started], "recipes")
    asking = [r["models"] for name, r in recipes.items() if name in fitted or r["method"] in STATISTICS]
    asking += [model["tasks"] for model in values.get("refinetune", {}).values()]
    tasks = pick(values["tasks"], (task for tasks in asking for task in tasks), "tasks")
    refinetune = {}
    for name, model in values.get("refinetune", {}).items():
        rows = pick(values["tasks"], model.get("rows", ()), "tasks")
        refinetune[name] = model | {
            "rows": {task: model["rows"][task] for task in rows if task in model["tasks"]}
        }
    return values | {"recipes": recipes, "tasks": tasks, "refinetune": refinetune}


def inputs(config: Config) -> list[Path]:
    """What the stage reads."""
    experts = [Path(config.experts) / task for task in config.finetuned]
    return [local(config.data), Path(config.base), *experts]


def run(config: Config, io: StageIO) -> None:
    """Write `models/merged/<name>` for every recipe and every refinetuned model whose experts there are."""
    from unival.merging.geometry import geometry
    from unival.study.benchmark import Benchmark
    from unival.study.coefficients import Fit
    from unival.study.merges import Workshop

    benchmark = Benchmark(config.data, config.tasks)
    fit = Fit(Path(config.base), Path(config.experts), config.tasks, benchmark, io.shared_scratch, io.tracker)
    recipes = {
        name: replace(recipe, align=(*recipe.align, *config.align)) for name, recipe in config.recipes.items()
    }
    workshop = Workshop(
        io.scratch / "merged", io.out("models/merged"), io.scratch / "refinetune", fit, config.finetuned,
        recipes, config.refinetune, config.search, config.batch_norm, config.statistics_rows,
    )  # fmt: skip
    late = [name for name, recipe in recipes.items() if set(recipe.models) & set(config.refinetune)]
    for name in recipes:
        if name not in late:
            workshop.merge(name)
    for name in config.refinetune:
        workshop.finetune(name)
    for name in late:
        workshop.merge(name)
    workshop.folder.mkdir(exist_ok=True)
    folders = {task: Path(config.experts) / task for task in config.finetuned}
    experts = {task: folder for task, folder in folders.items() if (folder / "config.json").is_file()}
    angles = (Angle(**row) for row in geometry(experts, config.base))
    tables.write(io.out("reports/metrics/geometry.csv"), Angle, angles)
    io.publish(workshop.folder, "models/merged")
