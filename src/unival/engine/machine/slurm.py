"""Work as jobs of SLURM: a training stage, or the jobs of a sweep as one array.

The command submits and waits. SLURM starts the ranks of a job and tells them when its time is up or its nodes
are wanted: they save a checkpoint and leave, and the job queues again under its number; the next run goes on
from the checkpoint. Within a job, or under `salloc`, a stage starts its ranks there.
"""

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unival.engine.machine.launch import LEAVE, asked
from unival.errors import UserError

NOTICE = 120
"""Seconds before the time limit at which the ranks are told, unless `signal` says otherwise. SLURM may be up
to a minute early."""
EVERY = 5.0
"""Seconds between two looks at a job."""
INSIDE = "SLURM_JOB_ID"
"""Environment variable: this process runs in a job."""
TRIES = 3
"""Runs of a job in a row that may be told to end, or lose a node, without having come a step further."""
STOPPED = 128 + 15
"""Status of ranks that were told to end, have saved and have left."""

RANK = f"""trap : TERM  # the ranks hear it themselves
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
export MASTER_ADDR=$SLURM_LAUNCH_NODE_IPADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
"$@"
status=$?
if [ $status != 0 ] && [ "$RANK" != 0 ]; then
  sleep {LEAVE}  # rank 0 says why, before its end is SLURM's work
  [ $status != {STOPPED} ] || status=1
fi
exit $status"""
"""Of one rank. All nodes of the job reach the address; their names may be known to SLURM alone.

Where one fails, srun ends the others by the same signal, and the highest status is that of the job: that they
were told to end is for rank 0 alone to give.
"""

JOB = """#!/bin/bash
again() {{
  idle=$(awk -v job="$SLURM_JOB_ID" '
    BEGIN {{ idle = 1 }}
    match($0, /(resumes from step|stopped: saved step|stopped: at job) [0-9]+/) {{
      split(substr($0, RSTART, RLENGTH), said, /(step|job) /)  # a job may train, and says its steps between
      what = said[1] ~ /at $/ ? "job" : "step"
      if (said[2] + 0 <= best[what]) next
      idle = 1; best[what] = said[2] + 0
      if (what == "job") delete best["step"]
    }}
    index($0, "*** JOB " job " QUEUES AGAIN ") == 1 {{ idle++ }}
    END {{ print idle }}' /proc/$$/fd/1)  # its log, of this run and those before
  if [ $idle -lt {tries} ]; then
    echo "*** JOB $SLURM_JOB_ID QUEUES AGAIN DUE TO $1 ***"
    exec scontrol requeue $SLURM_JOB_ID
  fi
  echo "unival: ended {tries} times without having come a step further: $2"
  exit 2
}}
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # srun does not take it over
case ${{SLURM_ARRAY_TASK_ID:-0}} in
{cases}
esac
status=$?
if [ $status != 0 ] && ! timeout 60 srun --overlap true; then  # the ranks have seen it before SLURM
  again "NODE FAILURE" "srun starts nothing on its nodes and says why above"
elif [ $status = {stopped} ]; then
  again TIME 'raise `time`'
fi
exit $status
"""
"""Of a job. One that SLURM itself kills, or queues again, does not come to its last lines."""

ENDED = {
    "CANCELLED": "was cancelled",
    "TIMEOUT": "ran out of time before its ranks had saved: raise `signal` (TERM@<seconds>) or `time`",
    "NODE_FAIL": "lost a node and may not queue again",
    "OUT_OF_MEMORY": "ran out of memory: raise `mem`",
    "BOOT_FAIL": "got nodes that did not start",
    "DEADLINE": "missed its deadline",
    "PREEMPTED": "was preempted and may not queue again",
}
"""States of jobs that came to nothing, and what to say of them."""


def check() -> None:
    """Whether jobs can be submitted from here.

    Raises:
        UserError: there is no SLURM.
    """
    if shutil.which("sbatch") is None:
        raise UserError("runtime: launcher slurm: no command sbatch here: submit from a node that has SLURM")


def ranks(command: Sequence[str], single: bool = False) -> list[str]:
    """What runs a command on all ranks of the job that it is called in; `single`: on one."""
    only = ["--nodes=1", "--ntasks=1"] if single else []
    return ["srun", "--kill-on-bad-exit=1", *only, "sh", "-c", RANK, "rank", *command]


def options(settings: Mapping[str, Any]) -> list[str]:
    """Options of sbatch.

    Args:
        settings: by their names. true: without a value; false and null: not given.
    """
    given = {name: value for name, value in settings.items() if value not in (False, None)}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]


class Ended(NamedTuple):
    """How a job came to its end."""

    status: int
    """Its exit status; that of a signal where it was ended from here."""
    nothing: str = ""
    """What is to be said of one that came to nothing."""


