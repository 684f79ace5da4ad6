"""`merge`: from model folders to a model folder with a record of where it comes from.

The output folder is written under another name and renamed when it is complete, so a merge that was killed
leaves nothing that looks finished. merge.json holds the canonical recipe, the SHA-256 of every input and
output file, versions and counts; the same record (without the output) is in the metadata of the weights.
"""

import json
import os
import platform
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import unival
from unival import files
from unival.errors import UserError
from unival.folders import contents, new_folder
from unival.merging import hashing
from unival.merging.align import ESTIMATED, Assignment
from unival.merging.checkpoint import TensorSource, Writer, layout, opened
from unival.merging.engine import Plan
from unival.merging.job import CHUNK, Settings
from unival.merging.merge_json import RECORD
from unival.merging.recipe import Recipe, as_recipe
from unival.merging.recipe_digest import canonical_form, recipe_digest
from unival.merging.side_files import copy_side_files, gather_tasks, require_one_architecture
from unival.merging.vocabulary import RowAligned, read_tokens, reference_of
from unival.weights import INDEX, WEIGHTS, TensorSpec, weight_files


def merge(
    recipe: Recipe | Mapping[str, Any],
    inputs: Mapping[str, Path | str],
    base: Path | str | None,
    out: Path | str,
    *,
    statistics: Mapping[str, Path | str] | None = None,
    estimated: Path | str | None = None,
    threads: int = 1,
    chunk: int = CHUNK,
    device: str = "cpu",
    shard_bytes: int | None = None,
    moved: tuple[Path, Path] | None = None,
) -> dict[str, Any]:
    """Merge checkpoints into the new folder `out` and return the record written to out/merge.json.

    Args:
        recipe: what to do; a mapping is checked key by key.
        inputs: where each model of the recipe lies: a folder or a safetensors file.
        base: the common starting point; needed by methods on task vectors and by some align rules.
        statistics: per model, a safetensors file with its Fisher or Gram statistics.
        estimated: a safetensors file with tensors of the output: statistics of batch norm that were estimated
            for this merge (`collect.reestimate_batch_norm`).
        threads: workers; chunk: elements read at once. Neither changes a byte of the result.
        shard_bytes: start another file before one grows beyond this.
        moved: (a folder above `out`, where it will be moved): the paths in the record are those of then.

    Raises:
        UserError: models that do not fit together, broken inputs, a full disk, an unusable output.
    """
    recipe, out = as_recipe(recipe), Path(out)
    paths = {name: Path(inputs[name]) for name in sorted(recipe.models) if name in inputs}
    extra = {name: Path(path) for name, path in (statistics or {}).items()}
    origin, anew = (Path(path) if path is not None else None for path in (base, estimated))
    folders = ({"": origin} if origin else {}) | paths
    require_one_architecture(folders)
    settings = Settings(chunk=chunk, threads=threads, device=torch.device(device))
    each = partial(_of_each, paths, origin, extra, anew)
    with (
        opened(folders) as models,
        opened(extra) as known,
        opened({ESTIMATED: anew} if anew else {}) as given,
    ):
        sources, reference = models, next(iter(folders), "")
        if recipe.vocabulary is not None:
            sources, reference = by_token(models, folders, recipe.vocabulary.pattern)
        plan = Plan(
            recipe, {name: sources[name] for name in paths}, sources.get(""), settings, known,
            given.get(ESTIMATED), by_token=recipe.vocabulary is not None,
        )  # fmt: skip
        record = _origin(recipe, each)
        read = [*paths.values(), *extra.values(), *filter(None, (origin, anew))]
        with new_folder(out, RECORD, read) as folder:
            metadata = {"format": "pt", "unival_merge": json.dumps(record, sort_keys=True)}
            record |= {
                "outputs": _write(plan, folder, metadata, shard_bytes),
                "paths": each(lambda path: _relative(path, out, moved)),
                "shard_bytes": shard_bytes,
                "tensors": summary(plan),
                "notes": plan.method.notes,
                "config_differences": copy_side_files(folder, folders, reference),
            }
            gather_tasks(folder, folders)
            record |= contents(folder, RECORD)
            files.write_json(folder / RECORD, record)
    return record


def _origin(recipe: Recipe, each: Callable[[Callable[[Path], Any]], dict[str, Any]]) -> dict[str, Any]:
    """The part of a record that is known before the merge, and stands in the metadata of the weights."""
    return {
        "recipe": canonical_form(recipe),
        "recipe_digest": recipe_digest(recipe),
        **each(lambda path: hashing.digests(_read_files(recipe, path))),
        "versions": {
            "unival": unival.__version__,
            "torch": str(torch.__version__),
            "machine": platform.machine(),
        },
    }


