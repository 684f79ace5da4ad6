"""One job of a sweep: what is known of it in its folder, and how it is run."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from unival import compose, config, files, scratch, tracking
from unival.errors import UserError
from unival.stages import base
from unival.sweep import overrides
from unival.sweep.trials import Pruning

MAIN = "UNIVAL_SWEEP_PROCESS"
"""Number of the process that the sweep was started as."""
SENT = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""How a job ends that was asked to."""
SIGNALS = {number.value: number.name for number in signal.Signals}
ENDED = ("FINISHED", "PRUNED")
"""Jobs of these statuses do not run again."""
NOTE = "job.json"
SWEEP_NOTE = "sweep.json"
"""In the folder of a sweep: its command and how it ended."""


@dataclass
class JobState:
    """`job.json` of a job's folder."""

    number: int
    identity: str
    """Of configuration, inputs and code: a job that has ended with the same is not run again."""
    overrides: list[str]
    """What the sweep sets for it, `<key>=<value>`: first what is not the same in all jobs."""
    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED", "PRUNED"] = "RUNNING"
    score: float | None = None
    """Validation score of what it trained; None where the stage trains nothing, or has not ended."""
    said: str = ""
    """Its last line, where it failed."""

    @property
    def label(self) -> str:
        """What it is called: the values that were set, by the last words of their keys."""
        values = dict(word.split("=", 1) for word in self.overrides)
        return " ".join(f"{short}={values[key]}" for key, short in shortened(values).items())


def shortened(keys: Iterable[str]) -> dict[str, str]:
    """Key -> its last words, as many as tell the keys apart."""
    parts = {key: key.split(".") for key in keys}
    for size in range(1, max(map(len, parts.values()), default=0) + 1):
        short = {key: ".".join(part[-size:]) for key, part in parts.items()}
        if len(set(short.values())) == len(short):
            return short
    return {key: key for key in parts}


def read(sweep: Path) -> list[JobState]:
    """The jobs of a sweep that have begun, in their order."""
    found = [config.build(JobState, files.read_json(path), str(path)) for path in sweep.glob(f"*/{NOTE}")]
    return sorted(found, key=lambda job: job.number)


def stop_file() -> Path:
    """Its presence ends the jobs, in whatever processes a launcher runs them; it holds the exit status.

    The process has a file of its own: jobs that outlive it do not stop the one that goes on.
    """
    return Path("multirun").resolve() / os.environ["UNIVAL_SWEEP"] / f".stopped-{os.environ[MAIN]}"


def stop(status: int) -> None:
    """End the sweep's jobs, and begin no further one."""
    if not stop_file().exists():
        files.write_text(stop_file(), str(status))


def run(tree: Any) -> JobState | None:
    """One job: resolve, then run the stage in a process of its own; nothing once the sweep was stopped."""
    from unival.engine.machine.launch import wait_for

    job = begin(tree)
    if not isinstance(job, Begun):
        return job
    with (job.folder / "log.txt").open("a", encoding="utf-8") as log:
        environment = {**os.environ, **job.environment()}
        status = wait_for(job.command(), job.to_end, env=environment, stdout=log, stderr=subprocess.STDOUT)
    return job.ended(status)


def begin(tree: Any) -> "JobState | Begun | None":
    """One job up to its work: what is left to run, or what has ended; nothing once the sweep was stopped."""
    if stop_file().exists():
        return None
    from hydra.core.hydra_config import HydraConfig

    state = HydraConfig.get()
    folder = Path(state.runtime.output_dir)
    alike = overrides.constant(files.read_json(folder.with_name(SWEEP_NOTE))["command"])
    words = sorted(state.overrides.task, key=lambda word: word.partition("=")[0] in alike)
    words = [word.lstrip("+") for word in words if not word.lstrip("+").startswith(("stage_name=", "sweep="))]
    job = JobState(int(folder.name), "", words)
    try:
        values = compose.resolve(tree, tree.stage_name, tree.item)
        files.write_text(folder / "config.yaml", config.dump(values))
        work = base.place(values["stage"], *base.read(values["stage"], folder / "config.yaml"))
        job.identity = work.name
        if (before := _before(folder, job, work)) is not None:
            return before
        files.write_json(folder / NOTE, asdict(job))
        return Begun(job, values, folder, work)
    except UserError as error:
        job.status, job.said = "FAILED", str(error)
        files.write_json(folder / NOTE, asdict(job))
        return job


