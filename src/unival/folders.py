"""Folders that a command writes: whole or not at all, and never over what it did not write itself.

A command's folder holds a record, a JSON file that only this command writes (`benchmark.json`, `merge.json`),
which lists the folder's files (`contents`). Only a folder that holds nothing else is replaced.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from unival import files
from unival.errors import UserError

FILES = "files"


def check_output(out: Path, record: str, inputs: Iterable[Path | str] = ()) -> None:
    """Refuse a folder that a command may not replace.

    Args:
        record: the name of the command's record.
        inputs: what the command reads.

    Raises:
        UserError: `out` is no folder, holds something that no earlier run of the command wrote, contains an
            input or lies in one, or the command runs in it.
    """
    place, here = out.resolve(), Path.cwd()
    for path in map(Path, inputs):
        given = path.resolve()
        if place == given or place in given.parents or given in place.parents:
            raise UserError(f"{out}: {path} is read, and one of the two is in the other: give another folder")
    if place in (here, *here.parents):
        raise UserError(f"{out}: the command runs in it: give the name of a folder of its own")
    _recover(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is not a folder: give another name")
    there = _files(out)
    if strange := sorted(there - _written(out / record)):
        more = f" and {len(strange) - 1} more" if strange[1:] else ""
        raise UserError(
            f"{out}: holds {strange[0]}{more}, and no {record} there says that an earlier run wrote it: give "
            "another folder, or remove it yourself"
        )


def contents(folder: Path, record: str) -> dict[str, list[str]]:
    """What the record of a finished folder says of its files, the record among them."""
    return {FILES: sorted(_files(folder) | {record})}


def publish(part: Path, out: Path) -> None:
    """Put a whole folder in the place of `out`. What was there goes last.

    Raises:
        UserError: it cannot be written.
    """
    try:
        if out.exists():
            out.rename(_aside(out))
        part.rename(out)
        shutil.rmtree(_aside(out), ignore_errors=True)
    except OSError as error:
        raise UserError(f"{out}: cannot replace the folder: {error.strerror}") from error


@contextlib.contextmanager
def new_folder(out: Path | str, record: str, inputs: Iterable[Path | str] = ()) -> Iterator[Path]:
    """A folder that appears as `out` when the block ends well; see `check_output` for what may be there.

    The block writes the record, with `contents` in it.

    Raises:
        UserError: `out` may not be replaced, or cannot be written.
    """
    out = Path(out)
    check_output(out, record, inputs)
    with _part(out) as part:
        try:
            part.mkdir()
        except OSError as error:
            raise UserError(f"{out.parent}: cannot write here: {error.strerror}") from error
        with files.held(part):
            yield part
        publish(part, out)


def copy(source: Path, out: Path, *ignored: str) -> None:
    """Copy a folder to `out`, whole or not at all. What was there goes last.

    Args:
        ignored: patterns of names that are left out.

    Raises:
        UserError: it cannot be read or written.
    """
    _recover(out)
    with _part(out) as part:
        try:
            shutil.copytree(source, part, ignore=shutil.ignore_patterns(*ignored))
        except shutil.Error as error:  # has no strerror, but (source, target, reason) of each file
            raise UserError(f"{out}: cannot write here: {error.args[0][0][-1]}") from error
        except OSError as error:
            raise UserError(f"{out}: cannot write here: {error.strerror}") from error
        publish(part, out)


@contextlib.contextmanager
def _part(out: Path) -> Iterator[Path]:
    """The name of a folder beside `out`, gone afterwards, as are those of processes that were killed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out.parent}: cannot write here: {error.strerror}") from error
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    for stale in [part, *out.parent.glob(f".{out.name}.*.part")]:
        if stale == part or not _alive(stale.name.split(".")[-2]):
            shutil.rmtree(stale, ignore_errors=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}.replaced.part")


def _recover(out: Path) -> None:
    """Finish what a run that was killed between the two renames of `publish` began."""
    if not out.exists() and _aside(out).exists():
        _aside(out).rename(out)
    shutil.rmtree(_aside(out), ignore_errors=True)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _written(record: Path) -> set[str]:
    """What the record of an earlier run lists; nothing where there is none."""
    try:
        return set(files.read_json(record)[FILES])
    except (UserError, KeyError, TypeError):
        return set()


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
