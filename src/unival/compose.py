"""From `params.yaml` and `conf/` to one resolved file per stage and item in `build/config/`.

Reading order: `write_all` (the DVC stage `compose`) -> `resolve` (one file) -> `compose` (Hydra).

`conf/stage/<stage>.yaml` is the shape of the resolved file: it takes its parts from the groups (model, task,
phase, ...) by interpolation. Overlays follow: the edition's budgets (`conf/edition/`), what the benchmark
needs (`set` in `conf/benchmark/`), and `set` of `params.yaml` or of a sweep's command line. An overlay is
`{<stage>: {values...}}`, with values for one item (for a stage without items: for one benchmark) under
`{<stage>: {items: {<item>: {values...}}}}`. The result is built into the stage's dataclass, which refuses
unknown keys and wrong types, and is written back from it, so that defaults of the code show in the file too.
Settings of the machine (`conf/runtime/`) never enter.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unival import config, files
from unival.errors import UserError, nearest
from unival.stages import STAGES, module

CONF = Path("conf")
PARAMS = Path("params.yaml")
BUILD = Path("build/config")
PRIMARY = "tree"
GROUPS = ("benchmark", "model", "edition")
COLLECTED = {
    "stage": "stages",
    "task": "tasks",
    "shift": "shifts",
    "merge": "merges",
    "ablation": "ablations",
    "phase": "phases",
}
"""Groups of which every file enters the tree, under `<plural>.<file name>`."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """One pretraining phase."""

    after: str
    """What must be there before: the model folder of an earlier phase, or a file for a start from scratch."""


@dataclasses.dataclass(frozen=True)
class Params:
    """`params.yaml`: what a person chooses between experiments."""

    benchmark: str
    """`conf/benchmark/<name>.yaml`"""
    model: str
    edition: str
    seed: int
    phases: dict[str, Phase]
    """Pretraining phases in their order."""
    pretrained: str
    """The model folder that finetuning, merging and the ablations start from."""
    tasks: list[str]
    """Tasks to finetune."""
    set: dict[str, Any]
    """Values per stage, over everything else."""

    def items(self, stage: str) -> list[str | None]:
        """The items of a stage that has one process per item, else [None]."""
        if stage == "pretrain":
            return list(self.phases)
        return list(self.tasks) if stage == "finetune" else [None]

    def starts(self) -> dict[str, str | None]:
        """For every phase the model folder it starts from, None for new weights."""
        return {
            name: phase.after if phase.after.startswith("models/") else None
            for name, phase in self.phases.items()
        }


def read_params(path: Path = PARAMS) -> Params:
    """Read `params.yaml`.

    Raises:
        UserError: missing file, unknown key, wrong type, or no such file in a group.
    """
    params = config.build(Params, config.load(path), str(path))
    for group in GROUPS:
        _check_option(group, getattr(params, group), f"{path}: {group}")
    for key, group in (("tasks", "task"), ("phases", "phase")):
        for name in getattr(params, key):
            _check_option(group, name, f"{path}: {key}")
    return params


def options(group: str) -> list[str]:
    """Names of the files of a configuration group, those of its folders as `<folder>/<name>`."""
    folder = CONF / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def _check_option(group: str, name: str, where: str) -> None:
    if name not in options(group):
        raise UserError(f"{where}: no file {CONF / group / name}.yaml: {nearest(name, options(group))}")


def primary(params: Params) -> dict[str, Any]:
    """`params.yaml` as Hydra's primary configuration: `conf/config.yaml` with every group that is needed."""
    collected = [
        {f"{group}@{plural}.{name}": name} for group, plural in COLLECTED.items() for name in options(group)
    ]
    chosen = [{group: getattr(params, group)} for group in GROUPS]
    return {
        "defaults": ["config", *chosen, *collected, "_self_"],
        "seed": params.seed,
        "edition_name": params.edition,
        "pretrained": params.pretrained,
        "starts": params.starts(),
        "chosen_tasks": params.tasks,
        "set": params.set,
    }


def store(params: Params) -> None:
    """Enter the primary configuration under the name PRIMARY, for `compose` and for a sweep."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(PRIMARY, primary(params))


def compose(params: Params, overrides: Sequence[str] = ()) -> Any:
    """The whole Hydra tree.

    Raises:
        UserError: Hydra refuses an override or a file.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    store(params)
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF.resolve())):
            return hydra_compose(PRIMARY, list(overrides))
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{CONF}: {_one_line(error)}") from error


