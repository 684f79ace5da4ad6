"""What every stage gets beside its configuration, and how a stage is run.

A stage reads inputs relative to the working directory, and names them with `inputs`. It keeps whatever it
needs to go on after a crash in `io.scratch` (outside DVC's outs, which DVC deletes before a rerun), and
writes each out once, at the end, with `io.publish` or a file of `io.out`.
"""

import dataclasses
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from unival import code, config, files, folders, provenance, scratch, tracking
from unival.errors import Stopped, UserError
from unival.stages import module
from unival.study.tables import Run

PARTS = {"pretrain": "phase", "finetune": "task"}
"""Stage -> what its items are."""
STARTED = "UNIVAL_STARTED"
"""When the command began (seconds since the epoch): imports and the start of ranks are part of its time."""
BEGAN = "began.json"
"""In the scratch folder: the commit of the process that began there."""
Laid = Callable[[str], dict[str, Any]]
"""Gives the values of another stage, before it keeps its part of them."""


@dataclasses.dataclass
class StageIO:
    """Places and services of one run of a stage."""

    stage: str
    item: str | None
    resolved: dict[str, Any]
    """The resolved configuration as it was read."""
    scratch: Path
    """Survives a crash; goes when the stage has ended well and DVC has its outs."""
    shared_scratch: Path
    """Survives reruns with another configuration: caches keyed by digests."""
    out_root: Path
    """Outs are written below it: the working directory, or the folder of a sweep's job."""
    tracker: tracking.Tracker

    main: bool = True
    """Rank 0: the one that writes outs."""
    outs: list[str] = dataclasses.field(default_factory=list)
    """What was written, relative to `out_root`."""

    @property
    def name(self) -> str:
        """`<stage>` or `<stage>-<item>`."""
        return f"{self.stage}-{self.item}" if self.item else self.stage

    def out(self, path: str | Path) -> Path:
        """Where an out goes; its folder exists afterwards.

        Raises:
            UserError: the folder cannot be written to.
        """
        target = self.out_root / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{target.parent}: cannot write here: {error.strerror}") from error
        self.outs.append(str(path))
        return target

    def publish(self, folder: Path, path: str | Path) -> Path:
        """Copy a finished folder to its out, whole or not at all; what was there goes last.

        Raises:
            UserError: the out cannot be written.
        """
        target = self.out(path)
        folders.copy(folder, target)
        return target


def keep_trained(values: dict[str, Any], laid: Laid) -> dict[str, Any]:
    """The values of a stage that trains, with the tasks of its mixture alone."""
    used = [stream["task"] for stream in values["train"]["mixture"]["streams"]]
    return values | {"tasks": config.pick(values["tasks"], used, "tasks")}


def read(stage: str, config_path: Path) -> tuple[dict[str, Any], Any]:
    """The resolved file of a stage, as it stands and as the stage's Config.

    Raises:
        UserError: it cannot be read, or has an unknown key or a wrong value.
    """
    resolved = config.load(config_path)
    return resolved, config.build(module(stage).Config, resolved, str(config_path))


def place(stage: str, resolved: dict[str, Any], stage_config: Any) -> Path:
    """The scratch folder of a run of what `read` gave."""
    inputs = module(stage).inputs(stage_config)
    return scratch.folder_of(stage, resolved, inputs, code.digest(f"unival.stages.{stage}"))


def run(
    stage: str, config_path: Path, out_root: Path, launch: Callable[[], int | None] | None = None
) -> None:
    """Run one stage from its resolved file, alone in its scratch folder.

    Args:
        launch: runs the stage on several ranks and returns their exit status; None when there are none.

    Raises:
        UserError: bad configuration, input or place.
        SystemExit: the ranks have ended.
    """
    resolved, stage_config = read(stage, config_path)
    item, folder = resolved.get("item"), place(stage, resolved, stage_config)
    with scratch.exclusive(folder, out_root, f"{stage}-{item}" if item else stage):
        status = launch() if launch else None
        if status is not None:
            sys.exit(status)
        _work(stage, resolved, stage_config, folder, out_root)


