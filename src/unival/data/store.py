"""Media on disk: uncompressed tar shards, and an index that finds any member without reading the others.

`ShardWriter` writes `media-00000.tar`, ... and `media.parquet`, whose columns are INDEX_SCHEMA.
`MediaStore` reads a member by `pread` at its offset: constant memory, safe after fork, and it can be pickled.
"""

import hashlib
import json
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unival.data import media, remote
from unival.data.disk_map import DiskMap
from unival.data.journal import Note, Stamp, remove_notes, shard_path, taken_over, write_notes
from unival.data.media.decoded import DecodedMedia
from unival.data.source import MediaItem
from unival.data.table import FileWriter, TableWriter
from unival.errors import UserError, nearest
from unival.files import atomic
from unival.record import Modality

INDEX = "media.parquet"
BLOCK = 512
SHARD_BYTES = 256 * 1024**2
SHARD_MEMBERS = 10_000
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("kind", pa.string()),
        ("suffix", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
    ]
)


class ShardWriter(FileWriter):
    """Writes the media of one split. Members are key + suffix, with no times: equal media, equal bytes.

    With `journal`, what a finished shard holds is noted beside it, and a new writer on the same folder goes
    on after the finished shards (`unival.data.journal`): `keep` takes over a medium that they hold.
    """

    def __init__(self, split_dir: Path | str, shard_bytes: int = SHARD_BYTES, journal: bool = False) -> None:
        super().__init__()
        self.split_dir = Path(split_dir)
        self.shard_bytes = shard_bytes
        self.counts: Counter[str] = Counter()
        """Media of each kind."""
        self._seen = DiskMap()
        self._clips = DiskMap()
        """SHA-256 of a clip that is used in parts, and its shard and offset: it is stored once."""
        self._index = self._open.enter_context(TableWriter(self.split_dir / INDEX, INDEX_SCHEMA))
        self._members = 0
        self._shard = -1
        self._open_shard = self._open.enter_context(ExitStack())
        self._handle: IO[bytes] | None = None
        """The shard that is written."""
        self._checksum = 0
        self._journal: list[Note] | None = [] if journal else None
        self._earlier: DiskMap | None = None
        """Notes of the media that an interrupted run wrote, by key."""
        self.kept = 0
        """Media of them that were taken over."""
        if journal:
            finished, self._earlier = taken_over(self.split_dir)
            self._shard = finished - 1

    def known(self, key: str) -> tuple[str, int, int, int] | None:
        """Modality, width, height and orientation of a medium that was entered; None where none was."""
        entered = self._seen.get(key)
        if entered is None:
            return None
        kind, width, height, orientation = entered.split()
        return kind, int(width), int(height), int(orientation)

    def keep(self, item: MediaItem) -> bool:
        """Take over a medium that an interrupted run wrote, where its source is the same."""
        note = self._earlier.get(item.key) if self._earlier else None
        if note is None or item.key in self._seen:
            return False
        row, shown, source = json.loads(note)
        noted = dict(zip(INDEX_SCHEMA.names, row, strict=True))
        if isinstance(item.data, Path):
            same = source is not None and source[0] == str(item.data)
        else:
            same = noted["sha256"] == hashlib.sha256(item.data).hexdigest()
        if not same or (noted["start"], noted["end"]) != (item.part or (None, None)):
            return False
        self._enter(row, *shown)
        self.kept += 1
        return True

    def add(
        self,
        key: str,
        kind: Modality,
        suffix: str,
        data: bytes,
        width: int = 0,
        height: int = 0,
        sha256: str = "",
        orientation: int = 1,
        part: media.Part | None = None,
        source: Stamp | None = None,
    ) -> None:
        """Append one medium, or a part of a clip, whose bytes are stored once for all its parts.

        Args:
            width, height: as shown, turned by `orientation`.
            source: the file that `data` is read from, for the journal.

        Raises:
            UserError: the key was used before in this split.
        """
        if key in self._seen:
            raise UserError(f"media key '{key}' is used twice in split '{self.split_dir.name}'")
        sha256 = sha256 or hashlib.sha256(data).hexdigest()
        known = self._clips.get(sha256) if part else None
        shard, offset = map(int, known.split()) if known else self._append(key + suffix, data)
        start, end = part or (None, None)
        row = (key, kind, suffix, shard, offset, len(data), sha256, start, end)
        self._enter(row, width, height, orientation)
        if self._journal is not None:
            self._journal.append(Note(row, (width, height, orientation), source))

    def _append(self, name: str, data: bytes) -> tuple[int, int]:
        """Write a member; its shard and offset."""
        full = self._members >= SHARD_MEMBERS
        if self._handle is None or full or self._handle.tell() + len(data) > self.shard_bytes:
            self._next_shard()
        handle = self._handle
        assert handle is not None
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._write(member.tobuf(tarfile.PAX_FORMAT))
        offset = handle.tell()
        self._write(data)
        self._write(b"\0" * (-len(data) % BLOCK))
        self._members += 1
        return self._shard, offset

    def _write(self, data: bytes) -> None:
        assert self._handle is not None
        self._handle.write(data)
        self._checksum = zlib.crc32(data, self._checksum)

    def _enter(self, row: Sequence[Any], width: int, height: int, orientation: int) -> None:
        _, _, _, shard, offset, _, sha256, start, _ = row
        if start is not None:
            self._clips.add(sha256, f"{shard} {offset}")
        self._index.write(dict(zip(INDEX_SCHEMA.names, row, strict=True)))
        self.counts[row[1]] += 1
        self._seen.add(row[0], f"{row[1]} {width} {height} {orientation}")

    def _next_shard(self) -> None:
        self._finish_shard()
        self._members = self._checksum = 0
        self._shard += 1
        part = self._open_shard.enter_context(atomic(shard_path(self.split_dir, self._shard)))
        self._handle = self._open_shard.enter_context(part.open("wb"))

    def _finish_shard(self) -> None:
        if self._handle is not None:
            self._write(b"\0" * 2 * BLOCK)
            self._handle = None
            self._open_shard.close()
            if self._journal is not None:
                write_notes(self.split_dir, self._shard, self._checksum, self._journal)
                self._journal = []

    def close(self) -> None:
        """Finish the last shard and write the index."""
        self._finish_shard()
        super().close()
        remove_notes(self.split_dir)


