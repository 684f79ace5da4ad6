"""SHA-256 of input files, remembered by (size, modification time, inode): a large model is hashed once."""

import contextlib
import json
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
    found: dict[str, str] = {}
    new: dict[str, str] = {}
    for path in paths:
        status = path.stat()
        key = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"
        found[path.name] = known.get(key) or new.setdefault(key, files.file_digest(path))
    if new:
        with contextlib.suppress(UserError, OSError):  # a cache that cannot be written costs time only
            files.write_json(cache_file(), {**_load(), **new})
    return found


def _load() -> dict[str, str]:
    try:
        return dict(json.loads(cache_file().read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def compare(recorded: dict[str, str], path: Path, what: str) -> None:
    """Check files against recorded digests; all are hashed anew.

    Raises:
        UserError: a file is missing, or is not the recorded one.
    """
    for name, digest in recorded.items():
        file = path if path.is_file() else path / name
        if not file.is_file():
            raise UserError(f"{file}: {what}: the file is missing")
        if files.file_digest(file) != digest:
            raise UserError(f"{file}: {what}: the file is not the one of the merge: its SHA-256 differs")
