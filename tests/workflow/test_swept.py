"""Sweeps that are ended at any moment: MLflow has in the end what it has of one that nothing disturbed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, environment
from logged import logged
from swept import TREE

from unival import config, files

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("swept.py")
WORDS = ["-m", "stage=finetune", "item=vqa", "set.finetune.train.lr=1e-3", "seed=0,1"]


def swept(folder: Path, ended: int | None = None, after: float = 0.0) -> list[dict[str, Any]]:
    """What MLflow has of a sweep that a signal ended so many seconds after its first job began."""
    files.write_text(folder / "conf/config.yaml", config.dump(TREE))
    (folder / "conf/hydra").symlink_to(ROOT / "conf/hydra")
    command = [sys.executable, str(WORKER), str(folder), "sweep", *WORDS]
    told = environment(PYTHONPATH=f"{ROOT / 'src'}", DVC_ROOT=str(folder))
    status: int | None = None
    if ended is not None:
        sweep = subprocess.Popen(command, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not any(folder.glob("multirun/*/0/job.json")) and sweep.poll() is None:
            time.sleep(0.1)
        time.sleep(after)
        sweep.send_signal(ended)
        status = sweep.wait(600)
    if status != 0:  # else it was faster: the command would begin another sweep
        done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-4000:]
    (folder / "fetched").mkdir()
    return logged(f"sqlite:///{folder}/mlflow.db", "finetune", folder / "fetched")


@pytest.mark.resume
@pytest.mark.parametrize("ended", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_was_ended_leaves_the_runs_of_an_undisturbed_one(tmp_path: Path, ended: int) -> None:
    (whole,) = swept(tmp_path / "whole")
    assert whole["status"] == "FINISHED" and [run["status"] for run in whole["below"]] == ["FINISHED"] * 2
    moments = random.Random(int(ended)).sample(range(100), 3)
    for moment in moments:
        assert swept(tmp_path / str(moment), ended, moment / 10) == [whole], f"after {moment / 10} s"
