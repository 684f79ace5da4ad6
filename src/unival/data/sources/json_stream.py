"""JSON files value by value: a file of any length is read in constant memory.

`JsonStream` walks one level of a list or an object at a time; the values in it are parsed by `json`. ijson
does not say in which line a file is broken, which messages do here.
"""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from unival import limits
from unival.data.sources.packed import DAMAGE, opened
from unival.errors import UserError, nearest

CHUNK = 1 << 20
SPACE = re.compile(r"[ \t\r\n]*")
ENDS = frozenset(",:]} \t\r\n")
"""What may follow a value."""
NOT_TEXT = "not UTF-8 text: convert the file to UTF-8"


def open_text(path: Path) -> IO[str]:
    """A file's text, line ends as they are; bytes that are not UTF-8 become surrogates.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        return io.TextIOWrapper(opened(path), "utf-8-sig", "surrogateescape", newline="\n")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error


class JsonStream:
    """The text of a JSON file. Each method reads on from where the last one stopped.

    Raises:
        UserError: by any method: unreadable, not UTF-8, or not JSON from some line on.
    """

    def __init__(self, path: Path, handle: IO[str]) -> None:
        self.path, self._handle = path, handle
        self._text, self._place, self._lines = "", 0, 1
        self._parse = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The first character of what comes next, "" at the end of the file."""
        while True:
            space = SPACE.match(self._text, self._place)
            self._place = space.end() if space else self._place
            if self._place < len(self._text) or not self._more(CHUNK):
                return self._text[self._place : self._place + 1]

    def value(self) -> Any:
        """The next value."""
        if not self.peek():
            raise self.fault("it ends where a value should be")
        size = CHUNK
        while True:
            try:
                value, end = self._parse(self._text, self._place)
                if self._text[end : end + 1] in ENDS or not self._more(size):  # "1" may go on as "1.5"
                    self._place = end
                    return value
            except json.JSONDecodeError as error:
                if not self._more(size):
                    raise self.fault(error.msg, error.pos) from error
            except RecursionError as error:
                raise self.fault("lists too deep in each other") from error
            size *= 2  # a long value is not parsed again for every chunk of it

    def places(self) -> Iterator[Any]:
        """The positions of the list, or the keys of the object, that comes next.

        The caller reads the value at each of them before it asks for the next.
        """
        is_object = self._expect("[", "{") == "{"
        end, number = "}" if is_object else "]", 0
        if self.peek() == end:
            self._place += 1
            return
        while True:
            if is_object:
                key = self.value()
                if not isinstance(key, str):
                    raise self.fault(f"key {key} is not a string")
                self._expect(":")
                yield key
            else:
                yield number
                number += 1
            if self._expect(",", end) == end:
                return

    def skip(self) -> None:
        """Pass over the next value."""
        if self.peek() and self.peek() in "[{":
            for _ in self.places():
                self.value()
        else:
            self.value()

    def _expect(self, *marks: str) -> str:
        mark = self.peek()
        if mark not in marks or not mark:
            raise self.fault(f"expected {' or '.join(marks)}, found {mark or 'the end of the file'}")
        self._place += 1
        return mark

    def _more(self, size: int) -> bool:
        """Read on, dropping what was passed; False at the end of the file."""
        if len(self._text) - self._place > limits.VALUE_CHARS:
            raise self.fault(f"a value of more than {limits.VALUE_CHARS} characters")
        try:
            chunk = self._handle.read(size)
            chunk.encode()
        except UnicodeEncodeError as error:
            line = self._lines + self._text.count("\n") + chunk.count("\n", 0, error.start)
            raise UserError(f"{self.path}: line {line}: {NOT_TEXT}") from error
        except DAMAGE as error:
            raise UserError(f"{self.path}: cannot read on: {error}") from error
        if chunk:
            self._lines += self._text.count("\n", 0, self._place)
            self._text, self._place = self._text[self._place :] + chunk, 0
        return bool(chunk)

    def fault(self, reason: str, place: int | None = None) -> UserError:
        """The error about a place in the text read last (None: here), with the line of the file."""
        line = self._lines + self._text.count("\n", 0, self._place if place is None else place)
        return UserError(f"{self.path}: line {line}: not JSON: {reason}")


@contextmanager
def _opened(path: Path, *openings: str) -> Iterator[JsonStream]:
    """A file's stream whose value starts with one of the marks; in the end nothing may be left."""
    with open_text(path) as handle:
        stream = JsonStream(path, handle)
        mark = stream.peek()
        if mark not in openings:
            kinds = {"[": "a list", "{": "an object", "": "nothing"}
            raise UserError(
                f"{path}: expected {kinds[openings[0]]} at the top level, found {kinds.get(mark, mark)}"
            )
        yield stream
        if stream.peek():
            raise stream.fault("there is more after the end")


def json_lists(path: Path, *names: str) -> Iterator[tuple[str, Any]]:
    """Elements of the lists that a file's object holds under these names, as (name, element).

    Raises:
        UserError: see `JsonStream`; the top level is no object, or there is no list under a name.
    """
    keys = []
    with _opened(path, "{") as stream:
        for key in stream.places():
            keys.append(key)
            if key not in names:
                stream.skip()
                continue
            if stream.peek() != "[":
                raise UserError(f"{path}: '{key}' is not a list")
            for _ in stream.places():
                yield key, stream.value()
    for name in names:
        if name not in keys:
            raise UserError(f"{path}: no list '{name}': {nearest(name, keys)}")


def json_values(path: Path, opening: str = "[") -> Iterator[Any]:
    """Elements of a file's list; the (key, value) pairs of its object where `opening` is "{"."""
    with _opened(path, opening) as stream:
        for place in stream.places():
            yield stream.value() if opening == "[" else (place, stream.value())


def json_keys(path: Path) -> list[str] | None:
    """The keys of a file's object, None where it holds a list."""
    with open_text(path) as handle:
        if JsonStream(path, handle).peek() == "[":  # its elements are for others to read
            return None
    keys = []
    with _opened(path, "{") as stream:
        for key in stream.places():
            keys.append(key)
            stream.skip()
    return keys
