"""Annotation files as rows: JSON, JSON lines, CSV, text; every fault names file and row.

A loader takes a path and gives (name of the row, its content), or a BadItem for a row it cannot read.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from unival.data.source import BadItem
from unival.errors import UserError, nearest

MAX_PACKED_BYTES = 4 * 1024**3
"""A compressed file that unpacks to more is refused."""
Row = tuple[str, Any] | BadItem
"""Name of a row in its file, and its content."""
Load = Callable[[Path], Iterable[Row]]
ID = (int, str)
BAD_ROW = (UserError, TypeError, ValueError, LookupError, AttributeError)
"""What reading a row may raise: our own words, or whatever a value of a surprising form leads to."""
NOT_TEXT = "not UTF-8 text: convert the file to UTF-8"


def read_bytes(path: Path) -> bytes:
    """A file's bytes, unpacked where its name ends in .gz.

    Raises:
        UserError: missing, unreadable, damaged, or unpacks to more than 4 GiB.
    """
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as handle:
            data = handle.read(MAX_PACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    if len(data) > MAX_PACKED_BYTES:
        raise UserError(f"{path}: unpacks to more than {MAX_PACKED_BYTES} bytes")
    return data


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}")


def read_json(path: Path, kind: type | None = None) -> Any:
    """A JSON file, its top level of the given kind.

    Raises:
        UserError: unreadable, not UTF-8, not JSON, or another kind.
    """
    data = read_bytes(path)
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line}: {NOT_TEXT}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if kind is not None and not isinstance(value, kind):
        raise UserError(f"{path}: expected a {kind.__name__} at the top level, found {type(value).__name__}")
    return value


def rows_of(value: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    """The list under `key` of a JSON file's mapping.

    Raises:
        UserError: it is missing or no list.
    """
    if not isinstance(value.get(key), list):
        raise UserError(f"{path}: no list '{key}': {nearest(key, map(str, value))}")
    return value[key]


def numbered(rows: Iterable[Any], name: str = "row") -> Iterator[Row]:
    """Rows of a list with their position as name."""
    return ((f"{name} {number}", row) for number, row in enumerate(rows))


def json_rows(name: str = "row", under: str = "", kind: type = list) -> Load:
    """Loader of a JSON list; of the list `under` a key; or of the (key, value) pairs where `kind` is dict."""

    def load(path: Path) -> Iterator[Row]:
        content = read_json(path, dict if under else kind)
        rows = rows_of(content, under, path) if under else content
        return numbered(rows.items() if isinstance(rows, dict) else rows, name)

    return load


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, one at a time; bytes that are not UTF-8 become surrogates."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
            for number, line in enumerate(handle):
                text = line.decode("utf-8", errors="surrogateescape")
                yield text.removeprefix("\ufeff") if number == 0 else text
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def line_rows(path: Path) -> Iterator[Row]:
    """The lines of a text file that are not blank, without their ends."""
    for number, line in enumerate(_lines(path), 1):
        if not _is_text(line):
            yield BadItem(str(path), f"line {number}", "row", NOT_TEXT)
        elif line.strip():
            yield f"line {number}", line.rstrip("\r\n")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}") from error


def jsonl_rows(path: Path) -> Iterator[Row]:
    """The values of a JSON-lines file."""
    return changed(path, line_rows(path), _parsed)


def csv_rows(*columns: str, delimiter: str = ",", names: tuple[str, ...] = ()) -> Load:
    """Loader of a CSV as mappings; a row with too few or too many fields is a BadItem.

    Args:
        columns: columns that the header must have.
        names: the header, where the file has none.
    """
    return partial(_csv, columns=columns, delimiter=delimiter, names=names)


def _csv(path: Path, columns: tuple[str, ...], delimiter: str, names: tuple[str, ...]) -> Iterator[Row]:
    rows = csv.reader(_lines(path), delimiter=delimiter, strict=False)
    try:
        header = list(names) or [name.strip() for name in next(rows, [])]
        for column in columns:
            if column not in header:
                raise UserError(f"{path}: no column '{column}': {nearest(column, header)}")
        for values in rows:
            name = f"line {rows.line_num}"
            if not _is_text("".join(values)):
                yield BadItem(str(path), name, "row", NOT_TEXT)
            elif len(values) == len(header):
                yield name, dict(zip(header, values, strict=True))
            elif values:
                reason = f"{len(values)} fields, and there are {len(header)} columns"
                yield BadItem(str(path), name, "row", reason)
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num}: not CSV: {error}") from error


def fault(path: Path, name: str, error: Exception) -> BadItem:
    """What is said of a row that could not be read."""
    reason = str(error)
    if not isinstance(error, UserError):
        reason = f"not in the expected form: {type(error).__name__} {error}"
    return BadItem(str(path), name, "row", reason)


def changed(path: Path, rows: Iterable[Row], change: Callable[[Any], Any]) -> Iterator[Row]:
    """Rows with their content changed; where `change` fails, a BadItem."""
    for item in rows:
        if isinstance(item, BadItem):
            yield item
            continue
        try:
            yield item[0], change(item[1])
        except BAD_ROW as error:
            yield fault(path, item[0], error)


def good(rows: Iterable[Row], faults: list[BadItem]) -> Iterator[tuple[str, Any]]:
    """The rows that could be read; the others are put into `faults`."""
    for item in rows:
        if isinstance(item, BadItem):
            faults.append(item)
        else:
            yield item


def grouped(load: Load, key: Callable[[Any], Any], text: Callable[[Any], str]) -> Load:
    """Loader of one row per key: the first row of it and all its texts as (row, texts)."""

    def gather(path: Path) -> Iterator[Row]:
        faults: list[BadItem] = []
        found: dict[Any, tuple[str, Any, list[str]]] = {}
        pairs = changed(path, load(path), lambda row: (row, filled(text(row))))
        for name, (row, caption) in good(pairs, faults):
            found.setdefault(key(row), (name, row, []))[2].append(caption)
        yield from ((name, (row, texts)) for name, row, texts in found.values())
        yield from faults

    return gather


def captioned(one: str, one_id: str, many: str, many_id: str, required: bool = False) -> Load:
    """Loader of a JSON with two lists: rows of `one` as (row, captions that rows of `many` give for it).

    Args:
        required: whether a row without captions is a fault; else it is left out.
    """

    def load(path: Path) -> Iterator[Row]:
        content, faults = read_json(path, dict), list[BadItem]()
        owners = changed(path, _places(content, one, path), lambda row: (value(row, one_id, ID), row))
        things = {owner: row for _, (owner, row) in good(owners, faults)}
        texts: dict[Any, list[str]] = {}

        def pair(row: Any) -> None:
            owner, text = value(row, many_id, ID), filled(value(row, "caption"))
            if owner not in things:
                raise UserError(f"{many_id} {owner} is not in '{one}'")
            texts.setdefault(owner, []).append(text)

        for _ in good(changed(path, _places(content, many, path), pair), faults):
            pass
        yield from ((f"{one_id} {owner}", (things[owner], found)) for owner, found in texts.items())
        yield from faults
        for owner in things if required else ():
            if owner not in texts:
                yield BadItem(str(path), f"{one_id} {owner}", "row", "has no caption")

    return load


def _places(content: Mapping[str, Any], key: str, path: Path) -> Iterator[Row]:
    return ((f"{key}[{number}]", row) for number, row in enumerate(rows_of(content, key, path)))


def filled(text: str) -> str:
    """The text without white space around it.

    Raises:
        UserError: nothing is left.
    """
    if not text.strip():
        raise UserError("the caption is empty")
    return text.strip()


def value(row: Any, key: str, kind: type | tuple[type, ...] = str) -> Any:
    """`row[key]`, of the given kind.

    Raises:
        UserError: the row is no mapping, or the field is missing or of another kind.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"expected an object, found {type(row).__name__}")
    if key not in row:
        raise UserError(f"no field '{key}': {nearest(key, map(str, row))}")
    found = row[key]
    if not isinstance(found, kind) or isinstance(found, bool):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise UserError(f"field '{key}' should be {names}, found {str(found)[:40]!r}")
    return found
