"""`unival run`: one stage, from its resolved file."""

import argparse
import importlib
import os
import sys
import time
from functools import partial
from pathlib import Path

from unival import provenance
from unival.stages import STAGES

RANKED = {
    **dict.fromkeys(("pretrain", "finetune"), ("none", "fork", "torchrun", "slurm")),
    **dict.fromkeys(("evaluate", "ablate"), ("torchrun", "slurm")),
    "merge": ("slurm",),
}
"""Stage -> launchers by which it starts. Ranks train one model together; or they take its jobs, which
`runtime.parallel` gives to forked processes by itself; or there is one, on a node that has a GPU."""


def main(arguments: list[str]) -> None:
    """Run the stage."""
    started = str(time.time())
    parser = argparse.ArgumentParser(prog="unival run", description="Run one stage from its resolved file.")
    parser.add_argument("stage", metavar="<stage>", help=", ".join(STAGES))
    parser.add_argument(
        "--config", type=Path, required=True, metavar="<file>", help="a file of build/config/"
    )
    parser.add_argument("--out", type=Path, default=Path(), metavar="<folder>", help="where outputs go")
    options = parser.parse_args(arguments)
    from unival.stages import base, module

    module(options.stage)  # a typo is told before anything else is looked at
    if "RANK" not in os.environ or base.STARTED not in os.environ:  # a rank's is that of the command
        os.environ[base.STARTED] = started
    launch = partial(_launch, options) if options.stage in RANKED else None
    base.run(options.stage, options.config, options.out, launch)


def _launch(options: argparse.Namespace) -> int | None:
    """Run the stage on all ranks, if there are several; their exit status."""
    from unival.engine.machine import runtime

    machine = runtime.load()
    if machine.launcher not in RANKED[options.stage]:
        return None
    if machine.cores() > 1:
        importlib.import_module("unival.study.curve")  # once, for all ranks that are forked
    if "RANK" not in os.environ:
        print(f"{options.stage}: {machine.chosen()}", file=sys.stderr, flush=True)
    words = [options.stage, "--config", str(options.config), "--out", str(options.out)]
    logs = provenance.root() / "scratch/slurm"
    return machine.launch(["run", *words], lambda: main(words), logs, single=options.stage == "merge")
