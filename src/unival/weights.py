"""Safetensors on the disk: which files hold a model, what their headers say, and writing one file.

The format (https://github.com/huggingface/safetensors): eight bytes with the length of a JSON header, the
header {name: {dtype, shape, data_offsets}}, the bytes of the tensors without holes. A folder has either
`model.safetensors`, or an index {"weight_map": {tensor: file}} beside shards, or one file of another name.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unival import files, limits
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
TASKS = "tasks.json"
"""What the model was trained to be asked, beside its weights (`unival.tasks.folder`)."""
MODULES = re.compile(r"^(?:model\.)?((?:encoder|decoder)\.(?:media\.\w+|layers)|\w+)")
"""The first group names the module of a tensor."""
HEADER_LIMIT = 100_000_000
"""Bytes; that of the safetensors library."""
ADAPTER = re.compile(
    r"^base_model\.model\.|(^|[._])lora[._]|(^|\.)(ia3_|hada_|lokr_|oft_|boft_|vera_|prompt_embeddings)"
)
"""Names that only parts of adapters have: PEFT's prefix, the factors of its methods, `lora_up` and `lora.up`
of others."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of a tensor; `file` and `offset` (bytes from the start of the file) where it has any."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: int = -1
    offset: int = 0

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.count * self.dtype.itemsize


def module_of(name: str) -> str:
    """The module of a tensor, for figures of parts of a model: `encoder.layers`, `encoder.media.image`."""
    found = MODULES.search(name)
    return found[1] if found else "other"


def read_specs(path: Path) -> tuple[list[Path], dict[str, TensorSpec]]:
    """Files of the model at `path`, a folder or one file, and its tensors; `TensorSpec.file` counts them.

    Raises:
        UserError: nothing to read, a damaged header, files and index that disagree, an adapter.
    """
    paths = weight_files(path)
    specs: dict[str, TensorSpec] = {}
    for number, file in enumerate(paths):
        for name, spec in read_header(file, number).items():
            if name in specs:
                raise UserError(f"{file}: '{name}' is in two files of {path}: remove one")
            specs[name] = spec
    if path.is_dir() and (path / INDEX).is_file():
        _require_listed(path / INDEX, paths, specs)
    refuse_adapter(specs, path)
    return paths, specs


def weight_files(path: Path) -> list[Path]:
    """The safetensors files that make up the model at `path`, in the order of their names.

    Raises:
        UserError: none, more than one without an index, a missing shard, an adapter, or two models: where a
            folder was saved to whole and in shards, transformers reads the whole file, old or new.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder: give a model folder or a .safetensors file")
    if (path / "adapter_config.json").is_file():
        raise UserError(_adapter(path))
    whole, index = path / WEIGHTS, path / INDEX
    if not index.is_file():
        paths = [whole] if whole.is_file() else sorted(path.glob("*.safetensors"))
        if len(paths) != 1:
            raise UserError(f"{path}: {len(paths)} .safetensors files and no {INDEX}: expected one model")
        return paths
    listed = {path / name for name in _weight_map(index).values()}
    if whole.is_file() and whole not in listed:
        raise UserError(
            f"{path}: holds {WEIGHTS} and {INDEX}, two models: remove the one that is not meant "
            f"(transformers reads {WEIGHTS}, and leaves it there when it saves in shards)"
        )
    for file in sorted(listed):
        if not file.is_file():
            raise UserError(f"{index}: names '{file.name}', which is not there: copy the missing shard")
    return sorted(listed)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file of an index."""
    table = files.read_json(index).get("weight_map")
    if not isinstance(table, dict):
        raise UserError(f"{index}: has no 'weight_map' from tensors to files: write it again")
    for name, file in table.items():
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\\0]{1,200}\.safetensors", file):
            raise UserError(
                f"{index}: '{name}': {json.dumps(file)[:80]} is not a name of a .safetensors file"
            )
    return table


def _require_listed(index: Path, paths: list[Path], specs: Mapping[str, TensorSpec]) -> None:
    """Raise UserError where an index and its files name different tensors."""
    table = _weight_map(index)
    place = {name: paths[spec.file].name for name, spec in specs.items()}
    for name in sorted({*table, *place}):
        if name not in place:
            raise UserError(
                f"{index}: '{name}' should be in {table[name]}, which does not have it: save the model again"
            )
        if table.get(name) != place[name]:
            said = f"in {table[name]}" if name in table else "nowhere"
            raise UserError(
                f"{index}: '{name}' is in {place[name]}, by the index {said}: save the model again"
            )


def refuse_adapter(names: Iterable[str], label: Path | str) -> None:
    """Check that tensors are no adapter's: factors of an update (LoRA: B A) have no mean that is the
    mean of the updates.

    Raises:
        UserError: a name is one of an adapter's.
    """
    if name := next(filter(ADAPTER.search, sorted(names)), None):
        raise UserError(_adapter(label, f" ('{name}')"))


