"""The scratch folder of a run: whose it is, who works in it, and when it goes.

`scratch/<stage>/<name>` of the main repository is named by all that the run depends on: its configuration,
the contents of what it reads and the code. So two experiments meet in one folder only where they would do
the same, and they do it one after the other: a run locks the folder, and the place of its outs, for its
whole time. A run that was killed leaves the folder for the next one to go on in. One that finished leaves it
too, for DVC may be killed before it has taken the outs: it goes when DVC has them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from unival import files, provenance
from unival.errors import UserError

FOLDER_VARIABLE = "UNIVAL_SCRATCH"
"""Environment variable: the folder that the command which started this rank works in."""
FINISHED = "finished.json"
"""Of a run that finished: its pointer, its outs and the folder they are below."""
CLOSED = "closed"
"""Of one that has ended in MLflow, too."""


def folder_of(stage: str, resolved: Mapping[str, Any], inputs: Iterable[Path], code: str) -> Path:
    """The folder of a run with this configuration, these files and folders to read, and this code."""
    if "RANK" in os.environ and FOLDER_VARIABLE in os.environ:
        return Path(os.environ[FOLDER_VARIABLE])
    name = files.digest([resolved, {str(path): _content(path) for path in inputs}, code])
    # equal jobs of two sweeps, of a sweep and the pipeline, or on restricted kernels are runs of their own
    own = ("UNIVAL_SWEEP", "ATEN_CPU_CAPABILITY")
    name = "-".join([name, *filter(None, map(os.environ.get, own))])
    return provenance.root() / "scratch" / stage / name


def _content(path: Path) -> Any:
    """Digest of a file, or of all files of a folder; None where there is neither.

    Of prepared data the description alone is read: it holds the digest of every split.
    """
    if path.is_file():
        return files.file_digest(path)
    if (path / "benchmark.json").is_file():
        return files.file_digest(path / "benchmark.json")
    inside = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(path)): files.file_digest(file) for file in inside} or None


@contextmanager
def exclusive(folder: Path, outs: Path, title: str) -> Iterator[None]:
    """Work in `folder` alone, and alone write the outs of `title` below `outs`; waits for another process.

    Ranks work in the folder of their command. They may outlive it, so that the first of them has a
    lock too, which the next command waits for.

    Raises:
        UserError: the place cannot be written to.
    """
    waiting = f"{title}: another process works in {folder}: waiting for its end"
    rank = os.environ.get("RANK")
    with ExitStack() as stack:
        if rank is None or FOLDER_VARIABLE not in os.environ:
            if rank in (None, "0"):
                place = folder.with_name(f".{files.digest([title, str(outs.resolve())])}.lock")
                waited = [stack.enter_context(files.locked(lock, waiting)) for lock in (place, _lock(folder))]
                with files.locked(_lock_of_ranks(folder), waiting) as ranks:
                    _begin(folder, outs, any([*waited, ranks]))
            os.environ[FOLDER_VARIABLE] = str(folder)
            stack.callback(os.environ.pop, FOLDER_VARIABLE)
        elif rank == "0":
            stack.enter_context(files.locked(_lock_of_ranks(folder), waiting))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot write here: {error.strerror}") from error
        yield


def wait_for_end(folder: Path) -> None:
    """Wait for the process that works in the folder, where there is one."""
    waiting = f"another process works in {folder}: waiting for its end"
    for lock in (_lock(folder), _lock_of_ranks(folder)):
        if lock.exists():
            with files.locked(lock, waiting):
                pass


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _lock_of_ranks(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.ranks.lock")


def _begin(folder: Path, outs: Path, waited: bool) -> None:
    """What a run that finished left in the folder is of use where its outs are gone, or have just come.

    One that was killed before it was closed goes on to its end.
    """
    tidy(folder.parent.parent)
    note = read_note(folder)
    if note and not waited and (folder / CLOSED).exists():
        in_place = all((outs / out).exists() for out in note["outs"])
        if in_place or _dvc_has(note, Path()):  # it is asked for again
            files.discard(folder)


def read_note(folder: Path) -> dict[str, Any] | None:
    """What `finish` noted in a folder."""
    try:
        note = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        return {"pointer": dict(note["pointer"]), "md5": str(note["md5"]), "place": str(note["place"]),
                "outs": [str(out) for out in note["outs"]]}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None


def finish(folder: Path, outs: Iterable[str], pointer: Path, out_root: Path) -> None:
    """Note that the run has finished, its outs and its pointer written."""
    data = pointer.read_bytes()
    files.write_json(
        folder / FINISHED,
        {
            "pointer": json.loads(data),
            "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            "outs": sorted(set(outs)),
            "place": str(out_root.resolve()),
        },
    )


def close(folder: Path, out_root: Path) -> None:
    """Nothing is left to do; what is not DVC's is not given again."""
    if out_root.resolve() == Path.cwd():
        (folder / CLOSED).touch()
    else:
        files.discard(folder)


def _dvc_has(note: Mapping[str, Any], workspace: Path) -> bool:
    """Whether DVC has the outs: no two runs have the same pointer, and dvc.lock has its digest."""
    try:
        return note["md5"] in (workspace / "dvc.lock").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def tidy(scratch: Path) -> None:
    """Remove the folders of all runs whose outs DVC has, or whose workspace is gone."""
    for path in scratch.glob("*/.*.gone"):
        shutil.rmtree(path, ignore_errors=True)
    for path in scratch.glob(f"*/*/{FINISHED}"):
        folder, note = path.parent, read_note(path.parent)
        if note and (_dvc_has(note, Path(note["place"])) or not Path(note["place"]).is_dir()):
            try:
                with files.locked(_lock(folder), wait=False):
                    files.discard(folder)
                    _lock(folder).unlink(missing_ok=True)
                    _lock_of_ranks(folder).unlink(missing_ok=True)
            except BlockingIOError:  # a run is at work there
                continue
