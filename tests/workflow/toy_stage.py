"""A stage of no size that logs all a stage may log, for processes that are ended, and many side by side.

`python toy_stage.py FOLDER killed MOMENT ...` runs it in FOLDER/<moment> until it ends by itself, the first
time with a signal at the moment: as often as that has it been about to touch a file below its folder. At
moment 0 none comes. Even moments have their outs elsewhere, as jobs of a sweep do.

`python toy_stage.py FOLDER together COUNT SECONDS` runs it so many times at once, in FOLDER/<number>, each
for about so many seconds.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  once for all
from mlflow import MlflowClient  # noqa: F401

from unival import files, tracking
from unival.stages import base
from unival.tracking import tracker

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TOUCH = ("open", "os.rename", "os.remove", "sqlite3.connect")
CONFIG: dict[str, Any] = {"stage": "toy", "item": None, "steps": 4}
tracker.PATIENCE = 300.0  # what ends is looked at


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
        for step in range(int(kept.read_text()) if kept.exists() else 1, CONFIG["steps"] + 1):
            log.metrics({"train/loss": 1 / step, "perf/seconds": step}, step)
            log.flush()
            files.write_json(kept, step)
            time.sleep(float(os.environ.get("PAUSE", "0")))
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


def killed(place: Path, moments: list[int]) -> None:
    """Run it once for each moment."""
    forked(place, lambda: tracking.connect("toy"))
    for moment in moments:
        folder, out = place / str(moment), "." if moment % 2 else "elsewhere"
        folder.mkdir()
        shutil.copy(place / "mlflow.db", folder)
        if forked(folder, lambda: disturbed(moment, out)):  # noqa: B023
            while forked(folder, lambda: once(out)):  # noqa: B023
                pass


def together(place: Path, count: int, seconds: float) -> None:
    """Run it side by side; leaves with how many of them failed."""
    os.environ["PAUSE"] = str(seconds / CONFIG["steps"])
    children = []
    for number in range(count):
        (place / str(number)).mkdir()
        children.append(os.fork())
        if not children[-1]:
            os.environ["UNIVAL_RUN_NAME"] = f"toy {number}"
            os._exit(forked(place / str(number), lambda: once(".")))
    sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))


if __name__ == "__main__":
    if sys.argv[2] == "killed":
        killed(Path(sys.argv[1]), [int(word) for word in sys.argv[3:]])
    else:
        together(Path(sys.argv[1]), int(sys.argv[3]), float(sys.argv[4]))
