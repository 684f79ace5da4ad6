"""Reads PyTorch checkpoint files without executing anything in them.

A `.pt` file is a pickle, and unpickling runs whatever the file names. This reader resolves names itself, and
only to things of this module: containers, tensors (as references that are read later), and inert records
that stand for the configuration objects that such files carry (argparse, OmegaConf, fairseq and the
original's own classes, NumPy scalars). None of these packages is imported. Any other name is refused, and so
is every pickle feature that checkpoints have no use for. Both layouts are read: zip archives (PyTorch >=
1.6) and the older stream of pickles.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor

from unival.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older layout
PROTOCOL = 1001
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
# Roots of the modules whose classes become inert records; the last five are the original's own packages.
INERT_ROOTS = frozenset(
    ("omegaconf", "fairseq", "ofa_module", "user_module", "models", "tasks", "criterions", "data", "utils")
)
INERT_NAMES = frozenset(
    (
        "argparse.Namespace",
        "typing.Any",
        "enum.Enum",
        "torch.device",
        "torch.Size",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "pathlib.Path",
        "pathlib.PosixPath",
    )
)
_FORBIDDEN = frozenset(("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"))


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file."""

    key: str
    dtype: torch.dtype
    length: int


@dataclass(frozen=True)
class TensorRef:
    """A tensor of the file that has not been read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Inert:
    """Stands for an object of a class that is not imported: its name, arguments and state, as data."""

    name = ""

    def __new__(cls, *arguments: Any, **named: Any) -> "Inert":
        instance = super().__new__(cls)
        instance.__dict__.update(arguments=list(arguments), state=dict(named), items={})
        return instance

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__["items"][key] = value

    def append(self, value: Any) -> None:
        """Called by pickles of list-like classes."""
        self.__dict__["arguments"].append(value)

    def data(self) -> Any:
        """What is known of the object, without its class: its state, else its items, else its arguments."""
        return self.__dict__["state"] or self.__dict__["items"] or self.__dict__["arguments"]


class _Maker:
    """A callable that a pickle can call and nothing else: it has no attributes to overwrite."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError("a pickle may not change this reader")

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("a pickle may not change this reader")


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *unused: Any) -> TensorRef:
    if not (
        type(storage) is Storage
        and _natural(offset)
        and isinstance(shape, tuple | list)
        and isinstance(stride, tuple | list)
        and len(shape) == len(stride)
        and all(map(_natural, (*shape, *stride)))
    ):
        raise pickle.UnpicklingError("a tensor with impossible storage, shape or stride")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if math.prod(shape) and last >= storage.length:
        raise pickle.UnpicklingError("a tensor that reaches beyond its storage")
    return TensorRef(storage, offset, tuple(shape), tuple(stride))


def _parameter(tensor: Any, *unused: Any) -> TensorRef:
    if type(tensor) is not TensorRef:
        raise pickle.UnpicklingError("a parameter without a tensor")
    return tensor


def _encode(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise pickle.UnpicklingError("text in an unexpected encoding")
    return text.encode("latin1")


def _mapping(*arguments: Any) -> dict[Any, Any]:
    """For defaultdict and Counter: the default factory is dropped."""
    given = [argument for argument in arguments if type(argument) in (dict, list)]
    return dict(given[0]) if given else {}


_BUILTINS: dict[str, Any] = {
    "dict": dict,
    "list": list,
    "set": set,
    "frozenset": frozenset,
    "tuple": tuple,
    "int": int,
    "long": int,
    "float": float,
    "bool": bool,
    "str": str,
    "unicode": str,
}
_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _Maker(_mapping),
    "collections.Counter": _Maker(_mapping),
    "_codecs.encode": _Maker(_encode),
    "torch._utils._rebuild_tensor": _Maker(_tensor),
    "torch._utils._rebuild_tensor_v2": _Maker(_tensor),
    "torch._utils._rebuild_parameter": _Maker(_parameter),
    **{
        f"{module}.{name}": kind for name, kind in _BUILTINS.items() for module in ("builtins", "__builtin__")
    },
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
    **{str(dtype): dtype for dtype in STORAGES.values()},
    "torch.storage.UntypedStorage": torch.uint8,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, where: str, storages: Callable[[Storage], None]) -> None:
        super().__init__(stream, encoding="latin1")
        self.where = where
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _KNOWN:
            return _KNOWN[full]
        if full in INERT_NAMES or module.split(".")[0] in INERT_ROOTS:
            return type("Inert", (Inert,), {"name": full})
        raise UserError(
            f"{self.where}: refuses to load '{full}': only tensors, plain containers and "
            "configuration objects are read, since anything else could run code: do not open this file with "
            "torch.load either"
        )

    def persistent_load(self, pid: Any) -> Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise UserError(
                f"{self.where}: refuses the persistent id {str(pid)[:80]!r}: not a tensor storage"
            )
        dtype, key, _, length = pid[1:5]
        if not (isinstance(dtype, torch.dtype) and type(key) is str and key.isalnum() and _natural(length)):
            raise UserError(f"{self.where}: refuses a tensor storage with impossible type, name or length")
        storage = Storage(key, dtype, length)
        self.storages(storage)
        return storage


