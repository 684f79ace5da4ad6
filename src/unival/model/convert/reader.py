"""Reads PyTorch checkpoint files without executing anything in them (see unpickler.py).

Both layouts are read: zip archives (PyTorch >= 1.6) and the older stream of pickles.
"""

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from unival.errors import UserError
from unival.model.convert.unpickler import Storage, TensorRef, unpickle

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older layout
PROTOCOL = 1001
BIG_ENDIAN = "from a machine with another order of bytes: save it again on a common one"


class Checkpoint:
    """The content of a checkpoint file: `tree` of containers, scalars, `Inert` and `TensorRef`."""

    def __init__(self, path: Path | str) -> None:
        """Open and read everything but the numbers.

        Raises:
            UserError: not a checkpoint, damaged, or with content that is refused.
        """
        self.path = Path(path)
        self.places: dict[str, int] = {}
        try:
            with self.path.open("rb") as handle:
                self.size = handle.seek(0, io.SEEK_END)
                handle.seek(0)
                if zipfile.is_zipfile(handle):
                    self.tree = self._read_zip(handle)
                else:
                    handle.seek(0)
                    self.tree = self._read_stream(handle)
        except OSError as error:
            raise UserError(f"{self.path}: cannot read: {error.strerror or error}") from error
        except zipfile.BadZipFile as error:  # of `is_zipfile`: an archive in several parts
            raise UserError(f"{self.path}: damaged archive: {error}") from error

    def _read_zip(self, handle: BinaryIO) -> Any:
        try:
            with zipfile.ZipFile(handle) as archive:
                entries = archive.infolist()
                self._check_entries(entries)
                names = {entry.filename: entry for entry in entries}
                pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
                if len(pickles) != 1:
                    raise UserError(f"{self.path}: not a PyTorch checkpoint: no data.pkl in the archive")
                folder = pickles[0].removesuffix("data.pkl")
                if folder + "byteorder" in names and archive.read(folder + "byteorder") != b"little":
                    raise UserError(f"{self.path}: {BIG_ENDIAN}")
                content = io.BytesIO(archive.read(pickles[0]))
        except (
            zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error
        ) as error:  # fmt: skip
            raise UserError(f"{self.path}: damaged archive: {error}") from error

        def storage(wanted: Storage) -> None:
            entry = names.get(f"{folder}data/{wanted.key}")
            if entry is None or entry.file_size < wanted.length * wanted.dtype.itemsize:
                raise UserError(f"{self.path}: the numbers of storage '{wanted.key}' are missing or cut off")
            self.places[wanted.key] = self._data_start(handle, entry)

        return unpickle(content, str(self.path), storage)

    def _check_entries(self, entries: list[zipfile.ZipInfo]) -> None:
        """Plain stored entries with one name each that fit into the file: no bombs, no ambiguity."""
        names = [entry.filename for entry in entries]
        if len(set(names)) != len(names):
            raise UserError(f"{self.path}: refuses an archive with two entries of one name")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 0x1:
                raise UserError(f"{self.path}: refuses the compressed or encrypted entry '{entry.filename}'")
        if sum(entry.file_size for entry in entries) > self.size:
            raise UserError(f"{self.path}: refuses an archive whose entries overlap")

    def _data_start(self, handle: BinaryIO, entry: zipfile.ZipInfo) -> int:
        handle.seek(entry.header_offset)
        header = handle.read(30)
        if len(header) != 30 or header[:4] != b"PK\x03\x04":
            raise UserError(f"{self.path}: damaged archive at '{entry.filename}'")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        return int(entry.header_offset + 30 + name_length + extra_length)

    def _read_stream(self, handle: BinaryIO) -> Any:
        """Pickles of magic number, protocol, machine, content and storage keys; then each storage's
        numbers."""
        where, used = str(self.path), dict[str, Storage]()

        def storage(wanted: Storage) -> None:
            if used.setdefault(wanted.key, wanted) != wanted:
                raise UserError(f"{where}: the storage '{wanted.key}' is described in two ways")

        if handle.read(1) != b"\x80":
            raise UserError(f"{where}: not a PyTorch checkpoint")
        handle.seek(0)
        if unpickle(handle, where, storage) != MAGIC or unpickle(handle, where, storage) != PROTOCOL:
            raise UserError(f"{where}: not a PyTorch checkpoint: a pickle of something else")
        machine = unpickle(handle, where, storage)
        if isinstance(machine, dict) and dict.get(machine, "little_endian") is False:
            raise UserError(f"{where}: {BIG_ENDIAN}")
        tree = unpickle(handle, where, storage)
        keys = unpickle(handle, where, storage)
        if type(keys) is not list or any(type(key) is not str for key in keys) or set(keys) != set(used):
            raise UserError(f"{where}: the list of storages does not match the content")
        for key in keys:
            header = handle.read(8)
            start, wanted = handle.tell(), used[key]
            length = struct.unpack("<q", header)[0] if len(header) == 8 else -1
            size = length * wanted.dtype.itemsize
            if length < wanted.length or start + size > self.size:
                raise UserError(f"{where}: the numbers of storage '{key}' are missing or cut off")
            self.places[key] = start
            handle.seek(start + size)
        return tree

    def tensor(self, reference: TensorRef) -> Tensor:
        """Read the numbers of a tensor, contiguous.

        Raises:
            UserError: the file ends before the numbers do.
        """
        storage = reference.storage
        if not math.prod(reference.shape):
            return torch.empty(reference.shape, dtype=storage.dtype)
        steps = zip(reference.shape, reference.stride, strict=True)
        length = 1 + sum((size - 1) * step for size, step in steps)
        itemsize = storage.dtype.itemsize
        with self.path.open("rb") as handle:
            handle.seek(self.places[storage.key] + reference.offset * itemsize)
            content = bytearray(handle.read(length * itemsize))
        if len(content) != length * itemsize:
            raise UserError(f"{self.path}: the numbers of storage '{storage.key}' are cut off")
        numbers = torch.frombuffer(content, dtype=storage.dtype)
        return torch.as_strided(numbers, reference.shape, reference.stride).contiguous()

    def tensors(self, mapping: Any, where: str) -> "Tensors":
        """A mapping of names to tensors, somewhere in the tree.

        Raises:
            UserError: it is something else.
        """
        if not isinstance(mapping, dict) or not mapping:
            raise UserError(
                f"{self.path}: {where}: expected names and tensors, found {type(mapping).__name__}"
            )
        references = {}
        for name, value in dict.items(mapping):
            if type(name) is not str or type(value) is not TensorRef:
                raise UserError(f"{self.path}: {where}: {name!r} is {type(value).__name__}, not a tensor")
            references[name] = value
        return Tensors(self, references)


class Tensors(Mapping[str, Tensor]):
    """Tensors by name, each read when asked for."""

    def __init__(self, checkpoint: Checkpoint, references: dict[str, TensorRef]) -> None:
        self.checkpoint = checkpoint
        self.references = references

    def __getitem__(self, name: str) -> Tensor:
        return self.checkpoint.tensor(self.references[name])

    def __iter__(self) -> Any:
        return iter(self.references)

    def __len__(self) -> int:
        return len(self.references)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self.references[name].shape