def submit(
    commands: Mapping[int, Sequence[str]],
    processes: int,
    settings: Mapping[str, Any],
    name: str,
    log: Path,
    to_end: Callable[[int], bool] = lambda number: False,
    at_once: int = 1,
) -> dict[int, Ended]:
    """Submit a job, or an array of them, and wait for their ends.

    Args:
        commands: of each job.
        processes: ranks on each node.
        settings: see `options`; they stand over those given here.
        log: in a folder that the nodes share. With `%a` (a job's number) the jobs are an array, else `%j`
            (SLURM's number) is the only job.
        to_end: called again and again with a job's number; whether it is to be cancelled.
        at_once: jobs of an array that may run at the same time.

    Raises:
        UserError: no SLURM, or it refuses the settings.
    """
    check()
    array = "%a" in str(log)
    own = {"job-name": name, "output": log.resolve(), "open-mode": "append", "requeue": True,
           "ntasks-per-node": processes, "signal": f"TERM@{NOTICE}"}  # fmt: skip
    if array:
        own["array"] = f"{','.join(map(str, commands))}%{at_once}"
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
    cases = "\n".join(f"{number}) {shlex.join(command)} ;;" for number, command in commands.items())
    script = JOB.format(cases=cases, stopped=STOPPED, tries=TRIES)
    with asked() as came:
        done = _slurm(["sbatch", "--parsable", *options({**own, **settings})], script)
        if done.returncode:
            raise UserError(f"runtime: slurm: {' '.join(done.stderr.split())}")
        number = done.stdout.strip().split(";")[0]
        jobs = {
            one: _Submitted(
                name,
                f"{number}_{one}" if array else number,
                Path(str(log).replace("%a", str(one)).replace("%j", number)),
            )
            for one in commands
        }
        return dict(zip(commands, _wait(number, jobs, to_end, came), strict=True))


def _slurm(command: Sequence[str], text: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run to its end; Ctrl-C in a terminal is not for it."""
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, start_new_session=True
    )


def shown(text: str) -> Iterator[tuple[int | None, dict[str, str]]]:
    """The records of `scontrol show job --oneliner`.

    Yields:
        the place in an array, of which those that wait have one record (`3-5,8%2`), or None; fields.
    """
    for line in text.splitlines():
        fields = dict(re.findall(r"(\S+?)=(\S*)", line))
        spans = [
            span.split("-") for span in fields.get("ArrayTaskId", "").partition("%")[0].split(",") if span
        ]
        for span in spans:
            yield from ((place, fields) for place in range(int(span[0]), int(span[-1]) + 1))
        if not spans:
            yield None, fields


def _wait(
    number: str, jobs: Mapping[int, "_Submitted"], to_end: Callable[[int], bool], came: Sequence[int]
) -> list[Ended]:
    """Until all have ended; a signal that came ends them first, a second one ends the waiting."""
    for job in jobs.values():
        job.say(f"log {job.log}")
    lost, pause = False, 0.0
    while len(came) < 2 and not all(job.ended for job in jobs.values()):
        time.sleep(pause)
        for one, job in jobs.items():
            if not (job.ended or job.cancelled) and (came or to_end(one)):
                job.cancel()
        done = _slurm(["scontrol", "show", "job", "--oneliner", number])
        gone = "Invalid job id" in done.stderr
        if done.returncode and not gone and not lost:
            why = " ".join(done.stderr.split())
            print(f"job {number} cannot be seen, waiting: {why}", file=sys.stderr, flush=True)
        lost = bool(done.returncode)
        for place, fields in shown(done.stdout):
            jobs[place or 0].note(fields)
        for job in jobs.values():
            if gone and not job.ended:
                job.ended = Ended(1, "is not known to SLURM any more")
        pause = EVERY if not came else 1.0
    return [  # what had ended before a signal stays so
        job.ended if job.ended and not (came and job.cancelled) else Ended(128 + came[0])
        for job in jobs.values()
    ]


class _Submitted:
    """A job that was submitted, and what was said of it here."""

    def __init__(self, name: str, number: str, log: Path) -> None:
        self.name, self.number, self.log = name, number, log
        self.last = ""
        self.restarts, self.read = 0, len(said(log))
        self.cancelled = False
        self.ended: Ended | None = None

    def say(self, what: str) -> None:
        """One line, once."""
        if what != self.last:
            print(f"{self.name}: job {self.number}: {what}", file=sys.stderr, flush=True)
        self.last = what

    def cancel(self) -> None:
        """SLURM tells the ranks, and kills them soon."""
        self.cancelled = True
        self.say("stopping it")
        _slurm(["scancel", self.number])

    def note(self, fields: Mapping[str, str]) -> None:
        """Say what is new.

        Args:
            fields: as SLURM shows the job.
        """
        state, restarts = fields["JobState"], int(fields["Restarts"])
        if restarts > self.restarts and not self.ended:
            self.restarts = restarts
            self.say(self._again())
        if self.ended:
            return
        if state == "PENDING" and fields["Reason"] != "None":
            self.say(f"waits: {fields['Reason']}")
        elif state == "RUNNING":
            self.say(f"runs on {fields['NodeList']}")
        elif state in ("COMPLETED", "FAILED"):
            code, number = map(int, fields["ExitCode"].split(":"))
            self.ended = Ended(128 + number if number else code)
            if state == "FAILED":
                new = said(self.log)[self.read :]
                self.say(f"failed: {last_line(new) or f'nothing in {self.log}'}")
        elif state in ENDED:
            self.ended = Ended(STOPPED) if self.cancelled else Ended(1, ENDED[state])
            self.say(ENDED[state])

    def _again(self) -> str:
        """Why it queues again."""
        new = said(self.log)[self.read :]
        self.read += len(new)
        found = re.findall(r"\*\*\* .*DUE TO (PREEMPTION|NODE FAILURE)", new)
        return f"queues again: {found[-1].lower() if found else 'its time was up'}"


def said(log: Path) -> str:
    """What a job has said, and those before it that had the same log."""
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def last_line(text: str) -> str:
    """What a job said last, its ranks before SLURM."""
    lines = [line for line in text.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("unival: ")]
    return (own or lines or [""])[-1]
