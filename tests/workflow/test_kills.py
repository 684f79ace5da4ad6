"""Kills at any moment: what MLflow has of a run in the end is what it has of one that nothing disturbed."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment
from logged import logged

WORKER = Path(__file__).with_name("toy_stage.py")
LAST = 198
"""Moments of a run whose outs are DVC's; others have more."""


def killed(folder: Path, *moments: int) -> dict[int, list[dict]]:
    """Moment -> what MLflow has of a run of the toy stage that a signal ended then, and that went on."""
    words = [sys.executable, str(WORKER), str(folder), "killed", *map(str, moments)]
    told = environment(PYTHONPATH=f"{ROOT / 'src'}")
    done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-4000:]
    (folder / "fetched").mkdir()
    return {
        moment: logged(f"sqlite:///{folder}/{moment}/mlflow.db", "toy", folder / "fetched")
        for moment in moments
    }


@pytest.mark.resume
@pytest.mark.parametrize("count", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_the_run_of_an_undisturbed_one(tmp_path: Path, count: int) -> None:
    """-9, TERM and INT."""
    chosen = random.Random(0).sample(range(1, LAST), count)
    found = killed(tmp_path, 0, *chosen)
    whole = found.pop(0)
    assert len(whole) == 1 and whole[0]["status"] == "FINISHED" and whole[0]["below"] and whole[0]["files"]
    for moment, runs in found.items():
        assert runs == whole, f"at moment {moment}"
