"""Read pickled plain data (numbers, texts, lists, tuples, dictionaries) without executing anything.

A pickle is a program: its GLOBAL opcodes import names and its REDUCE opcodes call them. Here every name is an
error before anything is imported, so nothing can be called. (Checkpoints, whose pickles need names, are read
by `model/convert/unpickler.py`.)
"""

import io
import pickle
from typing import Any, ClassVar, NoReturn

from unival.errors import UserError
from unival.files import larger


class _RefusedError(Exception):
    """A pickle asks for more than plain data."""


class _ArrayUnpickler(pickle._Unpickler):
    """The one in Python: that in C takes memory for any place at which a pickle remembers something."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code not in (*pickle.BYTEARRAY8, *pickle.NEXT_BUFFER, *pickle.READONLY_BUFFER)
    }

    def find_class(self, module: str, name: str) -> NoReturn:
        raise _RefusedError(f"it asks for {module}.{name}, and nothing in it is executed")

    def persistent_load(self, reference: Any) -> NoReturn:
        raise _RefusedError("it refers to data outside itself")


def loads(data: bytes, where: str) -> Any:
    """The value pickled in `data`; texts of Python 2 are read as Latin-1.

    Args:
        where: the file, for messages.

    Raises:
        UserError: damaged, or not plain data.
    """
    try:
        value = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except _RefusedError as error:
        raise UserError(f"{where}: refused: {error}: do not trust this file") from error
    except Exception as error:  # a damaged pickle can raise almost anything
        reason = str(error).splitlines()[0] if str(error) else ""
        raise UserError(f"{where}: not a readable pickle: {type(error).__name__} {reason}") from error
    if larger(value, 10 * len(data)):
        raise UserError(f"{where}: refused: it refers to itself so often that it has no end: do not trust it")
    return value
