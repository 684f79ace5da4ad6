"""SHA-256 of input files, remembered by size, times and inode: a large model is hashed once.

The time of change is among them: the one of modification can be set back, and some tools do.
"""

import contextlib
import os
from pathlib import Path

from unival import files
from unival.errors import UserError


def cache_file() -> Path:
    """Where digests are remembered: $UNIVAL_HASH_CACHE, or the user's cache folder."""
    if chosen := os.environ.get("UNIVAL_HASH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "unival" / "sha256.json"


def digests(paths: list[Path]) -> dict[str, str]:
    """File name -> SHA-256, from the cache where the file has not changed since."""
    known = _load()
    by_name: dict[str, str] = {}
    new: dict[str, str] = {}
    for path in paths:
        status = path.stat()
        times = f"{status.st_mtime_ns}:{status.st_ctime_ns}"
        key = f"{path.resolve()}:{status.st_size}:{times}:{status.st_ino}"
        by_name[path.name] = known.get(key) or new.setdefault(key, files.file_digest(path))
    if new:
        cache = cache_file()
        lock = files.locked(cache.with_name(f".{cache.name}.lock"))
        with contextlib.suppress(UserError, OSError), lock:  # a cache that cannot be written costs time only
            files.write_sealed(cache, {"digests": {**_load(), **new}})
    return by_name


def _load() -> dict[str, str]:
    """What is remembered; nothing where the file is damaged."""
    stored = files.read_sealed(cache_file())
    return dict(stored["digests"]) if stored else {}


def compare(recorded: dict[str, str], path: Path, what: str) -> None:
    """Check files against recorded digests; all are hashed anew.

    Raises:
        UserError: a file is missing, or is not the recorded one.
    """
    for name, digest in recorded.items():
        try:
            file = path if path.is_file() else path / name
            digest_now = files.file_digest(file)
        except FileNotFoundError as error:
            raise UserError(f"{file}: {what}: the file is missing") from error
        except (OSError, ValueError) as error:  # ValueError: no name that a file can have
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path}: {what}: cannot read: {reason}") from error
        if digest_now != digest:
            raise UserError(f"{file}: {what}: the file is not the one of the merge: its SHA-256 differs")
