"""`unival merge run | verify | report | geometry | methods`: for any safetensors checkpoints."""

import argparse
import dataclasses
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING

from unival import config
from unival.errors import UserError, nearest

if TYPE_CHECKING:
    from unival.merging.merge_json import MergeRecord


def main(arguments: list[str]) -> None:
    """`unival merge`.

    Raises:
        UserError: see `merge` and `verify`.
    """
    parser = argparse.ArgumentParser(
        prog="unival merge",
        description="Merge any safetensors checkpoints: files, or folders, sharded or not.",
        epilog="example: unival merge run conf/merge/ties.yaml --model caption=models/finetune/caption "
        "--model vqa=... --base models/pretrain/video_text --out merged. All about recipes: docs/merging.md",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="<action>")

    action = actions.add_parser("run", help="merge checkpoints into a new folder")
    action.add_argument("recipe", type=Path, metavar="<recipe.yaml>", help="at least `method: <name>`")
    _inputs(action, "a model of the recipe; repeat per model")
    action.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="<folder>",
        help="a new folder, or an earlier merge to replace",
    )
    action.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="<n>",
        help="number (default 1); changes no byte of the merge",
    )
    action.add_argument("--device", default="cpu", metavar="<device>", help="cpu (default), cuda, ...")
    action.add_argument(
        "--shard-mib", type=int, metavar="<n>", help="start another file before one grows beyond this"
    )

    action = actions.add_parser("verify", help="repeat a merge and compare every byte")
    action.add_argument("folder", type=Path, metavar="<folder>")
    _inputs(action, "where a model is now, if not where the record says")

    action = actions.add_parser("report", help="what a merge did, on one page")
    action.add_argument("folder", type=Path, metavar="<folder>")

    action = actions.add_parser("geometry", help="cosines and norms of task vectors per module, as CSV")
    action.add_argument("--model", action="append", required=True, metavar="<name>=<path>", help="repeat")
    action.add_argument("--base", type=Path, required=True, metavar="<path>", help="the common start")
    action.add_argument("--out", type=Path, required=True, metavar="<file.csv>")

    action = actions.add_parser("methods", help="what there is, or one method with its options and formula")
    action.add_argument("name", nargs="?", metavar="<method>")

    if arguments and not arguments[0].startswith("-") and arguments[0] not in actions.choices:
        raise UserError(f"merge: unknown action '{arguments[0]}': {nearest(arguments[0], actions.choices)}")
    options = parser.parse_args(arguments)
    run = {"run": _run, "verify": _verify, "report": _report, "geometry": _geometry, "methods": _methods}
    run[options.action](options)


def _inputs(action: argparse.ArgumentParser, help_of_model: str) -> None:
    action.add_argument("--model", action="append", default=[], metavar="<name>=<path>", help=help_of_model)
    action.add_argument("--base", type=Path, metavar="<path>", help="the models' common starting point")
    action.add_argument(
        "--statistics", action="append", default=[], metavar="<name>=<path>",
        help="Fisher or Gram statistics of a model (unival.merging.collect)",
    )  # fmt: skip


def _run(options: argparse.Namespace) -> None:
    from unival.merging import as_recipe, merge
    from unival.merging.merge_json import read_record
    from unival.merging.recipe_digest import canonical_form

    for name in ("threads", "shard_mib"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: give 1 or more")
    values = config.load(options.recipe)
    inputs = named_paths(options.model, "--model")
    recipe = as_recipe({"models": sorted(inputs), **values}, str(options.recipe))
    canonical_form(recipe, str(options.recipe))  # refuses an option that the method has not
    if unused := sorted(set(inputs) - set(recipe.models)):
        raise UserError(
            f"--model {unused[0]}: not one of the models of {options.recipe} ({', '.join(recipe.models)})"
        )
    if missing := sorted(set(recipe.models) - set(inputs)):
        raise UserError(f"{options.recipe}: give a path for every model: --model {missing[0]}=<path>")
    merge(
        recipe,
        inputs,
        options.base,
        options.out,
        statistics=named_paths(options.statistics, "--statistics"),
        threads=options.threads,
        device=options.device,
        shard_bytes=options.shard_mib * 2**20 if options.shard_mib else None,
    )
    print(page(read_record(options.out)))


def _verify(options: argparse.Namespace) -> None:
    from unival.merging import verify

    models = named_paths(options.model, "--model")
    statistics = named_paths(options.statistics, "--statistics")
    verify(options.folder, models, options.base, statistics)
    print(f"{options.folder}: inputs and output are the recorded ones, and the merge repeats byte for byte")


def _report(options: argparse.Namespace) -> None:
    from unival.merging.merge_json import read_record

    print(page(read_record(options.folder)))


def _geometry(options: argparse.Namespace) -> None:
    from unival.merging.geometry import geometry
    from unival.study import tables
    from unival.study.tables import Angle

    rows = geometry(named_paths(options.model, "--model"), options.base)
    tables.write(options.out, Angle, (Angle(**row) for row in rows))
    print(f"{options.out}: {len(rows)} rows")


def _methods(options: argparse.Namespace) -> None:
    from unival.merging.methods import METHODS
    from unival.merging.options import OPTIONS

    if options.name is None:
        for name in METHODS.names():
            first = inspect.cleandoc(METHODS[name].__doc__ or "").split("\n\n")[0]
            print(f"{name:20} {' '.join(first.split())}")
        return
    method = METHODS[options.name]
    print(f"{options.name}\n\n{inspect.cleandoc(method.__doc__ or '')}\n")
    needs = [("a base", method.needs_base), ("statistics of every model", method.needs_statistics)]
    print(f"needs: {' and '.join(what for what, needed in needs if needed) or 'the models only'}")
    for option in dataclasses.fields(OPTIONS[options.name]):
        print(f"option {option.name}: {option.default}")


def named_paths(pairs: list[str], option: str) -> dict[str, Path]:
    """name=path arguments as a dictionary.

    Raises:
        UserError: not of this form, or a name given twice.
    """
    paths: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise UserError(f"{option} {pair}: expected <name>=<path>")
        if name in paths:
            raise UserError(f"{option}: '{name}' is given twice")
        paths[name] = Path(path)
    return paths


def page(record: "MergeRecord") -> str:
    """The record of a merge on one page."""
    from unival.merging.merge_json import equal_inputs

    recipe, tensors = record.recipe, record.tensors
    lines = [
        f"{recipe.method} of {', '.join(recipe.models)}   recipe {record.recipe_digest}",
        f"options: {json.dumps(recipe.options)}   weights: {json.dumps(recipe.weights)}",
        f"merged: {tensors.merged_parameters:,} parameters, seed {recipe.seed}",
    ]
    lines += [f"rule {rule}: {count} tensors" for rule, count in sorted(tensors.rules.items())]
    lines += [f"copied from {owner}: {count} tensors" for owner, count in sorted(tensors.copied.items())]
    lines += [f"tied: {name} = {first}" for name, first in sorted(tensors.tied.items())]
    lines += [f"note: {what}: {value}" for what, value in sorted(record.notes.items())]
    lines += [f"note: {what}" for what in equal_inputs(record)]
    lines += [f"configuration differs: {key}" for key in sorted(record.config_differences)]
    lines += [f"wrote {name}: sha256 {digest}" for name, digest in sorted(record.outputs.items())]
    return "\n".join(lines)
