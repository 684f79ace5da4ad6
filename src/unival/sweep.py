"""`unival sweep`: Hydra multirun over one stage, with one MLflow parent and a child per job.

    unival sweep -m stage=finetune item=vqa set.finetune.train.optimizer.lr=3e-4,1e-3
    unival sweep +sweep=t3_balancing hydra/launcher=joblib hydra.launcher.n_jobs=2

The tree is the one of `params.yaml`; `set.<stage>...` changes any value. A job resolves its configuration
into its own folder below `multirun/` and runs `python -m unival run` in a process of its own, so that a sweep
and the pipeline execute the same code; its outs stay in that folder.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unival import compose, config, files, provenance, tracking
from unival.errors import UserError, nearest
from unival.stages import STAGES

MAIN = "UNIVAL_SWEEP_PROCESS"
"""Number of the process that the sweep was started as."""
WATCH = 0.5
"""Seconds after which a job looks again whether it is to stop."""


def run(arguments: Sequence[str]) -> None:
    """Run a sweep of these overrides.

    Raises:
        UserError: bad override, or a job failed.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    params = compose.read_params()
    given = [override(word) for word in arguments]
    _check_several(given)
    stage = _stage(params, given)
    name = _preset(given) or "sweep"
    sweep_id = _new_id(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    parent = _parent(stage, sweep_id, given)
    os.environ |= {"UNIVAL_SWEEP": sweep_id, MAIN: str(os.getpid()), "HYDRA_FULL_ERROR": "1"}
    if parent.run_id is not None:
        os.environ["UNIVAL_PARENT_RUN"] = parent.run_id
    compose.store(params)
    places = [f"hydra.sweep.dir=multirun/{sweep_id}", f"hydra.run.dir=multirun/{sweep_id}/0"]
    sys.argv = ["unival sweep", *given, *places]
    multirun = hydra.main(
        version_base="1.3", config_path=str(compose.CONF.resolve()), config_name=compose.PRIMARY
    )(_job)
    try:
        with _stopping():
            multirun()
    except BaseException as error:
        _end(parent, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        if isinstance(error, HydraException | OmegaConfBaseException):
            raise UserError(f"sweep: {' '.join(str(error).split())}") from error
        if isinstance(error, UserError):
            raise UserError(f"sweep {sweep_id}: a job failed: see multirun/{sweep_id}: {error}") from error
        raise
    if _stop_file().exists():
        _end(parent, "KILLED")
        sys.exit(int(_stop_file().read_text(encoding="utf-8")))
    _end(parent, "FINISHED")


def _stop_file() -> Path:
    """Its presence ends the jobs, in whatever processes a launcher runs them; it holds the exit status."""
    return Path("multirun").resolve() / os.environ["UNIVAL_SWEEP"] / "stopped"


def _stop(status: int) -> None:
    if not _stop_file().exists():
        files.write_text(_stop_file(), str(status))


@contextmanager
def _stopping() -> Iterator[None]:
    """Ctrl-C and SIGTERM inside stop the sweep; a second one ends the work at once."""

    def note(number: int, frame: Any) -> None:
        if _stop_file().exists():
            raise KeyboardInterrupt
        _stop(128 + number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _watched() -> Iterator[None]:
    """Inside, this process gets SIGTERM once the sweep was stopped, or is gone."""
    parent, done = os.getppid(), threading.Event()
    works = os.environ[MAIN] != str(os.getpid())

    def watch() -> None:
        while not done.wait(WATCH):
            if _stop_file().exists() or (works and os.getppid() != parent):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


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


def override(word: str) -> str:
    """`set.` adds keys without `+`; `stage` would be read as the configuration group of that name."""
    if word.startswith("stage="):
        return word.replace("stage=", "stage_name=", 1)
    return f"++{word}" if word.startswith("set.") else word


def _words(given: Sequence[str]) -> list[Any]:
    """The overrides among the words of the command line, parsed by Hydra."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    words = [word for word in given if "=" in word and not word.startswith("-")]
    try:
        return OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise UserError(f"sweep: {' '.join(str(error).split())}") from error


def _stage(params: compose.Params, given: Sequence[str]) -> str:
    """The stage that is swept; what is wrong with its first job is told before anything is made."""
    tree = compose.compose(params, [*_first_job(given)])
    stage = tree.get("stage_name")
    if stage is None:
        raise UserError("sweep: no stage is chosen: add stage=finetune, or a preset: +sweep=<name>")
    if stage not in STAGES:
        raise UserError(f"sweep: unknown stage '{stage}': {nearest(str(stage), STAGES)}")
    if _preset(given) is None:  # its own lists of values are Hydra's to read
        compose.resolve(tree, str(stage), tree.item)
    return str(stage)


def _first_job(given: Sequence[str]) -> Iterator[str]:
    """The overrides of the first job: of a list or a range the first value. Others are Hydra's to know."""
    from hydra.core.override_parser.types import Glob

    for word in _words(given):
        if word.is_hydra_override() or isinstance(word.value(), Glob):
            continue
        if word.is_discrete_sweep():
            yield f"{word.get_key_element()}={next(iter(word.sweep_string_iterator()))}"
        elif not word.is_sweep_override():
            yield str(word.input_line)


def _check_several(given: Sequence[str]) -> None:
    """Several values need Hydra's multirun, which a preset chooses itself.

    Raises:
        UserError: a list of values, and neither `-m` nor a preset.
    """
    several = next((word.input_line for word in _words(given) if word.is_sweep_override()), None)
    if several and not {"-m", "--multirun"} & set(given) and _preset(given) is None:
        shown = str(several).lstrip("+").replace("stage_name=", "stage=")
        raise UserError(f"sweep: {shown} has several values: add -m, and each of them is a job")


def _preset(given: Sequence[str]) -> str | None:
    return next((str(word.value()) for word in _words(given) if word.key_or_group == "sweep"), None)


def _job(tree: Any) -> None:
    """One job: resolve, then run the stage in a process of its own; nothing once the sweep was stopped."""
    if _stop_file().exists():
        return
    from hydra.core.hydra_config import HydraConfig

    from unival.engine.machine.launch import wait_for

    state = HydraConfig.get()
    folder = Path(state.runtime.output_dir)
    values = compose.resolve(tree, tree.stage_name, tree.item)
    path = folder / "config.yaml"
    files.write_text(path, config.dump(values))
    changed = list(state.overrides.task)
    shown = [word for word in changed if not word.startswith(("stage_name=", "+sweep="))]
    label = " ".join(word.lstrip("+").removeprefix("set.") for word in shown)
    environment = {**os.environ, "UNIVAL_RUN_NAME": label, "UNIVAL_OVERRIDES": " ".join(changed)}
    command = [sys.executable, "-m", "unival", "run", values["stage"]]
    command += ["--config", str(path), "--out", str(folder)]
    with (folder / "log.txt").open("w", encoding="utf-8") as log, _watched():
        status = wait_for(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        _stop(status)  # the others end in good order, too
    elif status:
        tail = (folder / "log.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise UserError(f"{folder}: {''.join(tail) or f'exit status {status}'}")
    for model in sorted(folder.glob("models/*/*/config.json")):
        print(f"wrote {os.path.relpath(model.parent)}")


def _parent(stage: str, sweep_id: str, given: Sequence[str]) -> tracking.Tracker:
    """The run above those of the jobs."""
    if os.environ.get("UNIVAL_TRACKING") == "off":
        return tracking.Tracker()
    tags = {**provenance.tags(), "unival.stage": stage, "sweep.id": sweep_id}
    tags["hydra.overrides"] = " ".join(given)
    return tracking.MlflowTracker(stage, sweep_id, Path("multirun") / sweep_id / "run.json", tags)


def _end(parent: tracking.Tracker, status: str) -> None:
    """Close the parent with a table of its children, printed too."""
    rows = [
        {"run": name, "status": ended}
        | {key: value for key, value in figures.items() if key.startswith(("best/", "summary/"))}
        for name, ended, figures in parent.children()
    ]
    columns = sorted({key for row in rows for key in row})
    parent.table([{key: row.get(key) for key in columns} for row in rows], "children")
    parent.end(status)
    for row in rows:
        print("  ".join(f"{key}={_short(value)}" for key, value in row.items()))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
