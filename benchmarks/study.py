"""CPU time of the default study's parts, against another revision, in interleaved fresh processes.

    python benchmarks/study.py [ROW...] [--against REV] [--rounds 5] [--models FOLDER]

JSON lines: name, `ours` and `baseline` (medians over the rounds), `ratio` (median of the rounds' ratios),
unit, the peak memory of a process of both in MiB, and `floor` where it can be counted: the arithmetic of
convolutions and matrix products over the rate of a large product on this core. Both revisions (the other one
in a git worktree) run their own settings of the quick edition on one thread, on the data that they prepare.

update/image_text, update/video_text, update/finetune
             an update of the weights with all that belongs to it: media and texts made into batches,
             forward, backward, clipping, optimiser; median of the windows of a short run from new weights
startup      from the command to the end of a training stage's first update
prepare      the stage
evaluate     the stage on `--models`, the models of the baseline (asked for by name)
study        `dvc repro` from nothing (asked for by name)
"""

import argparse
import itertools
import json
import operator
import os
import resource
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
UPDATES = {
    "update/image_text": "pretrain/image_text",
    "update/video_text": "pretrain/video_text",
    "update/finetune": "finetune/vqa",
}
ROWS = (*UPDATES, "startup", "prepare")
ASKED = ("evaluate", "study")
WINDOW, WARM, WINDOWS = 4, 1, 6  # updates of a window; windows before, and of, the measurement
DATA = Path("data/processed")
Figures = dict[str, float]


class Clock:
    """CPU seconds of each window of updates, and the arithmetic of the last one; hears the optimiser."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import FlopCounterMode

        self.updates = 0
        self.marks: list[float] = []
        self.counter = FlopCounterMode(display=False)

    def __call__(self, *_: Any) -> None:
        """After an update; the last one ends the process."""
        self.updates += 1
        if self.updates % WINDOW:
            return
        self.marks.append(time.process_time())
        if len(self.marks) == WARM + WINDOWS:
            self.counter.__enter__()
        elif len(self.marks) > WARM + WINDOWS:
            self.counter.__exit__(None, None, None)
            print(json.dumps(self.figures()), flush=True)
            os._exit(0)

    def figures(self) -> Figures:
        marks = self.marks[WARM - 1 : WARM + WINDOWS]
        taken = [later - earlier for earlier, later in itertools.pairwise(marks)]
        return {
            "seconds": statistics.median(taken) / WINDOW,
            "floor": self.counter.get_total_flops() / WINDOW / matrix_rate(),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def matrix_rate() -> float:
    """FLOPs per second of a large product on this core, the best of a few."""
    import torch

    a, b, taken = torch.randn(768, 1024), torch.randn(1024, 3072), []
    for _ in range(12):
        start = time.process_time()
        a @ b
        taken.append(time.process_time() - start)
    return 2 * 768 * 1024 * 3072 / min(taken)


def update(path: str) -> None:
    """In a process of its own, by whichever `unival` is on its path: the stage, until the clock ends it."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(Clock())
    sys.argv = ["unival", "run", "pretrain", "--config", path]
    runpy.run_module("unival", run_name="__main__")


def command(*arguments: str, **environment: str) -> Callable[[Path], Figures]:
    """CPU seconds of `python -m unival <arguments>`, with the processes that it starts."""

    def measured(folder: Path) -> Figures:
        shown = subprocess.Popen(
            [sys.executable, "-m", "unival", *arguments], cwd=folder, env=environ(folder) | environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert shown.stderr
        told = shown.stderr.read()
        _, status, usage = os.wait4(shown.pid, 0)
        shown.returncode = os.waitstatus_to_exitcode(status)
        if shown.returncode != (-9 if "UNIVAL_FAIL_AT_STEP" in environment else 0):
            sys.exit(f"{folder}: unival {' '.join(arguments)}: {told.decode()[-2000:]}")
        return {"seconds": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}

    return measured


def environ(folder: Path) -> dict[str, str]:
    source = (folder / "src").resolve()
    return os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "UNIVAL_RUNTIME": "cpu"}


