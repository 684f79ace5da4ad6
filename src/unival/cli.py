"""The `unival` command. Each file of `commands/` is imported when it is asked for: `--help` is quick."""

import argparse
import gc
import importlib
import os
import signal
import sys

from unival.errors import UserError, nearest, told

COMMANDS = {
    "compose": ("compose", "write build/config/ from params.yaml and conf/; --explain a value"),
    "prove": ("prove", "that changed code gives the same bytes, so that nothing has to rerun"),
    "lineage": ("lineage", "where a result comes from and what uses it; --check makes it again"),
    "plan": ("plan", "memory, time, cost and storage of a training run, before a machine is booked"),
    "bundle": ("bundle", "the study as a folder that others can open and check (RO-Crate)"),
    "run": ("run", "run one stage from its resolved file"),
    "sweep": ("sweep", "Hydra multirun: unival sweep +sweep=<preset> | -m stage=... key=a,b"),
    "convert": ("convert", "original .pt checkpoints and public weights to a model folder, and back"),
    "compare": ("compare", "two or more results side by side, down to single rows"),
    "merge": ("merge", "merge any safetensors checkpoints: run, verify, report, geometry"),
    "predict": ("predict", "the answer about a file, or about every file of a folder"),
    "serve": ("serve", "a page and an HTTP endpoint that answer about media"),
    "power": ("power", "which effects the seeds of a study can detect, and what more seeds would"),
    "kernels": ("kernels", "rerun seeds on other kernels of the processor; fails if a claim flips"),
    "study": ("study", "tables, figures and a page of a finished study, for its written report"),
    "card": ("card", "the model card of a model folder, printed or written"),
    "score": ("score", "official metrics of a predictions file, and a submission file of it"),
    "embed": ("embed", "media and texts as vectors"),
    "retrieve": ("retrieve", "zero-shot retrieval of captions and media: recall at 1, 5 and 10"),
    "import": ("importing", "an official data set as shards and manifests"),
    "export": ("export", "prepared rows as OFA's TSV"),
    "overlap": ("overlap", "media that training and evaluated splits share"),
    "register": ("register", "a version of an evaluated model in MLflow's registry"),
    "sync": ("sync", "send to MLflow what could not be sent when it was logged"),
    "list": ("listing", "what can be chosen"),
    "doctor": ("doctor", "check this machine, with the fix for what is missing"),
}
"""Command -> file of `commands/`, with `main(arguments)`, and what it does."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point: bad input ends with one line on stderr and exit status 2.

    Raises:
        UserError: no command of this name.
    """
    if arguments is None:
        try:
            return main(sys.argv[1:])
        finally:  # the work is done, and these would only bring tracebacks of what Python tidies up
            for number in (signal.SIGINT, signal.SIGTERM):  # SLURM sends it more than once
                signal.signal(number, signal.SIG_DFL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings bring a stack of C++ frames each
    gc.set_threshold(50_000)  # what libraries make at import stays: seldom look through it
    with told():
        if not arguments or arguments[0].startswith("-"):
            _parser().parse_args(arguments)  # prints help, or what is wrong, and ends
        name, *others = arguments
        if name not in COMMANDS:
            raise UserError(f"unknown command '{name}': {nearest(name, COMMANDS)}")
        importlib.import_module(f"unival.commands.{COMMANDS[name][0]}").main(others)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unival", description="One model for text, images, video and audio."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="<command>")
    for name, (_, what) in COMMANDS.items():
        commands.add_parser(name, help=what)
    return parser
