"""What decoders of other libraries complain of, in one voice; and bounds for those that go on and on."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from PIL import UnidentifiedImageError

from unival import limits
from unival.errors import UserError

_LARGE = threading.Lock()
"""Of the one thread that decodes a large medium within bounds."""


@dataclass
class _Bounds:
    seconds: float = math.inf
    end: float = math.inf
    """When the seconds are over, by the monotonic clock."""
    values: float = math.inf
    room: ExitStack = field(default_factory=ExitStack)
    alone: bool = False
    """Whether this thread has the lock, which `room` gives back."""


_BOUNDS = ContextVar("_BOUNDS", default=_Bounds())  # noqa: B039
"""Infinite by default; those are never written to."""


@contextmanager
def within(seconds: float, values: int) -> Iterator[None]:
    """Bound the decoding inside, in this thread: a few bytes can hold hours of black frames.

    Args:
        seconds: of time, waiting for other large media included.
        values: pixels of frames, or samples, that are held together.
    """
    with ExitStack() as room:
        token = _BOUNDS.set(_Bounds(seconds, time.monotonic() + seconds, values, room))
        try:
            yield
        finally:
            _BOUNDS.reset(token)


def check_time(name: str) -> None:
    """Called by decoders frame by frame.

    Raises:
        UserError: the time of `within` is over.
    """
    bounds = _BOUNDS.get()
    if time.monotonic() > bounds.end:
        raise UserError(
            f"{name}: takes more than {bounds.seconds:g} s to decode: shorten it, or make it smaller"
        )


def check_size(values: int, what: str, name: str) -> None:
    """Called by decoders before they hold so many pixels or samples (`what`).

    Bounds hold for all threads together: a large medium waits here until no other thread decodes one.

    Raises:
        UserError: it is more than `within` allows, or the time is over.
    """
    bounds = _BOUNDS.get()
    if values > bounds.values:
        raise UserError(
            f"{name}: {values} {what}, more than {bounds.values} together: make it smaller, or shorter"
        )
    if values > limits.LARGE_VALUES and bounds.end < math.inf and not bounds.alone:
        if not _LARGE.acquire(timeout=max(bounds.end - time.monotonic(), 0)):
            raise UserError(f"{name}: other large media were decoded for {bounds.seconds:g} s: try again")
        bounds.room.callback(_LARGE.release)
        bounds.alone = True


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