def of_update(path: str) -> Callable[[Path], Figures]:
    """Updates with the training settings at `path`, from new weights of the default model."""

    def measured(folder: Path) -> Figures:
        configs = (folder / "build/config/pretrain/video_text.yaml", folder / f"build/config/{path}.yaml")
        new, own = (yaml.safe_load(config.read_text()) for config in configs)
        train = own["train"] | {"selection": None, "checkpoint_every": 10**9, "log_every": 10**9}
        stage = new | {"init": None, "train": train, "tasks": own["tasks"]}
        (folder / "update.yaml").write_text(yaml.safe_dump(stage))
        done = subprocess.run(
            [sys.executable, __file__, "--inside", "update.yaml"], cwd=folder, env=environ(folder),
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{folder}: {path}: {done.stderr[-2000:]}")
        found: Figures = json.loads(done.stdout.splitlines()[-1])
        return found

    return measured


def study(folder: Path) -> Figures:
    """The pipeline in a clone of the tree."""
    tree = (folder / "src").resolve().parent
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["git", "clone", "-q", tree, place], check=True)
        start = os.times()
        environment = environ(Path(place)) | {"UNIVAL_RUNTIME": "auto"}
        subprocess.run(["dvc", "repro", "-q"], cwd=place, env=environment, check=True)
        end = os.times()
        seconds = end.children_user + end.children_system - start.children_user - start.children_system
        return {"seconds": seconds}


def works(row: str) -> Callable[[Path], Figures]:
    if row in UPDATES:
        return of_update(UPDATES[row])
    if row == "startup":
        config = "build/config/pretrain/image_text.yaml"
        return command("run", "pretrain", "--config", config, UNIVAL_FAIL_AT_STEP="1")
    return study if row == "study" else command("run", row, "--config", f"build/config/{row}.yaml")


@contextmanager
def place(tree: Path, shared: dict[str, Path]) -> Iterator[Path]:
    """A working folder of a revision: its source and settings, and data or models from elsewhere."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for own in ("src", "conf", "build", "params.yaml"):
            (folder / own).symlink_to(tree / own)
        for path, source in shared.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to(source.resolve())
        yield folder


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "tree"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "-q", "--detach", tree, revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)


def measure(row: str, sides: list[tuple[Path, dict[str, Path]]], rounds: int) -> dict[str, Any]:
    """`sides`: tree and shared folders of both."""
    taken: tuple[list[Figures], list[Figures]] = ([], [])
    for _ in range(rounds):
        for (tree, shared), figures in zip(sides, taken, strict=True):
            with place(tree, shared) as folder:
                figures.append(works(row)(folder))
    ours, baseline = ([figures["seconds"] for figures in side] for side in taken)
    line = {
        "name": row,
        "ours": round(statistics.median(ours), 4),
        "baseline": round(statistics.median(baseline), 4),
        "ratio": round(statistics.median(map(operator.truediv, ours, baseline)), 3),
        "unit": "s CPU",
    }
    if row in UPDATES:
        line["floor"] = round(statistics.median(figures["floor"] for figures in taken[0]), 4)
    if row != "study":
        line["peak_mib"] = [round(max(figures["peak_mib"] for figures in side)) for side in taken]
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="default: all but evaluate and study")
    parser.add_argument("--against", default="99285eb", help="revision that is the baseline")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=Path, help="folder `models` of a checkout of the baseline")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        return update(given.inside)
    if unknown := set(given.rows) - {*ROWS, *ASKED}:
        parser.error(f"no row {', '.join(sorted(unknown))}")
    rows = given.rows or ROWS
    if "evaluate" in rows and not given.models:
        parser.error("evaluate: --models is missing")
    with worktree(given.against) as other, tempfile.TemporaryDirectory() as made:
        trees, data = (ROOT, other), [Path(made) / "ours", Path(made) / "baseline"]
        if {*rows} - {"prepare", "study"}:
            for tree, prepared in zip(trees, data, strict=True):
                with place(tree, {}) as folder:
                    works("prepare")(folder)
                    shutil.copytree(folder / DATA, prepared)
        for row in rows:
            alone = row in ("prepare", "study")
            shared = [{} if alone else {str(DATA): prepared} for prepared in data]
            if row == "evaluate":
                shared = [folders | {"models": given.models} for folders in shared]
            print(json.dumps(measure(row, list(zip(trees, shared, strict=True)), given.rounds)), flush=True)


if __name__ == "__main__":
    main()