class Unstored(ShardWriter):
    """Enters media and stores none of their bytes: the index alone is written."""

    def _append(self, name: str, data: bytes) -> tuple[int, int]:
        return 0, 0


class MediaStore(DecodedMedia):
    """Random access to the media of one split.

    Raises:
        UserError: the index or a shard is missing or damaged, a key is unknown, a medium does not decode.
    """

    def __init__(self, split_dir: Path | str) -> None:
        super().__init__()
        self.split_dir = Path(split_dir)
        path = self.split_dir / INDEX
        if not path.is_file():
            raise UserError(f"{path}: no media index: run `unival run prepare` first")
        try:
            index = pq.read_table(path).cast(INDEX_SCHEMA)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(
                f"{path}: not a readable media index: {str(error).splitlines()[0]}: make it again"
            ) from error
        self._rows = {key: row for row, key in enumerate(index.column("key").to_pylist())}
        self._shard, self._offset, self._size = (
            index.column(name).to_numpy() for name in ("shard", "offset", "size")
        )
        self._sha256 = index.column("sha256").combine_chunks()
        self._modality = index.column("kind").combine_chunks().dictionary_encode()
        starts, ends = index.column("start"), index.column("end")
        self._parts = {
            row: (starts[row].as_py(), ends[row].as_py())
            for row in pc.indices_nonzero(starts.is_valid()).to_pylist()
        }
        self._handles: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def lacking(self) -> str:
        """A shard that is not here or cut short; of a mirror, which fetches what it is asked for, none."""
        if remote.origin(self.split_dir / INDEX):
            return ""
        ends = np.zeros(max(self._shard, default=-1) + 1, np.int64)
        np.maximum.at(ends, self._shard, self._offset + self._size)
        for path, end in ((shard_path(self.split_dir, shard), end) for shard, end in enumerate(ends)):
            if not path.is_file():
                return f"{path}: no such shard"
            if path.stat().st_size < end:
                return f"{path}: the shard is cut short"
        return ""

    def keys(self) -> list[str]:
        """All keys in the order they were written."""
        return list(self._rows)

    def modality(self, key: str) -> Modality:
        """image, video or audio."""
        return self._modality[self._row(key)].as_py()

    def encoded_size(self, key: str) -> int:
        """Length of `bytes`, from the index."""
        return int(self._size[self._row(key)])

    def bytes(self, key: str) -> bytes:
        """The encoded medium, as it was put in; of a part of a clip, the whole clip.

        Raises:
            UserError: no such key, or a shard that is cut short or damaged.
        """
        row = self._row(key)
        size = int(self._size[row])
        data = os.pread(self._descriptor(int(self._shard[row])), size, int(self._offset[row]))
        if len(data) != size:
            raise UserError(f"{self.name(key)}: the shard is cut short: run prepare again")
        if hashlib.sha256(data).hexdigest() != self._sha256[row].as_py():
            raise UserError(
                f"{self.name(key)}: the shard has changed since it was written: run prepare again"
            )
        return data

    def part(self, key: str) -> media.Part | None:
        """Start and end of a part of a clip, in seconds."""
        return self._parts.get(self._row(key))

    def _row(self, key: str) -> int:
        row = self._rows.get(key)
        if row is None:
            hint = nearest(key, self._rows) if len(self._rows) <= 100_000 else "no such key"
            raise UserError(f"{self.split_dir / INDEX}: unknown media key '{key}': {hint[:200]}")
        return row

    def name(self, key: str) -> str:
        """Shard and key."""
        return f"{shard_path(self.split_dir, int(self._shard[self._rows[key]]))}: key '{key}'"

    def _descriptor(self, shard: int) -> int:
        if shard not in self._handles:
            path = shard_path(self.split_dir, shard)
            if not path.exists():
                remote.fetch(path)
            try:
                self._handles[shard] = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            except OSError as error:
                raise UserError(
                    f"{path}: cannot open the shard: {error.strerror}: run prepare again"
                ) from error
        return self._handles[shard]

    def close(self) -> None:
        """Close the shard files; they open again when needed."""
        for descriptor in self._handles.values():
            os.close(descriptor)
        self._handles = {}

    def __del__(self) -> None:
        if getattr(self, "_handles", None):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}
