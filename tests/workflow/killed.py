"""A stage of no size that logs all a stage may log, run in processes that are ended at chosen moments.

`python killed.py FOLDER MOMENT ...` runs it in FOLDER/<moment> until it ends by itself, the first time
with a signal at the moment: as often as that has it been about to touch a file below its folder. At moment 0
none comes. Even moments have their outs elsewhere, as jobs of a sweep do.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  once for all
from mlflow import MlflowClient  # noqa: F401

from unival import files, tracking
from unival.stages import base

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TOUCH = ("open", "os.rename", "os.remove", "sqlite3.connect")
CONFIG = {"stage": "toy", "item": None, "steps": 4}


class Toy:
    """Works in steps, and remembers them as training does: what is logged comes before what is kept."""

    Config = SimpleNamespace

    def inputs(self, config: Any) -> list[Path]:
        """None."""
        return []

    def run(self, config: Any, io: base.StageIO) -> None:
        """All that a tracker can do."""
        kept, log = io.scratch / "step.json", io.tracker
        log.dataset("toy-train", "0123456789abcdef" * 4, "data/toy/train", "train")
        for step in range(files.read_json(kept) if kept.exists() else 1, CONFIG["steps"] + 1):
            log.metrics({"train/loss": 1 / step, "perf/seconds": step}, step)
            log.flush()
            files.write_json(kept, step)
        log.table([{"id": "a", "score": 0.5}], "examples/toy")
        log.child("variant", {"unival.kind": "variant"}, {"score": 0.25})
        score = tracking.ModelScore("score", 0.5, "test", "f" * 64)
        log.model("toy", "finetuned", {tracking.DIGEST: "d" * 64}, None, [score])
        files.write_text(io.out("reports/toy.txt"), "drawn")
        log.artifact(io.out("reports/toy.txt"), "figures")


def once(out: str) -> None:
    """Run it here."""
    base.module = lambda name: Toy()
    base.read = lambda stage, path: (CONFIG, None)
    base.run("toy", Path("config.yaml"), Path(out))


def end_at(moment: int) -> list[int]:
    """Let a signal come at a moment; returns the moments so far, one number that grows."""
    here, touched = str(Path.cwd()), [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        named = event in TOUCH and not isinstance(arguments[0], int)
        if named and str(Path(os.fsdecode(arguments[0])).absolute()).startswith(here):
            touched[0] += 1
            if touched[0] == moment:
                os.kill(os.getpid(), SIGNALS[moment % len(SIGNALS)])

    sys.addaudithook(hook)
    return touched


def forked(folder: Path, work: Callable[[], Any]) -> int:
    """Work in a folder in a process of its own; returns its status."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.chdir(folder)
    try:
        work()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def disturbed(moment: int, out: str) -> None:
    """Run it with a signal at a moment; says how many there were."""
    touched = end_at(moment)
    once(out)
    print(moment, touched[0], flush=True)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    forked(place, lambda: tracking.connect("toy"))
    for moment in map(int, sys.argv[2:]):
        folder, out = place / str(moment), "." if moment % 2 else "elsewhere"
        folder.mkdir()
        shutil.copy(place / "mlflow.db", folder)
        if forked(folder, lambda: disturbed(moment, out)):  # noqa: B023
            while forked(folder, lambda: once(out)):  # noqa: B023
                pass