def resolve(tree: Any, stage: str, item: str | None) -> dict[str, Any]:
    """The resolved mapping of a stage and item of a composed tree, with the overlays applied.

    Raises:
        UserError: an unknown key or value, with the nearest valid one.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    OmegaConf.set_readonly(tree, False)
    OmegaConf.set_struct(tree, False)
    tree.stage_name, tree.item = stage, item
    try:
        values: Any = OmegaConf.to_container(tree.stages[stage], resolve=True)
        layers: dict[str, Any] = {
            f"{CONF}/edition": OmegaConf.to_container(tree.edition),
            f"{CONF}/benchmark: set": OmegaConf.to_container(tree.benchmark).get("set", {}),  # type: ignore[union-attr]
            "set": OmegaConf.to_container(tree.set, resolve=True),
        }
    except OmegaConfBaseException as error:
        raise UserError(f"{CONF}/stage/{stage}.yaml: {_one_line(error)}") from error
    if "processor" in (values.get("train") or {}):  # a phase may have media of other sizes than the model's
        merge(values.setdefault("processor", {}), values["train"].pop("processor"))
    for source, layer in layers.items():
        for name in layer:
            if name not in STAGES:
                raise UserError(f"{source}: unknown stage '{name}': {nearest(name, STAGES)}")
        for part in _layers(layer.get(stage) or {}, item or tree.benchmark.name):
            merge(values, part)
    if isinstance(values.get("benchmark"), dict):
        values["benchmark"].pop("set", None)
    if stage == "evaluate":
        made = dict(tree.merges)
        for layer in layers.values():
            over = layer.get("merge") or {}
            made |= {**(over.get("recipes") or {}), **(over.get("again") or {})}
        _known({"merges": made}, "merges", [*values["merges"], *values["shifted_merges"]])
    _prune(values)
    name = f"{stage}@{item}" if item else stage
    return to_plain(config.build(module(stage).Config, values, f"configuration of {name}"))


def _layers(values: Mapping[str, Any], item: str) -> Iterator[Mapping[str, Any]]:
    yield {key: value for key, value in values.items() if key != "items"}
    yield (values.get("items") or {}).get(item) or {}


def merge(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Merge `over` into `values` in place: mappings key by key, everything else replaced."""
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            merge(values[key], value)
        else:
            values[key] = value


def _prune(values: dict[str, Any]) -> None:
    """Keep only the recipes, studies and tasks a stage uses: editing another must not make it run again."""
    if "definitions" in values:
        _keep(values, "definitions", values["studies"])
    if values["stage"] in ("pretrain", "finetune"):
        _keep(values, "tasks", [stream["task"] for stream in values["train"]["mixture"]["streams"]])
    if values["stage"] == "merge":
        _known(values, "recipes", [*values["search"], *values.get("batch_norm", ())])
        _keep(values, "recipes", values["merges"])
        recipes = values["recipes"].items()
        used = [
            recipe["models"]
            for name, recipe in recipes
            if name in values["search"]
            or name in values.get("batch_norm", ())
            or recipe["method"] in ("fisher", "regmean")
        ]
        used += [again["tasks"] for again in values.get("again", {}).values()]
        _keep(values, "tasks", [task for tasks in used for task in tasks])


def _known(values: Mapping[str, Any], key: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in values[key]:
            raise UserError(f"{CONF}: unknown name '{name}' among the {key}: {nearest(name, values[key])}")


def _keep(values: dict[str, Any], key: str, names: Sequence[str]) -> None:
    _known(values, key, names)
    values[key] = {name: value for name, value in values[key].items() if name in names}


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what YAML and JSON hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def file_of(stage: str, item: str | None) -> Path:
    """Where the resolved file of a stage and item lies."""
    return BUILD / stage / f"{item}.yaml" if item else BUILD / f"{stage}.yaml"


def write_all() -> list[Path]:
    """Write every resolved file and remove those of earlier choices; nothing changes when one is wrong."""
    params, written = read_params(), {}
    tree = compose(params)
    for stage in STAGES:
        for item in params.items(stage):
            written[file_of(stage, item)] = config.dump(resolve(tree, stage, item))
    for path in {*BUILD.rglob("*.yaml")} - {*written}:
        path.unlink()
    for path, text in written.items():
        files.write_text(path, text)
    return list(written)
