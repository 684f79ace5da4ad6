"""What decoders of other libraries complain of, in one voice; and an end to those that go on and on."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from PIL import UnidentifiedImageError

from unival.errors import UserError

_END = ContextVar("_END", default=(math.inf, math.inf))
"""Seconds that are given, and when they are over by the monotonic clock."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Decoding inside, in this thread, takes so long at most: a few bytes can hold hours of black frames."""
    token = _END.set((seconds, time.monotonic() + seconds))
    try:
        yield
    finally:
        _END.reset(token)


def check_time(name: str) -> None:
    """Called by decoders frame by frame.

    Raises:
        UserError: the time of `within` is over.
    """
    seconds, end = _END.get()
    if time.monotonic() > end:
        raise UserError(f"{name}: takes more than {seconds:g} s to decode: shorten it, or make it smaller")


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """What a decoder complains of, as a UserError.

    Parsers of other libraries meet arbitrary bytes here and fail with whatever their code happens to raise
    (struct.error, RuntimeError, AttributeError, ...), so every Exception is caught.

    Raises:
        UserError: whatever was raised inside, with `name` and its reason.
    """
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError as error:  # its own words hold an address in memory
        raise UserError(f"{name}: not {what}: no known format of images") from error
    except Exception as error:
        reason = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
        raise UserError(f"{name}: not {what}: {reason.splitlines()[0][:200]}") from error
