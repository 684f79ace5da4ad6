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
    sync = [*command[:3], "sync"]  # what a slow store has not taken
    # a sweep that was faster is not begun anew
    for words in (command, sync) if status != 0 else (sync,):
        done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-4000:]
    (folder / "fetched").mkdir()
    return logged(f"sqlite:///{folder}/mlflow.db", "finetune", folder / "fetched")


@pytest.mark.resume
def test_a_sweep_that_was_ended_leaves_the_runs_of_an_undisturbed_one(tmp_path: Path) -> None:
    """-9, TERM and INT, each at two moments of the ten seconds that it takes."""
    (whole,) = swept(tmp_path / "whole")
    assert whole["status"] == "FINISHED" and [run["status"] for run in whole["below"]] == ["FINISHED"] * 2
    for ended in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        for moment in random.Random(int(ended)).sample(range(100), 2):
            found = swept(tmp_path / f"{ended.name}-{moment}", ended, moment / 10)
            assert found == [whole], f"{ended.name} after {moment / 10} s"
