"""Safetensors in and out by chunks: memory is independent of the size of the model.

The format (https://github.com/huggingface/safetensors): eight bytes with the length of a JSON header, the
header {name: {dtype, shape, data_offsets}}, the bytes of the tensors. `Checkpoint` reads parts of tensors
from one file or a folder (sharded or not) with `pread`; `Memory` does the same for a state dict; `Writer`
knows every shape ahead, so it writes the header first and then each chunk at its place.
"""

import errno
import hashlib
import json
import os
import queue
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unival import files
from unival.errors import UserError

SAFE_TO_TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
TORCH_TO_SAFE = {dtype: name for name, dtype in SAFE_TO_TORCH.items()}
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Spec:
    """Shape and type of a tensor; `file` and `offset` (bytes from the start of the file) where it has any."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: int = -1
    offset: int = 0

    @property
    def count(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


class Source(Protocol):
    """Where the tensors of one model come from."""

    label: str
    specs: dict[str, Spec]

    def read(self, name: str, start: int, count: int, buffer: Tensor) -> Tensor:
        """Elements start .. start+count of the flattened tensor; they may lie in `buffer` (uint8 memory)."""
        ...


class Memory:
    """A state dict as a source. Tensors that share memory are kept under every name."""

    def __init__(self, state: Mapping[str, Tensor], label: str = "state dict") -> None:
        self.label = label
        self.state = {name: tensor.detach() for name, tensor in state.items()}
        self.specs = {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in self.state.items()}

    def read(self, name: str, start: int, count: int, buffer: Tensor) -> Tensor:
        return self.state[name].reshape(-1)[start : start + count]


class Checkpoint:
    """One safetensors file, or a folder with model.safetensors, an index with shards, or one such file.

    Raises:
        UserError: nothing to read, a damaged header, a file that is cut short.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.label = str(path)
        self.files = weight_files(self.path)
        self.specs: dict[str, Spec] = {}
        self._handles: list[int] = []
        for number, file in enumerate(self.files):
            for name, spec in read_header(file, number).items():
                if name in self.specs:
                    raise UserError(f"{file}: '{name}' is in two files of {self.path}: remove one")
                self.specs[name] = spec
        try:
            self._handles = [os.open(file, os.O_RDONLY) for file in self.files]
        except OSError as error:
            raise UserError(f"{error.filename}: cannot read: {error.strerror}") from error

    def read(self, name: str, start: int, count: int, buffer: Tensor) -> Tensor:
        spec = self.specs[name]
        size = count * spec.dtype.itemsize
        view = buffer[:size]
        offset, memory, done = spec.offset + start * spec.dtype.itemsize, memoryview(view.numpy().data), 0
        while done < size:
            got = os.preadv(self._handles[spec.file], [memory[done:]], offset + done)
            if got == 0:
                raise UserError(f"{self.files[spec.file]}: ends inside '{name}': the file was cut short")
            done += got
        return view.view(spec.dtype)

    def close(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles = []

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


State = Mapping[str, Tensor] | Path | str
"""Weights: a state dict, or where they lie."""


@contextmanager
def opened(states: Mapping[str, State]) -> Iterator[dict[str, Source]]:
    """Sources of state dicts, folders and files, by name; files are closed at the end."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Checkpoint(state))
            if isinstance(state, str | Path)
            else Memory(state, name or "the base")
            for name, state in states.items()
        }


def weight_files(path: Path) -> list[Path]:
    """The safetensors files that make up the model at `path`, in the order of their names."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder: give a model folder or a .safetensors file")
    if (path / INDEX).is_file():
        index = files.read_json(path / INDEX)
        if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
            raise UserError(f"{path / INDEX}: has no 'weight_map' from tensors to files: write it again")
        found = sorted({path / file for file in index["weight_map"].values()})
        for file in found:
            if not file.is_file():
                raise UserError(
                    f"{path / INDEX}: names '{file.name}', which is not there: copy the missing shard"
                )
        return found
    found = [path / WEIGHTS] if (path / WEIGHTS).is_file() else sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise UserError(f"{path}: {len(found)} .safetensors files and no {INDEX}: expected one model")
    return found


