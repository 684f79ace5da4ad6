"""Jobs of SLURM without SLURM: what is submitted, and what is read of it."""

import os
import subprocess

import pytest

from unival.engine.machine import runtime, slurm
from unival.engine.machine.runtime import Runtime
from unival.errors import UserError

WORDS = ["run", "pretrain", "--config", "x.yaml"]


def test_a_stage_submits_its_ranks_and_inside_a_job_starts_them(monkeypatch, tmp_path):
    submitted, started = [], []
    ended = {0: slurm.Ended(7)}
    monkeypatch.setattr(slurm, "submit", lambda *arguments: submitted.append(arguments) or ended)
    monkeypatch.setattr(runtime, "wait_for", lambda command: started.append(command) or 5)
    for name in ("RANK", slurm.INSIDE):
        monkeypatch.delenv(name, raising=False)
    chosen = Runtime(launcher="slurm", processes=8, slurm={"nodes": 2})
    assert chosen.launch(WORDS, lambda: None, tmp_path) == 7
    commands, processes, settings, name, log = submitted[0]
    assert commands[0][0] == "srun" and commands[0][-4:] == WORDS
    assert (processes, settings, name, log) == (8, {"nodes": 2}, "unival-pretrain", tmp_path / "%j.log")
    monkeypatch.setenv(slurm.INSIDE, "12")
    assert chosen.launch(WORDS, lambda: None, tmp_path) == 5
    assert started == [commands[0]] and len(submitted) == 1
    monkeypatch.setenv("RANK", "1")
    assert chosen.launch(WORDS, lambda: None, tmp_path) is None


@pytest.mark.fault
def test_a_job_that_came_to_nothing_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm, "submit", lambda *_: {0: slurm.Ended(1, "was cancelled")})
    for name in ("RANK", slurm.INSIDE):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="unival-pretrain: its job was cancelled; the same command goes on"):
        Runtime(launcher="slurm", processes=8).launch(WORDS, lambda: None, tmp_path)


def test_options_of_sbatch():
    given = {"nodes": 2, "exclusive": True, "gres": None, "no-kill": False, "time": "1-00:00:00"}
    assert slurm.options(given) == ["--nodes=2", "--exclusive", "--time=1-00:00:00"]


def test_the_jobs_of_an_array_are_told_apart():
    text = (
        "JobId=7 ArrayJobId=7 ArrayTaskId=3-5,7%2 JobState=PENDING Reason=Resources\n"
        "JobId=8 ArrayJobId=7 ArrayTaskId=2 JobState=RUNNING Reason=None NodeList=n[1-2] Comment=a=b\n"
    )
    found = [(place, fields["JobState"]) for place, fields in slurm.shown(text)]
    assert found == [*((place, "PENDING") for place in (3, 4, 5, 7)), (2, "RUNNING")]
    assert [place for place, _ in slurm.shown("JobId=9 JobState=RUNNING")] == [None]


@pytest.mark.parametrize(("name", "status"), [("0", 2), ("1", 2)])
def test_a_rank_gives_its_status_and_the_place_of_the_others(tmp_path, name, status):
    out = tmp_path / "out"
    told = {"SLURM_PROCID": name, "SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "12345"}
    told |= {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}
    work = f"echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT > {out}; exit {status}"
    _, _, *command = slurm.ranks(["sh", "-c", work])
    command[2] = command[2].replace(f"sleep {slurm.LEAVE}", "sleep 0.1")
    assert subprocess.run(command, env={**os.environ, **told}).returncode == status
    assert out.read_text().split() == [name, "0", "2", "10.0.0.1", "22345"]


@pytest.mark.fault
def test_without_slurm(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="no command sbatch here"):
        slurm.submit({0: ["true"]}, 1, {}, "test", tmp_path / "%j.log")
