"""`unival sweep` over a stage of no size: jobs are processes of this file, and so is the sweep itself.

`python swept.py FOLDER sweep ...` sweeps in FOLDER; `python swept.py FOLDER run ...` is a job.
"""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf

from unival import cli, compose, config, files
from unival.engine.machine import launch
from unival.stages import base
from unival.tracking import tracker

TREE: dict[str, Any] = {
    "stage_name": None, "item": None, "seed": 0, "hydra": {"job": {"chdir": False}},
    "set": {"finetune": {"train": {"lr": 1.0, "steps": 4}}},
}  # fmt: skip
PAUSE = 0.1
"""Seconds of a step."""


class Toy:
    """Works in steps, and remembers them as training does."""

    Config = SimpleNamespace

    def inputs(self, config: Any) -> list[Path]:
        """None."""
        return []

    def run(self, config: Any, io: base.StageIO) -> None:
        """A loss and a score of four steps, and the folder of a model."""
        kept, train = io.scratch / "step.json", config["train"]
        for step in range(int(kept.read_text()) if kept.exists() else 1, train["steps"] + 1):
            io.tracker.metrics({"train/loss": train["lr"] / step}, step)
            files.write_json(kept, step)
            time.sleep(PAUSE)
        io.tracker.metrics({"best/score": train["lr"]}, train["steps"])
        files.write_json(io.out("models/finetune/vqa/training.json"), {"score": train["lr"] + train["seed"]})


def resolve(tree: Any, stage: str, item: str) -> dict[str, Any]:
    """The tree has all that the stage needs."""
    train: Any = OmegaConf.to_container(tree["set"].finetune.train)
    return {"stage": stage, "item": item, "train": {**train, "seed": tree.seed}}


def started(command: list[str], *given: Any, **settings: Any) -> int:
    """A job as a process of this file."""
    words = [sys.executable, __file__, str(Path.cwd()), *command[command.index("run") :]]
    return wait_for(words, *given, **settings)


if __name__ == "__main__":
    wait_for, launch.wait_for = launch.wait_for, started
    compose.read_params = lambda: None
    compose.primary = lambda params: {"defaults": ["config", "_self_"]}
    compose.resolve = resolve
    base.read = lambda stage, path: (config.load(path), config.load(path))
    base.module = lambda stage: Toy()
    tracker.PATIENCE = 300.0  # what ends is looked at
    os.chdir(sys.argv[1])
    if sys.argv[2] == "run":
        options = dict(zip(sys.argv[4::2], sys.argv[5::2], strict=True))
        from unival.errors import told

        with told():
            base.run(sys.argv[3], Path(options["--config"]), Path(options["--out"]))
    else:
        cli.main(sys.argv[2:])
