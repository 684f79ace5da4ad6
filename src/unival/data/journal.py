"""Notes beside the finished shards of an interrupted run, believed only where all is still as they say.

A note holds the checksum of its shard, and of each medium in it the row of the index and the source: a file's
path, size and time of change. Shards are taken over from the first one on, to the first that was damaged or
whose sources changed; that one and those after it are written anew, so that an undisturbed run gives the
same bytes.
"""

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from unival.data.disk_map import DiskMap
from unival.files import digest, write_text

NOTES = ".journal.json"
CHUNK = 1 << 20
Stamp = tuple[str, int, int]
"""A file's path, its bytes, and when it was changed in ns."""


class Note(NamedTuple):
    """What is remembered of one medium."""

    row: tuple[Any, ...]
    """Of the index."""
    shown: tuple[int, int, int]
    """Width, height and orientation."""
    source: Stamp | None
    """None for bytes that the source itself gives."""


def stamp(path: Path) -> Stamp | None:
    """What tells that a file was changed; None where it cannot be read."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: no name that a file can have
        return None
    return str(path), status.st_size, status.st_mtime_ns


def shard_path(split_dir: Path, shard: int) -> Path:
    """Path of a numbered shard."""
    return split_dir / f"media-{shard:05d}.tar"


def write_notes(split_dir: Path, shard: int, checksum: int, notes: list[Note]) -> None:
    """Note what a finished shard holds, and the CRC-32 of its bytes."""
    content = {"checksum": checksum, "notes": notes}
    path = shard_path(split_dir, shard).with_suffix(NOTES)
    write_text(path, json.dumps({**content, "digest": digest(content)}))


def remove_notes(split_dir: Path) -> None:
    """The run has ended: nobody will go on with it."""
    for path in split_dir.glob(f"*{NOTES}"):
        path.unlink()


def taken_over(split_dir: Path) -> tuple[int, DiskMap]:
    """The number of shards that hold, and the notes of their media by key; all other shards are removed."""
    number, notes = 0, DiskMap()
    while (noted := _notes(shard_path(split_dir, number))) is not None:
        for note in noted:
            notes.add(note[0][0], json.dumps(note))
        number += 1
    for path in (*split_dir.glob("media-*.tar"), *split_dir.glob(f"media-*{NOTES}")):
        if int(path.name.split("-")[1].split(".")[0]) >= number:
            path.unlink()
    return number, notes


def _notes(shard: Path) -> list[Any] | None:
    """The notes of a shard; None where they, the shard or one of its sources are not as they were."""
    try:
        content = json.loads(shard.with_suffix(NOTES).read_text(encoding="utf-8"))
        noted = content.pop("digest")
        if noted != digest(content) or content["checksum"] != _checksum(shard):
            return None
        sources = [note[2] for note in content["notes"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    same = all(source is None or source == list(stamp(Path(source[0])) or ()) for source in sources)
    return content["notes"] if same else None


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