def _check_pickle(stream: BinaryIO, where: str) -> None:
    """Walk the opcodes of the next pickle: no extension codes or buffers, no memory bombs by memo index."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in _FORBIDDEN:
            raise UserError(
                f"{where}: refuses the pickle opcode {opcode.name}: checkpoints have no use for it"
            )
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise UserError(f"{where}: refuses a pickle whose memo index {argument} is out of proportion")


def _unpickle(stream: BinaryIO, where: str, storages: Callable[[Storage], None]) -> Any:
    start = stream.tell()
    try:
        _check_pickle(stream, where)
        stream.seek(start)
        return _Unpickler(stream, where, storages).load()
    except UserError:
        raise
    except (RecursionError, MemoryError) as error:
        raise UserError(f"{where}: refuses a pickle that is nested or sized out of proportion") from error
    except Exception as error:  # a crafted file can raise anything; none of it may pass as another error
        raise UserError(f"{where}: not a readable checkpoint: {type(error).__name__}: {error}") from error


class Checkpoint:
    """The content of a checkpoint file: `tree` of containers, scalars, `Inert` and `TensorRef`."""

    def __init__(self, path: Path | str) -> None:
        """Open and read everything but the numbers.

        Raises:
            UserError: not a checkpoint, damaged, or with content that is refused.
        """
        self.path = Path(path)
        self.places: dict[str, int] = {}
        self.swap = False
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
                if folder + "byteorder" in names:
                    self.swap = archive.read(folder + "byteorder") == b"big"
                content = io.BytesIO(archive.read(pickles[0]))
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, struct.error) as error:
            raise UserError(f"{self.path}: damaged archive: {error}") from error

        def storage(wanted: Storage) -> None:
            entry = names.get(f"{folder}data/{wanted.key}")
            if entry is None or entry.file_size < wanted.length * wanted.dtype.itemsize:
                raise UserError(f"{self.path}: the numbers of storage '{wanted.key}' are missing or cut off")
            self.places[wanted.key] = self._data_start(handle, entry)

        return _unpickle(content, str(self.path), storage)

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
        if _unpickle(handle, where, storage) != MAGIC or _unpickle(handle, where, storage) != PROTOCOL:
            raise UserError(f"{where}: not a PyTorch checkpoint: a pickle of something else")
        machine = _unpickle(handle, where, storage)
        self.swap = isinstance(machine, dict) and dict.get(machine, "little_endian") is False
        tree = _unpickle(handle, where, storage)
        keys = _unpickle(handle, where, storage)
        if type(keys) is not list or any(type(key) is not str for key in keys) or set(keys) != set(used):
            raise UserError(f"{where}: the list of storages does not match the content")
        for key in keys:
            header = handle.read(8)
            start, wanted = handle.tell(), used[key]
            length = struct.unpack(">q" if self.swap else "<q", header)[0] if len(header) == 8 else -1
            size = length * wanted.dtype.itemsize
            if length < wanted.length or start + size > self.size:
                raise UserError(f"{where}: the numbers of storage '{key}' are missing or cut off")
            self.places[key] = start
            handle.seek(start + size)
        return tree

    def tensor(self, reference: TensorRef) -> Tensor:
        """Read the numbers of a tensor, contiguous."""
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
        if self.swap and itemsize > 1:
            content = bytearray(
                torch.frombuffer(content, dtype=torch.uint8).view(-1, itemsize).flip(1).numpy().tobytes()
            )
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


def plain(value: Any) -> Any:
    """Content as JSON data: configuration objects by their state, OmegaConf nodes by their values.

    At most 20,000 nodes are shown: a small pickle can refer to itself often enough to fill any memory.
    """
    return _plain(value, 12, [20_000])


def _plain(value: Any, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if depth == 0 or budget[0] < 0:
        return "..."
    if isinstance(value, Inert):
        state = value.data()
        for inner in ("_content", "_val"):
            if isinstance(state, dict) and inner in state:
                return _plain(state[inner], depth - 1, budget)
        return _plain(state, depth - 1, budget)
    if isinstance(value, dict):
        items = dict.items(value)
        return {str(key)[:200]: _plain(item, depth - 1, budget) for key, item in items if budget[0] > 0}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1, budget) for item in value if budget[0] > 0]
    if isinstance(value, TensorRef):
        return f"tensor {list(value.shape)}"
    if value is None or isinstance(value, bool | int | str):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)[:200]