class Begun:
    """A job that is to be run."""

    def __init__(self, job: JobState, values: dict[str, Any], folder: Path, work: Path) -> None:
        self.job, self.stage, self.folder, self.work = job, values["stage"], folder, work
        steps = values["train"]["steps"] if "train" in values else 0
        self.pruning = Pruning(folder.parent, job.number, work / "curve.jsonl", steps)
        self.parent, self.works = os.getppid(), os.environ[MAIN] != str(os.getpid())

    def command(self) -> list[str]:
        """What runs the stage; what it says belongs into log.txt."""
        command = [sys.executable, "-m", "unival", "run", self.stage]
        return [*command, "--config", str(self.folder / "config.yaml"), "--out", str(self.folder)]

    def environment(self) -> dict[str, str]:
        """Variables of the command."""
        return {"UNIVAL_RUN_NAME": self.job.label, "UNIVAL_OVERRIDES": " ".join(self.job.overrides)}

    def to_end(self) -> bool:
        """Whether it is to end: the sweep was stopped or is gone, or the job does too badly."""
        gone = self.works and os.getppid() != self.parent
        return stop_file().exists() or gone or self.pruning.decided()

    def ended(self, status: int, nothing: str = "") -> JobState:
        """Note how it ended.

        Args:
            status: that of the command.
            nothing: why it came to nothing, where it could not say so itself.
        """
        job = self.job
        if nothing:
            job.status, job.said = "FAILED", nothing
            _close(job, self.stage, self.work, {}, "KILLED")
        elif not status:
            job.status, job.score = "FINISHED", _score(self.folder)
        elif status in SENT and self.pruning.pruned:
            job.status = "PRUNED"
            _close(job, self.stage, self.work, {"sweep.pruned": "true"}, "FINISHED")
            files.discard(self.work)
        elif status in SENT:
            job.status = "KILLED"
            stop(status)  # the others end in good order, too
        else:
            text = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
            job.status, job.said = "FAILED", "".join(text.strip().splitlines()[-1:])
            if name := SIGNALS.get(status - 128):  # it could say nothing itself
                job.said = f"{name}: {job.said}"
                _close(job, self.stage, self.work, {}, "KILLED")
        files.write_json(self.folder / NOTE, asdict(job))
        return job


def _before(folder: Path, job: JobState, work: Path) -> JobState | None:
    """The job where it has ended before, as it is now; what another one has left is removed."""
    scratch.wait_for_end(work)
    note = folder / NOTE
    found = config.build(JobState, files.read_json(note), str(note)) if note.exists() else None
    if found is None or found.identity != job.identity:
        shutil.rmtree(folder / "reports", ignore_errors=True)
        return None
    if any(folder.glob("reports/runs/*.json")) and not work.exists():  # killed before it was noted
        found.status, found.score = "FINISHED", _score(folder)
        files.write_json(note, asdict(found))
    return found if found.status in ENDED else None


def _close(job: JobState, stage: str, work: Path, tags: dict[str, str], status: str) -> None:
    """End the job's run in MLflow, for the job is gone."""
    if (work / "run.json").is_file():
        tracking.MlflowTracker(stage, job.label, work / "run.json", tags).end(status)


def _score(folder: Path) -> float | None:
    """Validation score of the weights that a training has published."""
    for path in folder.glob("models/*/*/training.json"):
        return files.read_json(path).get("score")
    return None
