"""What lies beside the weights of merged models: configuration, tokenizer, tasks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unival import files
from unival.errors import UserError
from unival.merging.merge_json import RECORD
from unival.weights import INDEX, TASKS

NOT_COPIED = {RECORD, INDEX, "training.json", "made.json", "README.md", "__init__.py"}
CODE = "auto_map"
"""Key of config.json that names modules of its folder, which are copied from the reference."""


def read_configs(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """config.json of each folder that has one; the base is called "(base)".

    Raises:
        UserError: one that is damaged.
    """
    configs = {}
    for name, path in folders.items():
        file = path / "config.json"
        if file.is_file():
            content = files.read_json(file)
            if not isinstance(content.get("model_type", ""), str):
                raise UserError(f"{file}: its model_type is no text: it is damaged: copy it again")
            configs[name or "(base)"] = content
    return configs


def require_one_architecture(folders: Mapping[str, Path]) -> None:
    """Check `model_type` of the configurations: names and shapes may agree between architectures.

    Raises:
        UserError: they differ.
    """
    kinds = {
        name: config["model_type"] for name, config in read_configs(folders).items() if "model_type" in config
    }
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name} is '{kind}'" for name, kind in kinds.items())
        raise UserError(
            f"the models do not have one architecture: model_type of {listed}: give models of one kind"
        )


def copy_side_files(folder: Path, sources: Mapping[str, Path], reference: str) -> dict[str, Any]:
    """Copy configuration, tokenizer and the like from the reference: the base ("") or else the first model.

    In config.json, a part that this model lacks (an encoder that only another model has) is taken from the
    model that has it, but for `auto_map`: it names modules that lie beside it. Returns the keys whose values
    differ, with the value of each model.
    """
    folders = {name: path for name, path in sources.items() if path.is_dir()}
    if reference not in folders:
        return {}
    for file in sorted(folders[reference].iterdir()):
        if file.is_file() and file.suffix != ".safetensors" and file.name not in NOT_COPIED:
            files.copy(file, folder / file.name)
    configs = read_configs(folders)
    if not configs:
        return {}
    differences = {}
    merged = configs.get(reference or "(base)") or next(iter(configs.values()))
    for key in sorted(set().union(*configs.values())):
        values = {name: config.get(key) for name, config in configs.items()}
        distinct = [json.loads(text) for text in {json.dumps(v, sort_keys=True) for v in values.values()}]
        if len(distinct) > 1:
            differences[key] = values
            present = [value for value in distinct if value is not None]
            if merged.get(key) is None and len(present) == 1 and key != CODE:
                merged[key] = present[0]
    if differences:  # Infinity, which is no JSON, is what some models' configurations hold
        files.write_text(folder / "config.json", json.dumps(merged, indent=2, sort_keys=True) + "\n")
    return dict(json.loads(json.dumps(differences), parse_constant=str))


def gather_tasks(folder: Path, sources: Mapping[str, Path]) -> None:
    """Write what the merge can be asked: the tasks of all models; those of the base ("") come last.

    A task that several carry is that of the first.

    Raises:
        UserError: tasks that are damaged.
    """
    tasks: dict[str, Any] = {}
    for name in sorted(sources, key=lambda name: name == ""):
        path = sources[name] / TASKS
        if path.is_file():
            tasks = files.read_json(path) | tasks
    if tasks:
        files.write_json(folder / TASKS, tasks)