def _of_each(
    inputs: Mapping[str, Path],
    base: Path | None,
    statistics: Mapping[str, Path],
    estimated: Path | None,
    function: Callable[[Path], Any],
) -> dict[str, Any]:
    """What a function gives for everything that a merge reads, as the record has it."""
    return {
        "inputs": {name: function(path) for name, path in inputs.items()},
        "base": function(base) if base else None,
        "statistics": {name: function(path) for name, path in statistics.items()},
        "estimated": function(estimated) if estimated else None,
    }


def _read_files(recipe: Recipe, path: Path) -> list[Path]:
    """The files whose bytes decide the result: weights, and the tokenizer where rows are matched by token."""
    tokenizer = path / "tokenizer.json"
    by_token = recipe.vocabulary is not None and tokenizer.is_file()
    return [*weight_files(path), *([tokenizer] if by_token else [])]


def _write(plan: Plan, folder: Path, metadata: Mapping[str, str], shard_bytes: int | None) -> dict[str, str]:
    """Stream the plan into one file, or shards with an index; returns the digest of each file."""
    specs = {assignment.name: assignment.spec for assignment in plan.assignments}
    order = {name: number for number, name in enumerate(layout(specs))}
    plan.assignments.sort(key=lambda assignment: order[assignment.name])
    shards = _shards(plan.assignments, shard_bytes)
    names = {
        assignment.name: WEIGHTS
        if len(shards) == 1
        else f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        for number, shard in enumerate(shards)
        for assignment in shard
    }
    outputs: dict[str, str] = {}
    writer: Writer | None = None
    stream = plan.stream()
    try:
        for assignment, _, block in stream:
            file = folder / names[assignment.name]
            if writer is None or writer.path != file:
                if writer is not None:
                    outputs[writer.path.name] = writer.close()
                within: dict[str, TensorSpec] = {
                    name: specs[name] for name in specs if names[name] == file.name
                }
                writer = Writer(file, within, metadata)
            writer.write(block)
        if writer is not None:
            outputs[writer.path.name] = writer.close()
    finally:
        stream.close()
        if writer is not None:
            writer.abandon()
    if len(shards) > 1:
        total = sum(spec.nbytes for spec in specs.values())
        files.write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": names})
    return outputs


def _shards(assignments: list[Assignment], limit: int | None) -> list[list[Assignment]]:
    shards: list[list[Assignment]] = [[]]
    size = 0
    for assignment in assignments:
        if limit is not None and shards[-1] and size + assignment.spec.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(assignment)
        size += assignment.spec.nbytes
    return shards


def summary(plan: Plan) -> dict[str, Any]:
    """The one-page report: how many tensors each rule took, which were copied and from where, ties."""
    counts: dict[str, int] = {}
    copied: dict[str, int] = {}
    for assignment in plan.assignments:
        counts[assignment.rule] = counts.get(assignment.rule, 0) + 1
        if assignment.copy_from is not None:
            owner = assignment.copy_from or "(base)"
            copied[owner] = copied.get(owner, 0) + 1
    merged = sum(job.count for job in plan.jobs.values())
    return {"rules": counts, "copied": copied, "tied": plan.tied, "merged_parameters": merged}


def by_token(
    sources: Mapping[str, TensorSource], folders: Mapping[str, Path], pattern: str
) -> tuple[dict[str, TensorSource], str]:
    """The sources with the rows of matching tensors in the order of the reference's tokens, and its name.

    Raises:
        UserError: the pattern matches no tensor, or a folder has no tokens.
    """
    if not any(re.search(pattern, key) for source in sources.values() for key in source.specs):
        raise UserError(f"merge recipe: vocabulary: '{pattern}' matches no tensor: correct or remove it")
    tokens = {name: read_tokens(folder) for name, folder in folders.items()}
    reference = reference_of(tokens)
    return {name: RowAligned(name, sources, tokens, reference, pattern) for name in sources}, reference


def _relative(path: Path | str, out: Path, moved: tuple[Path, Path] | None) -> str:
    """The path from `out`, when the folder was moved."""
    start, end = (folder.resolve() for folder in moved or (out, out))

    def then(place: Path) -> Path:
        return end / place.relative_to(start) if place.is_relative_to(start) else place

    return os.path.relpath(then(Path(path).resolve()), then(out.resolve()))
