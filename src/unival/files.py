"""Files that are either whole or absent, and digests of files and values."""

import csv
import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from unival import limits
from unival.errors import UserError

SEAL = "digest"
"""Key of a JSON object's digest of its other keys."""


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced to disk and renamed to `path`.

    Raises:
        UserError: the folder cannot be written to, or `path` is one. The old file, if any, stays as it was.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder: give the name of a file in it")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise UserError(f"{path.parent}: cannot write here: {error.strerror}") from error
    try:
        yield part
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(path)
    except OSError as error:
        if error.filename is None:  # a full disk says where it was met, but by number
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(path: Path | str, waiting: str = "", wait: bool = True, shared: bool = False) -> Iterator[bool]:
    """Hold the lock of a file, which is made; yields whether another process had to be waited for.

    Forked processes hold it too, until this one leaves it or all have ended.

    Args:
        waiting: what a person is told when another process holds it.
        wait: false: raise BlockingIOError then.
        shared: hold it beside others who do so, too.

    Raises:
        UserError: the file cannot be made.
    """
    path, waited = Path(path), False
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("a+")  # NFS takes a shared lock of a file that can be read alone
        except OSError as error:
            raise UserError(f"{path.parent}: cannot write here: {error.strerror}") from error
        with handle:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise
                if waiting and not waited:
                    print(waiting, file=sys.stderr, flush=True)
                waited = True
                fcntl.flock(handle, kind)
            if not _is(handle, path):  # removed by the one that held it
                continue
            try:
                yield waited
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)
            return


def _is(handle: IO[str], path: Path) -> bool:
    """Whether the open file is the one of this name."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def discard(folder: Path) -> None:
    """Remove a folder; a kill in between leaves nothing that looks like one that is whole."""
    with suppress(FileNotFoundError):
        folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}.gone"))
    for left in folder.parent.glob(".*.gone"):  # of processes that were killed here, too
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Inside, files of the folder are written.

    Raises:
        UserError: something else removed it meanwhile: what has its name now may lack files.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield
        try:
            same = os.path.samestat(os.fstat(descriptor), folder.stat())
        except FileNotFoundError:
            same = False
        if not same:
            raise UserError(f"{folder}: something else removed it while it was written: run again")
    finally:
        os.close(descriptor)


def share(path: Path) -> None:
    """Give a file the mode that `open` gives: some libraries write files that are private."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def copy(source: Path, path: Path) -> None:
    """Copy a file's bytes atomically."""
    with atomic(path) as part:
        shutil.copyfile(source, part)


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically, with sorted keys, so that equal values are equal bytes. NaN is refused."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path | str) -> dict[str, Any]:
    """A JSON file of one object.

    Raises:
        UserError: it is missing, cannot be read, is no regular file, or is not JSON or no object.
    """
    try:
        if regular(Path(path)).st_size > limits.JSON_BYTES:
            raise UserError(f"{path}: more than {limits.JSON_BYTES} bytes")
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}: it is damaged: make it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, found {type(content).__name__}: make it again")
    return content


def write_sealed(path: Path | str, content: dict[str, Any]) -> None:
    """Write a JSON object with a digest of itself, for `read_sealed`."""
    write_json(path, {**content, SEAL: digest(content)})


def read_sealed(path: Path | str) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None where there is nothing, or where it is not as it was written."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return content if content.pop(SEAL) == digest(content) else None
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return None


def write_csv(path: Path | str, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table atomically; None is an empty cell."""
    with atomic(path) as part, part.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def regular(path: Path) -> os.stat_result:
    """What is known of a file.

    Raises:
        UserError: it is no regular file: a pipe or a device has no end.
        OSError: it is not there.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a regular file")
    return status


def read_bytes(path: Path) -> bytes:
    """The bytes of a medium's file.

    Raises:
        UserError: it cannot be read, is no regular file (a pipe or a device has no end), or is too large.
    """
    try:
        if regular(path).st_size > limits.MEDIUM_BYTES:
            raise UserError(f"{path}: more than {limits.MEDIUM_BYTES} bytes: cut it")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no name that a file can have
        raise UserError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from error


def inside(folder: Path, name: str) -> Path:
    """The path of a name that data, a store or a recipe gives, below `folder`.

    Raises:
        UserError: the name is absolute, leads out of the folder or is the folder itself.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        raise UserError(f"'{name}' leads out of {folder}: give the name of something in it")
    return folder / name


def digest(value: Any) -> str:
    """A short hash of a JSON-able value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def larger(value: Any, most: int) -> bool:
    """Whether a value of lists and mappings holds more values than `most`.

    One that is referred to several times counts each time: a few lines can refer to each other in such a way
    that whoever walks through them, or prints them, never ends.
    """
    left, count = [value], 0
    while left and count <= most:
        item = left.pop()
        count += 1
        if isinstance(item, Mapping):
            left += [*item, *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            left += item
    return count > most


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's bytes, streamed."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
