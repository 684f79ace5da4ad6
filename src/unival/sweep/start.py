"""A sweep from begin to end: its folder and parent run, made or taken up, and what is told of its jobs."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unival import compose, files, provenance, tracking
from unival.errors import UserError
from unival.sweep import jobs, overrides, summary


def run(arguments: Sequence[str]) -> None:
    """Run a sweep of these overrides, or what is left of one that the same command began.

    Raises:
        UserError: bad override, or jobs failed.
    """
    params = compose.read_params()
    overrides.count_in_decimals()
    given = overrides.read(arguments)
    stage = overrides.stage(params, given)
    with _folder(overrides.preset(given) or "sweep", given) as folder:
        parent = _parent(stage, folder, given)
        os.environ |= {"UNIVAL_SWEEP": folder.name, jobs.MAIN: str(os.getpid()), "HYDRA_FULL_ERROR": "1"}
        # a slow store is asked for a minute: jobs without the parent's id would stand beside it
        if (number := next(filter(None, (parent.run_id for _ in range(6))), None)) is not None:
            os.environ["UNIVAL_PARENT_RUN"] = number
        compose.store(params)
        stopped = jobs.stop_file()
        stopped.unlink(missing_ok=True)  # of an earlier process with this number
        try:
            with _stopping():
                _multirun(given, folder)
        except BaseException as error:
            if not stopped.exists():
                _end(parent, folder, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
                raise
        if stopped.exists():
            status = int(stopped.read_text(encoding="utf-8"))
            stopped.unlink()
            _end(parent, folder, "KILLED")
            sys.exit(status)
        failed = [job for job in jobs.read(folder) if job.status == "FAILED"]
        for job in failed:
            print(f"{folder}/{job.number} ({job.label}) failed: {job.said}", file=sys.stderr)
        _end(parent, folder, "FAILED" if failed else "FINISHED")
    if failed:
        what = f"{len(failed)} of {len(jobs.read(folder))} jobs failed, see their log.txt"
        raise UserError(f"sweep {folder.name}: {what}: the same command runs them again")


def _multirun(given: Sequence[str], folder: Path) -> None:
    """Hydra's part: it reads its command line itself."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    sys.argv = ["unival sweep", *given, f"hydra.sweep.dir={folder}", f"hydra.run.dir={folder}/0"]
    start = hydra.main(
        version_base="1.3", config_path=str(compose.CONF.resolve()), config_name=compose.PRIMARY
    )
    try:
        start(jobs.run)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"sweep: {' '.join(str(error).split())}") from error


@contextmanager
def _folder(name: str, given: Sequence[str]) -> Iterator[Path]:
    """Alone in the folder of the last sweep that this command began and did not finish, else in a new one."""
    launching = ("-m", "--multirun", "hydra/launcher=", "hydra.launcher.")  # where it runs may change
    command = [word for word in given if not word.startswith(launching)]
    for note in sorted(Path("multirun").glob(f"*/{jobs.SWEEP_NOTE}"), reverse=True):
        found = files.read_json(note)
        if found["command"] != command or found["status"] == "FINISHED":
            continue
        try:
            with files.locked(note.with_name(".lock"), wait=False):
                done = sum(job.status in jobs.ENDED for job in jobs.read(note.parent))
                told = f"sweep: goes on with {note.parent}, {done} jobs have ended; delete it to begin anew"
                print(told, file=sys.stderr, flush=True)
                yield note.parent
                return
        except BlockingIOError:  # it is running
            continue
    folder = Path("multirun") / _new_id(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    with files.locked(folder / ".lock"):
        files.write_json(folder / jobs.SWEEP_NOTE, {"command": command, "status": "RUNNING"})
        yield folder


def _new_id(start: str) -> str:
    """The name of a folder below multirun/ that is made here: two sweeps of one second do not share one."""
    name, number = start, 1
    while True:
        try:
            (Path("multirun") / name).mkdir(parents=True)
            return name
        except FileExistsError:
            number += 1
            name = f"{start}-{number}"
        except OSError as error:
            raise UserError(f"multirun: cannot write here: {error.strerror}") from error


@contextmanager
def _stopping() -> Iterator[None]:
    """Ctrl-C and SIGTERM inside stop the sweep; a second one ends the work at once."""

    def note(number: int, frame: Any) -> None:
        if jobs.stop_file().exists():
            raise KeyboardInterrupt
        jobs.stop(128 + number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _parent(stage: str, folder: Path, given: Sequence[str]) -> tracking.Tracker:
    """The run above those of the jobs."""
    if os.environ.get("UNIVAL_TRACKING") == "off":
        return tracking.Tracker()
    tags = {**provenance.tags(), "unival.stage": stage, "sweep.id": folder.name}
    tags["hydra.overrides"] = " ".join(given)
    return tracking.MlflowTracker(stage, folder.name, folder / "run.json", tags)


def _end(parent: tracking.Tracker, folder: Path, status: str) -> None:
    """Write the summary, and close the parent with it."""
    found, page = summary.points(jobs.read(folder)), folder / "index.html"
    try:
        summary.write(found, folder.name, page)
        if status == "FINISHED":
            parent.metrics(summary.metrics(found))
            parent.table(summary.table(found), "jobs")
            parent.artifact(page, "summary")
    finally:
        parent.end(status)
    note = folder / jobs.SWEEP_NOTE
    files.write_json(note, {**files.read_json(note), "status": status})
    print("\n".join(summary.lines(found)))
    for job in found[0].jobs if found and found[0].score is not None else ():
        for model in sorted((folder / str(job.number)).glob("models/*/*")):
            print(f"best: {model}")
    print(f"wrote {page}", file=sys.stderr)
