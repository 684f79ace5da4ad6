"""From `params.yaml` and `conf/` to one resolved file per stage and item in `build/config/`.

Reading order: `write_all` (the DVC stage `compose`) -> `resolve` (one file) -> `compose` (Hydra); beside it
`write_code`, by which stages know their code. Which file set a value, and over which: `unival.explain`.

`conf/stage/<stage>.yaml` is the shape of the resolved file: it takes its parts from the groups (model, task,
phase, ...) by interpolation. Overlays follow: the edition's budgets (`conf/edition/`), what the benchmark
needs (`set` in `conf/benchmark/`), `set` of `params.yaml`, and `set` of a sweep (its command line, preset or
experiment). An overlay is `{<stage>: {values...}}`, with values for one item (for a stage without items: for
one benchmark) under `{<stage>: {items: {<item>: {values...}}}}`. A stage keeps what it uses of the tree
(`keep` in its file): editing another recipe must not make it run again. The result is built into the stage's
dataclass, which refuses unknown keys and wrong types, and is written back from it, so that defaults of the
code show in the file too. Settings of the machine (`conf/runtime/`) never enter.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from unival import code, config, files
from unival.errors import UserError, nearest
from unival.stages import STAGES, module

CONF = Path("conf")
PARAMS = Path("params.yaml")
BUILD = Path("build/config")
CODE = Path("build/code")
"""A file per stage with the digest of its code, on which it depends in `dvc.yaml`."""
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
ITEMS = {"pretrain": "phases", "finetune": "tasks"}
"""Stages that run once for each item: where the items stand, in `params.yaml` and in the tree."""


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
    seeds: list[int]
    """Other seeds to repeat the whole study with."""
    phases: dict[str, Phase]
    """Pretraining phases in their order."""
    pretrained: str
    """The model folder that finetuning, merging and the ablations start from."""
    tasks: list[str]
    """Tasks to finetune."""
    set: dict[str, Any]
    """Values per stage, over everything else."""

    def __post_init__(self) -> None:
        if twice := [task for task, after in pairwise(sorted(self.tasks)) if task == after]:
            raise ValueError(f"tasks: '{twice[0]}' comes twice: leave one out")

    def items(self, stage: str) -> list[str | None]:
        """The items of a stage that has one process per item, else [None]."""
        return list(getattr(self, ITEMS[stage])) if stage in ITEMS else [None]

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
        "defaults": ["config", "claims@claims", *chosen, *collected, "_self_"],
        "seed": params.seed,
        "seeds": params.seeds,
        "edition_name": params.edition,
        "pretrained": params.pretrained,
        "starts": params.starts(),
        "chosen_tasks": params.tasks,
        "params_set": params.set,
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
    except (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError) as error:
        # Hydra raises OSError for a file that holds no mapping, and names it for no other kind of damage
        for path in CONF.rglob("*.yaml"):
            config.load(path)
        raise UserError(f"{CONF}: {_one_line(error)}") from error


def chosen_model(tree: Any) -> dict[str, Any]:
    """`conf/model/<name>.yaml`: `config` and `processor`."""
    from omegaconf import OmegaConf

    return dict(OmegaConf.to_container(tree.model, resolve=True))  # type: ignore[arg-type]


def resolve(tree: Any, stage: str, item: str | None) -> dict[str, Any]:
    """The resolved mapping of a stage and item of a composed tree, with the overlays applied.

    Raises:
        UserError: an unknown key, value or item, with the nearest valid one.
    """
    _refuse_environment(tree)
    stage_module = module(stage)
    values = _laid(tree, stage, item)
    where = f"configuration of {stage}@{item}" if item else f"configuration of {stage}"
    if hasattr(stage_module, "keep"):
        try:
            values = stage_module.keep(values, lambda other: _laid(tree, other, None))
        except (TypeError, KeyError, AttributeError):
            config.build(stage_module.Config, values, where)  # says which value is missing or of a wrong type
            raise
    if hasattr(stage_module, "repeat"):
        values = stage_module.repeat(values, partial(_resolved_with, tree))
    return to_plain(config.build(stage_module.Config, values, where))


def _resolved_with(tree: Any, stage: str, item: str | None, seed: int) -> dict[str, Any]:
    """The resolved mapping of a stage and item as another seed gives it."""
    own, tree.seed = tree.seed, seed
    try:
        return resolve(tree, stage, item)
    finally:
        tree.seed = own


def _refuse_environment(tree: Any) -> None:
    """Resolved files are committed: a secret that the tree takes from the environment would be, too."""
    from omegaconf import OmegaConf

    places: list[tuple[str, Any]] = [("", OmegaConf.to_container(tree, resolve=False))]
    while places:
        place, value = places.pop()
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            places += [(f"{place}.{key}" if place else str(key), one) for key, one in inner]
        elif isinstance(value, str) and "oc.env" in value and not place.startswith("hydra."):
            raise UserError(
                f"{place}: {value}: the value would stand in {BUILD}, which is committed: write it out, or "
                "leave the variable to the library that reads it"
            )


def _laid(tree: Any, stage: str, item: str | None) -> dict[str, Any]:
    """The shape of a stage with the overlays on it."""
    values = shape(tree, stage, item)
    for over in overlays(tree, stage, item):
        values = config.overlay(values, over.values)
    return values


def shape(tree: Any, stage: str, item: str | None) -> dict[str, Any]:
    """`conf/stage/<stage>.yaml` with the parts it takes from the groups, before any overlay.

    Raises:
        UserError: the stage has no such item, or a reference leads nowhere.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    _check_item(tree, stage, item)
    OmegaConf.set_readonly(tree, False)
    OmegaConf.set_struct(tree, False)
    tree.stage_name, tree.item = stage, item
    try:
        values: Any = OmegaConf.to_container(tree.stages[stage], resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{CONF}/stage/{stage}.yaml: {_one_line(error)}") from error
    if "processor" in (values.get("train") or {}):  # a phase may have media of other sizes than the model's
        values["processor"] = config.overlay(values.get("processor", {}), values["train"].pop("processor"))
    return dict(values)


def _check_item(tree: Any, stage: str, item: str | None) -> None:
    names = list(tree[ITEMS[stage]]) if stage in ITEMS else []
    if item is None and names:
        raise UserError(f"{stage}: no item is chosen: item=<name>, one of {', '.join(names)}")
    if item is not None and item not in names:
        hint = nearest(item, names) if names else f"{stage} has no items, leave out item={item}"
        raise UserError(f"{stage}: unknown item '{item}': {hint}")


@dataclasses.dataclass(frozen=True)
class Overlay:
    """Values of a stage and item that one place lays over the shape."""

    source: str
    """The file, or the command line."""
    key: str
    """Dotted key in it under which they stand."""
    values: Mapping[str, Any]


def overlays(tree: Any, stage: str, item: str | None) -> list[Overlay]:
    """All overlays in the order in which they are merged: a later one counts.

    Raises:
        UserError: an overlay names a stage that is none.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    places = [
        (f"{CONF}/edition/{tree.edition_name}.yaml", "", tree.edition),
        (f"{CONF}/benchmark/{tree.benchmark.name}.yaml", "set.", tree.benchmark.get("set") or {}),
        (str(PARAMS), "set.", tree.params_set),
        ("command line", "set.", tree.set),
    ]
    made = []
    for source, start, node in places:
        try:
            stages: Any = OmegaConf.to_container(node, resolve=True) if node else {}
        except OmegaConfBaseException as error:
            raise UserError(f"{source}: {_one_line(error)}") from error
        for name in stages:
            if name not in STAGES:
                raise UserError(f"{source}: unknown stage '{name}': {nearest(name, STAGES)}")
        key = f"{start}{stage}"
        of_all = _mapping(stages.get(stage), f"{source}: {key}")
        of_items = _mapping(of_all.pop("items", None), f"{source}: {key}.items")
        made.append(Overlay(source, key, of_all))
        key = f"{key}.items.{item or tree.benchmark.name}"
        own = _mapping(of_items.get(item or tree.benchmark.name), f"{source}: {key}")
        made.append(Overlay(source, key, own))
    return made


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{where}: expected a mapping, found {value!r}")
    return dict(value or {})


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


def write_all() -> dict[Path, bool]:
    """Write every resolved file and remove those of earlier choices; nothing changes when one is wrong.

    Returns the files, and whether each has changed.
    """
    params, texts = read_params(), {}
    tree = compose(params)
    for stage in STAGES:
        for item in params.items(stage):
            texts[file_of(stage, item)] = config.dump(resolve(tree, stage, item))
    changed = {path: not path.exists() or path.read_text("utf-8") != text for path, text in texts.items()}
    for path in {*BUILD.rglob("*.yaml")} - {*texts}:
        path.unlink()
    for path, text in texts.items():
        files.write_text(path, text)
    return changed


def write_code() -> list[str]:
    """Write the digest of the code of every stage; returns those whose code was another one."""
    changed = []
    for stage in STAGES:
        path, text = CODE / stage, f"{code.digest(f'unival.stages.{stage}')}\n"
        if path.exists() and path.read_text(encoding="utf-8") != text:
            changed.append(stage)
        files.write_text(path, text)
    return changed