def read_header(file: Path, number: int = 0) -> dict[str, Spec]:
    """Names, shapes, types and offsets of one safetensors file, checked against the size of the file."""
    try:
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            length = int.from_bytes(handle.read(8), "little")
            if length > size - 8:
                raise ValueError("its header is longer than the file")
            header = json.loads(handle.read(length))
            header.pop("__metadata__", None)
            specs = {name: _spec(name, value, number, 8 + length) for name, value in header.items()}
    except OSError as error:
        raise UserError(f"{file}: cannot read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a safetensors file: {error}") from error
    for name, spec in specs.items():
        if spec.offset + spec.nbytes > size:
            raise UserError(f"{file}: ends inside '{name}': the file was cut short")
    return specs


def read_metadata(file: Path) -> dict[str, str]:
    """The `__metadata__` of a safetensors file."""
    with file.open("rb") as handle:
        return dict(json.loads(handle.read(int.from_bytes(handle.read(8), "little"))).get("__metadata__", {}))


def _spec(name: str, value: dict[str, Any], number: int, start: int) -> Spec:
    if value["dtype"] not in SAFE_TO_TORCH:
        raise ValueError(f"'{name}' has the unknown type {value['dtype']}")
    begin, end = value["data_offsets"]
    spec = Spec(tuple(value["shape"]), SAFE_TO_TORCH[value["dtype"]], number, start + begin)
    if spec.nbytes != end - begin:
        raise ValueError(f"'{name}' has {end - begin} bytes for shape {value['shape']} of {value['dtype']}")
    return spec


def layout(specs: Mapping[str, Spec]) -> list[str]:
    """The order of tensors in a file, as the safetensors library has it: wide types first, then by name."""
    return sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))


class Writer:
    """One safetensors file written front to back; `digest` is the SHA-256 of its bytes after `close`.

    The room is reserved on the disk before the first byte, so that a full disk is met at the start. A thread
    writes and hashes while the caller computes the next block.
    """

    WAITING = 8
    """Blocks that may wait for the disk."""

    def __init__(self, path: Path, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> None:
        self.path = path
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        begin = 0
        for name in layout(specs):
            spec = specs[name]
            header[name] = {
                "dtype": TORCH_TO_SAFE[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [begin, begin + spec.nbytes],
            }
            begin += spec.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._hash = hashlib.sha256()
        self._left = begin
        needed = 8 + len(text) + begin
        with disk_errors(path, needed):
            self._handle = path.open("wb", buffering=0)
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(self._handle.fileno(), 0, needed)
        self._put(memoryview(len(text).to_bytes(8, "little") + text))
        self._failure: BaseException | None = None
        self._queue: queue.Queue[memoryview | None] = queue.Queue(self.WAITING)
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def write(self, block: Tensor) -> None:
        """Append the next elements: a contiguous CPU tensor that the caller does not touch again."""
        memory = memoryview(block.reshape(-1).view(torch.uint8).numpy().data)
        self._left -= len(memory)
        self._queue.put(memory)
        if self._failure is not None:
            raise self._failure

    def _drain(self) -> None:
        """Put blocks until None; after a failure take them without effect, so that the caller never hangs."""
        while (memory := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    self._put(memory)
                except BaseException as error:
                    self._failure = error

    def _put(self, memory: memoryview) -> None:
        with disk_errors(self.path, len(memory)):
            done = 0
            while done < len(memory):
                done += self._handle.write(memory[done:])
        self._hash.update(memory)

    def close(self) -> str:
        """Sync to the disk; returns the digest."""
        assert self._left == 0, f"{self._left} bytes were not written"
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        with disk_errors(self.path, 0):
            os.fsync(self._handle.fileno())
        self._handle.close()
        return self._hash.hexdigest()

    def abandon(self) -> None:
        """Close without the rest, after a failure; nothing to do after `close`."""
        if not self._handle.closed:
            self._failure = self._failure or OSError("abandoned")
            self._queue.put(None)
            self._thread.join()
            self._handle.close()


@contextmanager
def disk_errors(path: Path, needed: int) -> Iterator[None]:
    """Turn an error of the operating system while writing into one for people."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(path.parent).free
            raise UserError(
                f"{path}: the disk is full: {needed / 2**20:.0f} MiB wanted, {free / 2**20:.0f} MiB free: "
                "make room or choose another output folder"
            ) from error
        raise UserError(f"{path}: cannot write: {error.strerror}") from error
