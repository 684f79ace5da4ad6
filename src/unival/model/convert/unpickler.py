"""Unpickles the content of checkpoints without executing anything in it.

Unpickling runs whatever a pickle names. Here names are resolved only to things of this module: containers,
tensors (as references that are read later), and inert records that stand for the configuration objects that
checkpoints carry (argparse, OmegaConf, fairseq and the original's own classes, NumPy scalars). None of these
packages is imported. Any other name is refused, and so is every pickle feature that checkpoints have no use
for. `torch.load(weights_only=True)` runs no code either, but reads no pickles of protocols 4 and 5, and every
class that a checkpoint may hold would have to be named to it beforehand.
"""

import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import torch

from unival.errors import UserError

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


def unpickle(stream: BinaryIO, where: str, storages: Callable[[Storage], None]) -> Any:
    """The value of the next pickle of `stream`: containers, scalars, `Inert` and `TensorRef`.

    Args:
        where: the file, for messages.
        storages: called with every storage that tensors refer to.

    Raises:
        UserError: damaged, or with content that is refused.
    """
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