def _adapter(label: Path | str, of: str = "") -> str:
    return (
        f"{label}: an adapter{of}, not a model: put it into the model it was trained on first: "
        "peft.PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(out)"
    )


def read_header(file: Path, number: int = 0) -> dict[str, TensorSpec]:
    """Names, shapes, types and offsets of one safetensors file, checked against the size of the file.

    Raises:
        UserError: it cannot be read, is no such file, or was cut short.
    """
    header, start, size = _header(file)
    header.pop("__metadata__", None)
    try:
        specs = {name: _spec(name, value, number, start) for name, value in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a safetensors file: {error}") from error
    end = start
    for name in sorted(specs, key=lambda name: (specs[name].offset, specs[name].nbytes)):
        if specs[name].offset != end:
            raise UserError(f"{file}: not a safetensors file: '{name}' does not begin where another ends")
        end += specs[name].nbytes
        if end > size:
            raise UserError(f"{file}: ends inside '{name}': the file was cut short")
    return specs


def read_metadata(file: Path) -> dict[str, str]:
    """The `__metadata__` of a safetensors file."""
    return dict(_header(file)[0].get("__metadata__", {}))


def _header(file: Path) -> tuple[dict[str, Any], int, int]:
    """The JSON of a file's header, where the bytes of the tensors start, and the size of the file."""
    try:
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            begin = handle.read(8)
            if begin == b"version ":
                raise ValueError("it is a pointer of Git LFS: run `git lfs pull` where it comes from")
            length = int.from_bytes(begin, "little")
            if length > size - 8:
                raise ValueError("its header is longer than the file")
            if length > HEADER_LIMIT:
                raise ValueError(f"its header has {length} bytes, more than {HEADER_LIMIT}")
            header = json.loads(handle.read(length))
    except OSError as error:
        raise UserError(f"{file}: cannot read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise UserError(f"{file}: not a safetensors file: its header is not an object")
    return header, 8 + length, size


def _spec(name: str, value: dict[str, Any], number: int, start: int) -> TensorSpec:
    if value["dtype"] not in SAFE_TO_TORCH:
        raise ValueError(f"'{name}' has the unknown type {value['dtype']}")
    shape, (begin, end) = value["shape"], value["data_offsets"]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in [*shape, begin, end]):
        raise ValueError(f"'{name}': shape and offsets must be whole numbers from 0")
    spec = TensorSpec(tuple(shape), SAFE_TO_TORCH[value["dtype"]], number, start + begin)
    if spec.nbytes != end - begin or not limits.is_shape(shape):
        raise ValueError(f"'{name}' has {end - begin} bytes for shape {shape} of {value['dtype']}")
    return spec


def save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write one safetensors file that others may read, as far as the umask says; the library's is private.

    Raises:
        OSError: no space.
    """
    from safetensors.torch import save_file

    with system_errors():
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    files.share(path)


def load(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: it is not there or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable weights file: {error}") from error


def save_archive(state: Mapping[str, Any], path: Path) -> None:
    """Write a state in PyTorch's own form, that loads with `weights_only`.

    Raises:
        OSError: no space.
    """
    with path.open("wb") as handle, system_errors():  # given a path, the writer would not tell what was said
        torch.save(dict(state), handle)


@contextmanager
def system_errors() -> Iterator[None]:
    """What a library makes of the system's refusal to write a file becomes that refusal again.

    Raises:
        OSError: no space, say.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise
    except RuntimeError as error:  # what PyTorch finds when it ends its archive after a failed write
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def cast(values: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    """Values in another type, which has to hold them; `what` starts the message.

    Conversion to float16 and float8_e5m2 makes infinity of what is too large, and to float8_e4m3fn the
    largest number, in silence. Infinity itself (a mask) is kept.

    Raises:
        UserError: a finite value beyond the type's range.
    """
    if values.dtype == dtype or not dtype.is_floating_point or not values.numel():
        return values.to(dtype)
    wide = values.float() if values.dtype.itemsize < 2 else values
    limit = overflow(dtype)
    low, high = torch.aminmax(wide)
    if not (float(low) > -limit and float(high) < limit):
        beyond = wide.isfinite() & (wide.abs() >= limit)
        if beyond.any():
            place = int(beyond.flatten().nonzero()[0])
            raise UserError(
                f"{what}: {float(wide.flatten()[place]):g} does not fit {str(dtype)[6:]}, which ends at "
                f"{torch.finfo(dtype).max:g}: choose a wider type"
            )
    return values.to(dtype)


def overflow(dtype: torch.dtype) -> float:
    """The smallest number that rounds to one beyond a floating type's range: half a step over its end."""
    info = torch.finfo(dtype)
    _, exponent = math.frexp(info.max)
    return info.max + info.eps * 2.0 ** (exponent - 2)
