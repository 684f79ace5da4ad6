"""Jobs of SLURM without SLURM: what is submitted, and what is read of it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from unival.engine.machine import runtime, slurm
from unival.engine.machine.runtime import Runtime
from unival.errors import UserError

ENDED = 128 + signal.SIGTERM
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
    assert chosen.launch(["run", "merge"], lambda: None, tmp_path, single=True) == 7
    assert {"--nodes=1", "--ntasks=1"} <= {*submitted[1][0][0]} and not {"--ntasks=1"} & {*commands[0]}
    assert submitted[1][1:3] == (1, {"nodes": 1})
    monkeypatch.setenv(slurm.INSIDE, "12")
    assert chosen.launch(WORDS, lambda: None, tmp_path) == 5
    assert started == [commands[0]] and len(submitted) == 2
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


@pytest.mark.parametrize(
    ("name", "status", "given"), [("0", 2, 2), ("1", 2, 2), ("1", 0, 0), ("0", ENDED, ENDED), ("1", ENDED, 1)]
)
def test_a_rank_gives_its_status_and_the_place_of_the_others(tmp_path, name, status, given):
    """srun gives the highest: ranks that it ends, since another one has failed, do not hide why."""
    out = tmp_path / "out"
    told = {"SLURM_PROCID": name, "SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "12345"}
    told |= {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}
    work = f"echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT > {out}; exit {status}"
    _, _, *command = slurm.ranks(["sh", "-c", work])
    command[2] = command[2].replace(f"sleep {slurm.LEAVE}", "sleep 0.1")
    assert subprocess.run(command, env={**os.environ, **told}).returncode == given
    assert out.read_text().split() == [name, "0", "2", "10.0.0.1", "22345"]


@pytest.mark.fault
def test_without_slurm(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="no command sbatch here"):
        slurm.submit({0: ["true"]}, 1, {}, "test", tmp_path / "%j.log")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Gives a command of SLURM, as a script for sh."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def give(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return give


def run_job(folder: Path, number: int, work: str) -> int:
    """One run of a job of SLURM; its exit status, 0 when it queues again."""
    case = f"0) sh -c '{work}' ;;"
    script = slurm.JOB.format(cases=case, stopped=slurm.STOPPED, tries=slurm.TRIES)
    told = {**os.environ, "SLURM_JOB_ID": str(number)}
    with (folder / "log").open("a") as log:
        return subprocess.run(
            ["bash", "-c", script], env=told, stdout=log, stderr=log, check=False
        ).returncode


@pytest.mark.fault
@pytest.mark.parametrize(
    "said",
    [
        "resumes from step 7",
        "evaluate: stopped: at job 7",
        "x: resumes from step 3; echo y: stopped: saved step 7; echo ablate: stopped: at job 2",
    ],
)
@pytest.mark.parametrize(
    ("starts", "fix"), [("true", "raise `time`"), ("false", "srun starts nothing on its nodes")]
)
def test_a_job_that_comes_no_further_ends_by_itself(commands, tmp_path, starts, fix, said):
    """Nobody need wait for it. What an earlier job has left in the log does not count."""
    commands("srun", starts)
    commands("scontrol", "echo $* >> ${0%/*}/requeued")
    work = f"echo {said}; exit {ENDED}"
    assert [run_job(tmp_path, 1, work) for _ in range(2)] == [0, 0]
    assert [run_job(tmp_path, 2, work) for _ in range(3)] == [0, 0, 2]
    assert (tmp_path / "requeued").read_text().split("\n") == [*["requeue 1"] * 2, *["requeue 2"] * 2, ""]
    last = slurm.last_line(slurm.said(tmp_path / "log"))
    assert last.startswith("unival: ended 3 times without having come a step further: ") and fix in last


@pytest.mark.resume
@pytest.mark.parametrize(
    ("starts", "says"),
    [("true", "x: stopped: saved step {}, run again"), ("false", "x: resumes from step {}")],
)
def test_a_job_that_comes_further_queues_again_as_often_as_it_takes(commands, tmp_path, starts, says):
    commands("srun", starts)
    commands("scontrol", "exit 0")
    for run in range(3 * slurm.TRIES):
        said = says.format(run // 2)  # each second run gains nothing
        assert run_job(tmp_path, 1, f'echo "{said}"; exit {ENDED}') == 0


@pytest.mark.resume
def test_a_further_job_may_train_fewer_steps_than_those_before(commands, tmp_path):
    commands("srun", "true")
    commands("scontrol", "exit 0")
    for run in range(3 * slurm.TRIES):
        said = f"x: stopped: saved step {100 - run}; echo ablate: stopped: at job {1 + run // 2}"
        assert run_job(tmp_path, 1, f"echo {said}; exit {ENDED}") == 0


@pytest.mark.fault
def test_ctrl_c_while_a_job_is_submitted_cancels_it(commands, tmp_path):
    commands("sbatch", f"kill -INT {os.getpid()}; sleep 0.1; echo 7")
    commands("scancel", "echo $* >> ${0%/*}/cancelled")
    commands("scontrol", "echo JobId=7 JobState=CANCELLED Restarts=0")
    ended = slurm.submit({0: ["true"]}, 1, {}, "test", tmp_path / "%j.log")
    assert ended == {0: slurm.Ended(130)}
    assert (tmp_path / "cancelled").read_text() == "7\n"


@pytest.mark.fault
def test_why_a_job_failed_is_not_taken_from_runs_before(commands, tmp_path, capfd):
    """The jobs of a sweep that is resumed go on in the logs of the jobs before."""
    log = tmp_path / "7.log"
    log.write_text("unival: no such file\n")
    shown = "JobId=7 JobState=FAILED ExitCode=1:0 Restarts"
    commands("sbatch", "echo 7")
    commands("scontrol", f"echo {shown}=0; echo Killed >> {log}")
    assert slurm.submit({0: ["true"]}, 1, {}, "test", tmp_path / "%j.log") == {0: slurm.Ended(1)}
    assert "failed: Killed\n" in capfd.readouterr().err
