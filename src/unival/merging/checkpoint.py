"""Safetensors in and out by chunks: memory is independent of the size of the model.

`FileSource` reads parts of tensors from one file or a folder (sharded or not) with `pread`; `StateSource`
does the same for a state dict; `Writer` knows every shape ahead, so it writes the header first and then each
chunk at its place.
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
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from unival.errors import UserError
from unival.weights import TORCH_TO_SAFE, TensorSpec, read_specs, refuse_adapter
from unival.weights import read_header as read_header


class TensorSource(Protocol):
    """Where the tensors of one model come from."""

    label: str
    specs: dict[str, TensorSpec]

    def read(self, name: str, start: int, count: int, buffer: Tensor) -> Tensor:
        """Elements start .. start+count of the flattened tensor; they may lie in `buffer` (uint8 memory)."""
        ...


class StateSource:
    """A state dict as a source. Tensors that share memory are kept under every name.

    Raises:
        UserError: tensors of an adapter.
    """

    def __init__(self, state: Mapping[str, Tensor], label: str = "state dict") -> None:
        refuse_adapter(state, label)
        self.label = label
        self.state = {name: tensor.detach() for name, tensor in state.items()}
        self.specs = {
            name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in self.state.items()
        }

    def read(self, name: str, start: int, count: int, buffer: Tensor) -> Tensor:
        """The elements `start` to `start + count` of a tensor; `buffer` is not needed."""
        return self.state[name].reshape(-1)[start : start + count]


class FileSource:
    """One safetensors file, or a folder with model.safetensors, an index with shards, or one such file.

    Raises:
        UserError: as `read_specs`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.label = str(path)
        self._handles: list[int] = []
        self.files, self.specs = read_specs(self.path)
        try:
            self._handles = [os.open(file, os.O_RDONLY) for file in self.files]
        except OSError as error:
            raise UserError(f"{error.filename}: cannot read: {error.strerror}") from error

    def read(self, name: str, start: int, count: int, buffer: Tensor) -> Tensor:
        """The elements `start` to `start + count` of a tensor, in its own type, read into `buffer` (uint8).

        Raises:
            UserError: the file ends before the tensor does.
        """
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
        """Close the files; nothing can be read after it."""
        for handle in self._handles:
            os.close(handle)
        self._handles = []

    def __enter__(self) -> "FileSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


State = Mapping[str, Tensor] | Path | str
"""Weights: a state dict, or where they lie."""


@contextmanager
def opened(states: Mapping[str, State]) -> Iterator[dict[str, TensorSource]]:
    """Sources of state dicts, folders and files, by name; files are closed at the end."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(FileSource(state))
            if isinstance(state, str | Path)
            else StateSource(state, name or "the base")
            for name, state in states.items()
        }


def layout(specs: Mapping[str, TensorSpec]) -> list[str]:
    """The order of tensors in a file, as the safetensors library has it: wide types first, then by name."""
    return sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))


class Writer:
    """One safetensors file written front to back; `digest` is the SHA-256 of its bytes after `close`.

    The room is reserved on the disk before the first byte, so that a full disk is met at the start. A thread
    writes and hashes while the caller computes the next block.
    """

    WAITING = 8
    """Blocks that may wait for the disk."""

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> None:
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
    """Writing to `path`: what the operating system refuses becomes an error for people.

    Raises:
        UserError: the disk is full (`needed` bytes were wanted), or the place cannot be written to.
    """
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
