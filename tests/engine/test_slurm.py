"""Jobs through submitit, on its local executor: the exit status comes back, an interrupted job goes on."""

import os
import signal
import time
from pathlib import Path

import pytest

from unival.engine.machine import slurm
from unival.engine.machine.runtime import Runtime
from unival.errors import UserError

submitit = pytest.importorskip("submitit")
pytestmark = pytest.mark.distributed

PROGRAM = """
import os, pathlib, signal, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
rank, out = os.environ["RANK"], pathlib.Path(sys.argv[1])
with out.open("a") as log:
    log.write(f"start {rank} of {os.environ['WORLD_SIZE']}\\n")
if len(sys.argv) > 2 and "saved" not in out.read_text():
    while not stop:
        time.sleep(0.02)
    with out.open("a") as log:
        log.write("saved\\n")
    sys.exit(143)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "conf/runtime").mkdir(parents=True)
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(slurm.__file__).parents[3]))
    monkeypatch.delenv("RANK", raising=False)
    return tmp_path


SETTINGS = {"cluster": "local", "timeout_min": 5}


@pytest.mark.slow
def test_ranks_run_and_the_status_comes_back(place, capfd):
    assert slurm.submit(["list", "runtime"], 2, SETTINGS, "test") == 0
    job = capfd.readouterr().err.split("log ")[1].strip()
    assert Path(job).read_text().count("runtime:") == 2
    assert slurm.submit(["list", "runtimes"], 1, SETTINGS, "test") != 0


def below(pid):
    """Processes that a process started, and that these started."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [found for child in children for found in (child, *below(child))]


@pytest.mark.slow  # submitit's local executor looks after its jobs once in a while only
@pytest.mark.resume
@pytest.mark.parametrize("notice", [signal.SIGTERM, signal.SIGUSR2])
def test_an_interrupted_job_saves_and_goes_on(place, notice):
    log = place / "log"
    executor = submitit.AutoExecutor(folder=place / "jobs", cluster="local")
    executor.update_parameters(timeout_min=5)
    job = executor.submit(slurm.Ranks([str(log), "wait"], 1, "program"))
    while not log.exists():
        assert not job.done()
        time.sleep(0.05)
    stand_in = int(job.job_id)  # of SLURM; it hands SIGTERM to the job
    for pid in [stand_in] if notice == signal.SIGTERM else below(stand_in):
        os.kill(pid, notice)
    assert job.result() == 0
    assert log.read_text().split("\n")[:3] == ["start 0 of 1", "saved", "start 0 of 1"]


def test_the_runtime_submits(monkeypatch):
    calls = []
    monkeypatch.setattr(slurm, "submit", lambda *arguments: calls.append(arguments) or 7)
    monkeypatch.delenv("RANK", raising=False)
    chosen = Runtime(launcher="slurm", processes=8, slurm={"nodes": 2})
    words = ["run", "pretrain", "--config", "x.yaml"]
    assert chosen.launch(words, lambda: None) == 7
    assert calls == [(words, 8, {"nodes": 2}, "unival-pretrain")]


@pytest.mark.fault
@pytest.mark.skipif(bool(os.environ.get("SLURM_JOB_ID")), reason="runs where there is no SLURM")
def test_without_slurm_or_with_a_wrong_setting():
    with pytest.raises(UserError, match="slurm"):
        slurm.submit(["run"], 1, {}, "test")
    with pytest.raises(UserError, match="tme_min"):
        slurm.submit(["run"], 1, {"cluster": "local", "tme_min": 3}, "test")
