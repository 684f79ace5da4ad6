"""merge.json as it is read back, checked once: what a merge was made of, and what it wrote."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unival import config, files
from unival.errors import UserError
from unival.merging.recipe import Recipe

RECORD = "merge.json"
Digests = dict[str, str]
"""File name -> SHA-256."""


@dataclass(frozen=True)
class Places:
    """Where the inputs lay, from the folder of the merge."""

    inputs: dict[str, str]
    base: str | None
    statistics: dict[str, str]
    estimated: str | None


@dataclass(frozen=True)
class TensorCounts:
    """How many tensors each rule took, which were copied and from where, which are one matrix."""

    rules: dict[str, int]
    copied: dict[str, int]
    tied: dict[str, str]
    merged_parameters: int


@dataclass(frozen=True)
class MergeRecord:
    """The whole record; `merging.folder_merge.merge` writes it."""

    recipe: Recipe
    recipe_digest: str
    inputs: dict[str, Digests]
    base: Digests | None
    statistics: dict[str, Digests]
    estimated: Digests | None
    versions: dict[str, str]
    outputs: Digests
    paths: Places
    shard_bytes: int | None
    tensors: TensorCounts
    notes: dict[str, int | float]
    config_differences: dict[str, Any]
    files: list[str] = field(default_factory=list)
    """All there are in the folder; earlier versions did not list them."""

    def __post_init__(self) -> None:
        models, paths = set(self.recipe.models), self.paths
        if not models == set(self.inputs) == set(paths.inputs):
            raise ValueError("recipe, inputs and paths name different models")
        if set(self.statistics) != set(paths.statistics):
            raise ValueError("statistics and paths name different models")
        if (self.base is None, self.estimated is None) != (paths.base is None, paths.estimated is None):
            raise ValueError("base or estimated has a digest and no path, or a path and no digest")
        if not self.outputs or (self.shard_bytes is not None and self.shard_bytes < 1):
            raise ValueError("no outputs, or shards of no bytes")
        if "\0" in "".join([*paths.inputs.values(), *paths.statistics.values(), paths.base or ""]):
            raise ValueError("a path with a zero byte")
        read = [*self.inputs.values(), *self.statistics.values(), self.base or {}, self.estimated or {}]
        for digests in (self.outputs, *read):
            for name, digest in digests.items():
                if not re.fullmatch(r"[^/\\\0]{1,255}", name) or not re.fullmatch("[0-9a-f]{64}", digest):
                    raise ValueError(f"'{name[:80]}': no file beside others, or no digest of one")


def equal_inputs(record: MergeRecord) -> Iterator[str]:
    """What is to be said of models of a merge whose files are the same, or those of the base."""
    named = {**record.inputs, **({"the base": record.base} if record.base else {})}
    names: dict[str, list[str]] = {}
    for name, digests in named.items():
        names.setdefault(str(sorted(digests.items())), []).append(name)
    for alike in names.values():
        if len(alike) > 1:
            yield f"{', '.join(alike)} are one and the same model"


def read_record(folder: Path) -> MergeRecord:
    """The record of a merged folder.

    Raises:
        UserError: there is none, or it is not as a merge writes it.
    """
    path = folder / RECORD
    try:
        return config.build(MergeRecord, files.read_json(path), str(path))
    except UserError as error:
        raise UserError(f"{folder} is not a merge: {error}") from error
