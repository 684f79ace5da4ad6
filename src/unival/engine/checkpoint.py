"""Checkpoints of a run: whole or absent, and readable without executing anything in them.

A checkpoint is the folder `step-00001234`: `model.safetensors` (weights and buffers), `state.pt` (optimiser
and average; loads with weights_only) and `meta.json` (step, what the run needs to go on, digests of these
files). Configuration and processor lie beside them: it is a model folder too, which another run can start
from. It is written beside its place, synced to disk and renamed, so a crash or a full disk at any moment
leaves the previous one valid. A damaged checkpoint is passed over for the one before it. The best weights by
validation are the folder `best`, written and checked in the same way.

A run may go on while its checkpoint is written from a copy (`background`); a kill meanwhile costs the steps
since the one before.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unival import files, weights
from unival.errors import UserError

WEIGHTS, STATE, META = "model.safetensors", "state.pt", "meta.json"
FIX = "fix that and run again: training resumes from the last checkpoint"


@contextmanager
def told_of_disk(path: Path) -> Iterator[None]:
    """A full disk, or a place that cannot be written to, becomes a UserError about `path`.

    Raises:
        UserError: the disk is full, or the place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror or error}: {FIX}") from error


def check_room(folder: Path, model: nn.Module) -> None:
    """Whether the weights, the least that a run keeps, find room where it is to keep them.

    Raises:
        UserError: they do not.
    """
    with told_of_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    needed = sum(tensor.nbytes for tensor in unique_tensors(model).values())
    if free < needed:
        sizes = f"{free / 2**20:.0f} MiB are free, and a checkpoint takes {needed / 2**20:.0f} MiB or more"
        raise UserError(f"{folder}: {sizes}: make room and run again")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success its files are synced and it takes the place of `path`.

    Raises:
        UserError: no space, or the place cannot be written to. What was there stays.
    """
    part, old = hidden(path), path.with_name(f".{path.name}.old")
    try:
        with told_of_disk(path):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            with files.held(part):
                yield part
            for item in [*part.rglob("*"), part]:
                sync(item)
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                path.rename(old)
            part.rename(path)
            sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def hidden(path: Path) -> Path:
    """Where `path` is written before it takes its place."""
    return path.with_name(f".{path.name}.part")


def sync(path: Path) -> None:
    """Flush one file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers under their first name each: tied weights once, as safetensors wants them."""
    seen: set[tuple[int, torch.Size]] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        tensors[name] = tensor.contiguous()
    return tensors


def weights_digest(model: nn.Module) -> str:
    """Digest of a model's weights and buffers: of their names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, tensor in unique_tensors(model).items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy the weights of a file into the model.

    Raises:
        UserError: unreadable file, or weights of another architecture.
    """
    stored = weights.load(path)
    own = unique_tensors(model)
    for name, tensor in own.items():
        if name not in stored:
            raise UserError(f"{path}: weights of another architecture: '{name}' is missing")
        if stored[name].shape != tensor.shape:
            shapes = f"{tuple(stored[name].shape)}, the model wants {tuple(tensor.shape)}"
            raise UserError(f"{path}: weights of another architecture: '{name}' is {shapes}")
    if extra := sorted(set(stored) - set(own)):
        raise UserError(f"{path}: weights of another architecture: the model has no '{extra[0]}'")
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in stored:
                tensor.copy_(stored[name])


class Checkpoints:
    """The checkpoints of one run in its scratch folder: the last `keep`, and the best by validation."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        describe: Callable[[Path], None] | None = None,
        background: bool = False,
    ) -> None:
        """`describe` writes into a folder what its weights are of; `background`: see above."""
        self.folder = folder
        self.keep = keep
        self.describe = describe
        self._thread = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._writing: Future[None] | None = None

    @property
    def best(self) -> Path:
        """Folder of the weights of the best validation so far."""
        return self.folder / "best"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        numbers = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def path(self, step: int) -> Path:
        """Folder of the checkpoint after `step` updates."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, model: nn.Module, state: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
        """Write the checkpoint after `step` updates, then drop what is not needed any more.

        Raises:
            UserError: no space, for this one or for the one that was being written.
        """
        self.settle()
        tensors = unique_tensors(model)
        if self._thread:
            tensors, state = _copied(tensors), _copied(state)
        self._write(partial(self._save, step, tensors, state, {**meta, "step": step}))
        return self.path(step)

    def _save(self, step: int, tensors: dict[str, Tensor], state: Mapping[str, Any], meta: Any) -> None:
        with atomic_folder(self.path(step)) as part:
            weights.save(tensors, part / WEIGHTS)
            weights.save_archive(state, part / STATE)
            if self.describe:
                self.describe(part)
            digests = {name: files.file_digest(part / name) for name in (WEIGHTS, STATE)}
            files.write_sealed(part / META, {**meta, "digests": digests})
        self._tidy(step)

    def _write(self, write: Callable[[], None]) -> None:
        """Call it, in the background if that is wanted."""
        if self._thread:
            self._writing = self._thread.submit(write)
        else:
            write()

    def settle(self) -> None:
        """Wait for what is being written in the background.

        Raises:
            UserError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _tidy(self, step: int) -> None:
        """Drop the oldest, and those after `step`, which were passed over when the run went on."""
        steps = self.steps()
        current = [old for old in steps if old <= step]
        for old in {*steps} - {*current[-self.keep :]}:
            shutil.rmtree(self.path(old), ignore_errors=True)

    def save_best(self, step: int, model: nn.Module) -> None:
        """Write the weights after `step` updates as the best.

        Raises:
            UserError: no space; the ones before stay.
        """
        with atomic_folder(self.best) as part:
            weights.save(unique_tensors(model), part / WEIGHTS)
            digests = {WEIGHTS: files.file_digest(part / WEIGHTS)}
            files.write_sealed(part / META, {"step": step, "digests": digests})

    def load_best(self, model: nn.Module) -> None:
        """Copy the best weights into the model.

        Raises:
            UserError: they are not as they were written.
        """
        if whole_meta(self.best) is None:
            raise UserError(
                f"{self.best}: damaged since it was written: run again: training resumes from before "
                "these weights"
            )
        load_weights(model, self.best / WEIGHTS)

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint to go on from, and its meta; None when there is none.

        Passed over are damaged ones, and those that count on best weights which are damaged or gone: who goes
        on from before these finds them again.
        """
        best, lost = whole_meta(self.best), 0
        for step in reversed(self.steps()):
            meta = whole_meta(self.path(step))
            if meta is None:
                continue
            needed = meta.get("best_step", 0)
            if not needed or (best and best["step"] >= needed) or step < lost:
                return self.path(step), meta
            lost = max(lost, needed)
        return None

    def restore(self, path: Path, meta: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
        """Load the weights into the model; returns the state.

        Raises:
            UserError: a checkpoint of another architecture.
        """
        load_weights(model, path / WEIGHTS)
        return torch.load(path / STATE, map_location="cpu", weights_only=True)

    def clear(self) -> None:
        """Remove all checkpoints: the run is complete."""
        for step in self.steps():
            shutil.rmtree(self.path(step), ignore_errors=True)
        shutil.rmtree(self.best, ignore_errors=True)


def _copied(state: Any) -> Any:
    """The same with its tensors copied into main memory."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {name: _copied(value) for name, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else state


def whole_meta(path: Path) -> dict[str, Any] | None:
    """The meta of a checkpoint all of whose files are as they were written; else None."""
    meta = files.read_sealed(path / META)
    try:
        if meta and all(files.file_digest(path / name) == digest for name, digest in meta["digests"].items()):
            return meta
    except OSError:
        return None
    return None
