"""Read pickled plain data (numbers, texts, lists, tuples, dictionaries) without executing anything.

A pickle is a program: its GLOBAL opcodes import names and its REDUCE opcodes call them. Here every name that
is not on the caller's list is an error before anything is imported, so nothing can be called.
"""

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from unival.errors import UserError


class _RefusedError(Exception):
    """A pickle names something that is not on the list."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, allowed: Mapping[tuple[str, str], Any], persistent: Any) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._allowed = allowed
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise _RefusedError(f"it asks for {module}.{name}, and nothing in it is executed")
        return self._allowed[module, name]

    def persistent_load(self, reference: Any) -> Any:
        if self._persistent is None:
            raise _RefusedError("it refers to data outside itself")
        return self._persistent(reference)

    def get_extension(self, code: int) -> NoReturn:
        raise _RefusedError("it uses a registered extension")


def loads(
    data: bytes,
    where: str,
    allowed: Mapping[tuple[str, str], Any] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The value pickled in `data`; texts of Python 2 are read as Latin-1.

    Args:
        where: the file, for messages.
        allowed: (module, name) -> our own stand-in for the class or function that the pickle names.
        persistent: what a persistent reference stands for; refused where None.

    Raises:
        UserError: damaged, or names anything that is not on the list.
    """
    try:
        return _Unpickler(data, allowed or {}, persistent).load()
    except _RefusedError as error:
        raise UserError(f"{where}: refused: {error}: do not trust this file") from error
    except Exception as error:  # a damaged pickle can raise almost anything
        reason = str(error).splitlines()[0] if str(error) else ""
        raise UserError(f"{where}: not a readable pickle: {type(error).__name__} {reason}") from error
