"""The `unival` command. Everything heavy is imported inside the commands, so that `--help` is quick."""

import argparse
import gc
import importlib
import os
import sys
import time
from functools import partial
from pathlib import Path

from unival.errors import UserError, nearest, told
from unival.stages import STAGES

TRAINING = ("pretrain", "finetune")
"""Stages that may run on several ranks."""

OWN_PARSERS = {
    "sweep": "unival.sweep",
    "convert": "unival.commands.convert",
    "predict": "unival.commands.predict",
    "score": "unival.commands.score",
    "import": "unival.commands.importing",
    "export": "unival.commands.export",
    "overlap": "unival.commands.overlap",
    "merge": "unival.commands.merge",
}
"""Commands that read their own arguments: module with `main(arguments)`."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point: bad input ends with one line on stderr and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    gc.set_threshold(50_000)  # what libraries make at import stays: seldom look through it
    with told():
        if arguments and arguments[0] in OWN_PARSERS:
            importlib.import_module(OWN_PARSERS[arguments[0]]).main(arguments[1:])
        else:
            parser, commands = _parser()
            if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
                raise UserError(f"unknown command '{arguments[0]}': {nearest(arguments[0], commands)}")
            options = parser.parse_args(arguments)
            options.command(options)


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the names of the commands."""
    parser = argparse.ArgumentParser(
        prog="unival", description="One model for text, images, video and audio."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="<command>")

    command = commands.add_parser("compose", help="write build/config/ from params.yaml and conf/")
    command.set_defaults(command=_compose)

    command = commands.add_parser("run", help="run one stage from its resolved file")
    command.add_argument("stage", metavar="<stage>", help=", ".join(STAGES))
    command.add_argument("--config", type=Path, required=True, metavar="<file>", help="from build/config/")
    command.add_argument("--out", type=Path, default=Path(), metavar="<folder>", help="outs go below it")
    command.set_defaults(command=_run)

    commands.add_parser("sweep", help="Hydra multirun: unival sweep +sweep=<preset> | -m stage=... key=a,b")

    commands.add_parser(
        "convert", help="original .pt checkpoints and public weights to a model folder, and back"
    )

    commands.add_parser("merge", help="merge any safetensors checkpoints: run, verify, report, geometry")
    commands.add_parser("predict", help="the answer about a file, or about every file of a folder")
    commands.add_parser("score", help="official metrics of a predictions file, and a submission file of it")
    commands.add_parser("import", help="an official data set as shards and manifests")
    commands.add_parser("export", help="prepared rows as OFA's TSV")
    commands.add_parser("overlap", help="media that training and evaluated splits share")

    command = commands.add_parser("list", help="what can be chosen")
    command.add_argument("group", nargs="?", metavar="<group>", help="a folder of conf/")
    command.set_defaults(command=_list)

    command = commands.add_parser("doctor", help="check this machine, with the fix for what is missing")
    command.set_defaults(command=_doctor)
    return parser, list(commands.choices)


def _compose(options: argparse.Namespace) -> None:
    from unival import compose

    print(f"{len(compose.write_all())} files in {compose.BUILD}")


def _run(options: argparse.Namespace) -> None:
    started = str(time.time())
    from unival.stages import base, module

    module(options.stage)  # a typo is told before anything else is looked at
    if "RANK" not in os.environ or base.STARTED not in os.environ:  # a rank's is that of the command
        os.environ[base.STARTED] = started
    launch = partial(_launch, options) if options.stage in TRAINING else None
    base.run(options.stage, options.config, options.out, launch)


def _launch(options: argparse.Namespace) -> int | None:
    """Run the stage on all ranks, if there are several; their exit status."""
    from unival.engine.machine import runtime

    machine = runtime.load()
    if machine.cores() > 1:
        importlib.import_module("unival.study.train")  # once, for all ranks that are forked
    words = [options.stage, "--config", str(options.config), "--out", str(options.out)]
    return machine.launch(["run", *words], main)


def _list(options: argparse.Namespace) -> None:
    from unival import compose

    groups = sorted(path.name for path in compose.CONF.iterdir() if path.is_dir())
    if options.group is not None and options.group not in groups:
        raise UserError(f"{compose.CONF}: no group '{options.group}': {nearest(options.group, groups)}")
    for group in [options.group] if options.group else groups:
        print(f"{group}: {' '.join(compose.options(group))}")
    if options.group is None:
        from unival.data.catalog import load_sources
        from unival.data.sources.reader import READERS

        load_sources()
        print(f"data sets to import: {' '.join(READERS.names())}")


def _doctor(options: argparse.Namespace) -> None:
    from unival.commands import doctor

    doctor.main()