def _work(stage: str, resolved: dict[str, Any], stage_config: Any, folder: Path, out_root: Path) -> None:
    """The stage itself, and what is noted about it."""
    config_hash, finished = files.digest(resolved), scratch.read_note(folder)
    if finished and not tracking.unsent(folder / "run.json"):  # it only gives its outs again
        tracker = tracking.Tracker()
    else:
        tracker = _tracker(stage, resolved.get("item"), folder, config_hash, resolved)
    _began(folder)
    main = os.environ.get("RANK", "0") == "0"
    io = StageIO(stage, resolved.get("item"), resolved, folder, folder.parent, out_root, tracker, main)
    _end_on_sigterm()
    try:
        with files.held(folder):
            module(stage).run(stage_config, io)
    except BaseException as error:
        tracker.end("KILLED" if _is_signal(error) else "FAILED")
        raise
    if main:
        pointer = io.out(f"reports/runs/{io.name}.json")
        files.write_json(pointer, finished["pointer"] if finished else _pointer(io, config_hash))
        scratch.finish(folder, io.outs, pointer, out_root)
        tracker.tags({f"machine.{key}": str(value) for key, value in provenance.machine().items()})
        tracker.end("FINISHED")
        scratch.close(folder, out_root)


def _is_signal(error: BaseException) -> bool:
    """Whether it stands for a signal; other exit statuses are those of a rank or worker that failed."""
    left = isinstance(error, SystemExit) and isinstance(error.code, int) and error.code >= 128
    return left or isinstance(error, KeyboardInterrupt)


def _end_on_sigterm() -> None:
    """SIGTERM leaves through the same door as an error, so that the run is closed as KILLED."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    signal.signal(signal.SIGTERM, leave)


def _tracker(
    stage: str, item: str | None, scratch: Path, config_hash: str, resolved: dict[str, Any]
) -> tracking.Tracker:
    if os.environ.get("RANK", "0") != "0" or os.environ.get("UNIVAL_TRACKING") == "off":
        return tracking.Tracker()
    choices = _choices()
    tags = {"unival.stage": stage, "unival.config_hash": config_hash, **choices, **provenance.tags()}
    if item:
        tags |= {"unival.item": item, f"unival.{PARTS.get(stage, 'part')}": item}
    began = _began(scratch)
    if began != provenance.commit():
        tags["git.began"] = began["uncommitted"] or began["commit"]
    name = os.environ.get("UNIVAL_RUN_NAME")
    if not name:
        name = f"{stage}-{item}" if item else "study" if stage == "report" else stage
        # else runs of several experiments have one name
        apart = [os.environ.get("DVC_EXP_NAME", ""), *(list(choices.values()) if stage == "report" else ())]
        name = " ".join([name, *filter(None, apart)])
    tracker = tracking.MlflowTracker(stage, name, scratch / "run.json", tags)
    tracker.params(_compared(resolved))
    tracker.text(config.dump(resolved), "config/resolved.yaml")
    return tracker


def _began(scratch: Path) -> dict[str, str]:
    """The commit of the process that began in this folder: of this one, where none did before."""
    path = scratch / BEGAN
    if not path.exists():
        files.write_json(path, provenance.commit())
    return files.read_json(path)


def _choices() -> dict[str, str]:
    """What of `params.yaml`, and of a sweep over it, one filters runs by, as tags."""
    path, typed = Path("params.yaml"), os.environ.get("UNIVAL_OVERRIDES", "").split()
    chosen = config.load(path) if path.is_file() else {}
    chosen |= dict(word.split("=", 1) for word in typed if "=" in word)
    names = ("benchmark", "model", "edition", "seed")
    return {f"unival.{name}": str(chosen[name]) for name in names if name in chosen}


def _compared(resolved: dict[str, Any]) -> dict[str, Any]:
    """The parameters a person compares: the whole file is an artifact; too many break the UI's views."""
    kept = {
        key: value for key, value in resolved.items() if key not in ("tasks", "processor", "shifts", "claims")
    }
    return {key: value for key, value in config.flat(kept).items() if not isinstance(value, list | dict)}


def peak_mib() -> int:
    """Largest resident memory of this process and of its finished children, in MiB."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, children) // 1024


def _pointer(io: StageIO, config_hash: str) -> dict[str, Any]:
    """`reports/runs/<name>.json`: nothing depends on it, so a run id may stand in it."""
    started = float(os.environ.get(STARTED) or time.time())
    now, began = provenance.commit(), _began(io.scratch)
    return dataclasses.asdict(
        Run(
            stage=io.stage,
            item=io.item,
            config_hash=config_hash,
            run_id=io.tracker.run_id,
            seconds=round(time.time() - started, 1),
            peak_mib=peak_mib(),
            machine=provenance.machine(),
            code={"digest": code.digest(f"unival.stages.{io.stage}"), **now}
            | ({} if began == now else {"began": began}),
        )
    )
