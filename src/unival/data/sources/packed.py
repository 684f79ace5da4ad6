"""Files of strangers as bytes: regular files only, and of a packed one no more than it can honestly hold.

Texts and numbers pack ten to one, a packed file of nothing but zeros a thousand or a million to one.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from unival import limits
from unival.errors import UserError
from unival.files import regular

CHUNK = 1 << 20
PACKERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
"""First bytes of a file -> what unpacks it."""
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What reading a file may raise."""


class _Bounded(io.RawIOBase):
    def __init__(self, handle: Any, most: int) -> None:
        self._handle, self._left = handle, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read: int = self._handle.readinto(buffer)
        self._left -= read
        if self._left < 0:
            raise OSError(f"it unpacks to more than {limits.PACKED_RATIO} times its size")
        return read

    def close(self) -> None:
        self._handle.close()
        super().close()


def opened(path: Path, pack: Callable[[Path], Any] | None = None) -> IO[bytes]:
    """A file's bytes; those in it where it is packed (by `pack`, or gzip where its name ends in .gz).

    Raises:
        OSError: it cannot be opened; later: it is damaged, or unpacks to too much.
        UserError: it is no regular file.
    """
    size = regular(path).st_size
    pack = pack or (gzip.open if path.suffix == ".gz" else None)
    if pack is None:
        return path.open("rb")
    return io.BufferedReader(_Bounded(pack(path), limits.PACKED_RATIO * size + limits.PACKED_SPARE))


def opened_by_magic(path: Path) -> IO[bytes]:
    """As `opened`; how it is packed is known by its first bytes."""
    with opened(path) as handle:
        start = handle.read(5)
    return opened(path, next((pack for magic, pack in PACKERS.items() if start.startswith(magic)), None))


def unpacked_bytes(path: Path) -> bytes:
    """All bytes of a file, unpacked.

    Raises:
        UserError: missing, unreadable, damaged, or too many.
    """
    data = bytearray()
    try:
        with opened(path) as handle:
            while chunk := handle.read(CHUNK):
                data += chunk
                if len(data) > limits.UNPACKED_BYTES:
                    raise UserError(f"{path}: holds more than {limits.UNPACKED_BYTES} bytes")
    except DAMAGE as error:
        raise unreadable(path, error) from error
    return bytes(data)


def unreadable(path: Path, error: Exception) -> UserError:
    """What is said of a file that cannot be read."""
    return UserError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}")
