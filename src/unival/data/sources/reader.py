"""What a reader of an official data set is, and how files are read so that every fault names file and row.

A reader is a generator function: it gets the folder and yields media, rows and what it could not read. It is
registered under the data set's name both as a reader (for `unival import`) and as a source (for `prepare`).
"""

import csv
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unival import config
from unival.data.source import SOURCES, BadItem, MediaItem, RowItem, Source
from unival.errors import UserError, nearest
from unival.record import Record
from unival.registry import Registry

DATA_VARIABLE = "UNIVAL_DATA"
MAX_PACKED_BYTES = 4 * 1024**3
"""A compressed file that unpacks to more is refused."""
Item = MediaItem | RowItem | BadItem
Row = tuple[str, Any] | BadItem
"""Name of a row in its file, and its content."""
Made = MediaItem | BadItem | tuple[str, str, Record]
SPLIT_WORDS = {
    "train": "train",
    "development": "train",
    "dev": "val",
    "eval": "test",
    "val": "val",
    "test": "test",
}
"""Official words for splits (Clotho's are development, validation, evaluation)."""
Read = Callable[[Path], Iterable[Item]]


@dataclass(frozen=True)
class Reader:
    """An official format."""

    name: str
    expects: str
    """What must lie under the folder, for `--help`."""
    licence: str
    read: Read
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows of the complete set: `<split>/<task>` -> number."""


READERS: Registry[Reader] = Registry("data set")


@dataclass(frozen=True)
class ReaderOptions:
    """Options of every reader as a source."""

    root: str | None = None
    """Folder of the data set; where null, the folder of the same name under UNIVAL_DATA."""
    text_only: bool = False
    """Captions alone, as rows of the task `text`; no medium is looked for."""


def reader(
    name: str, *, expects: str, licence: str, counts: Mapping[str, int] | None = None
) -> Callable[[Read], Read]:
    """Decorator: register a reading function as reader and source `name`."""

    def enter(read: Read) -> Read:
        READERS.register(name)(Reader(name, expects, licence, read, counts or {}))  # type: ignore[arg-type]

        def source(options: Mapping[str, Any], where: str) -> Source:
            chosen = config.build(ReaderOptions, options, where)
            root = Path(chosen.root) if chosen.root else data_folder() / name
            items = read(root if root.is_file() else folder(root))
            return Source(_texts(items) if chosen.text_only else items, licence)

        SOURCES.register(name)(source)
        return read

    return enter


def _texts(items: Iterable[Item]) -> Iterator[Item]:
    """Of a data set's items the captions, one row each."""
    for item in items:
        if isinstance(item, BadItem):
            yield item
        elif isinstance(item, RowItem) and isinstance(item.row, Record):
            for number, text in enumerate(item.row.references):
                row = Record(f"{item.task}-{item.row.id}-{number}", references=(text,))
                yield RowItem(item.split, "text", row, item.file, item.number)


def data_folder() -> Path:
    """The folder of real data that the environment names.

    Raises:
        UserError: UNIVAL_DATA is not set or names no folder.
    """
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        raise UserError(
            f"{DATA_VARIABLE} is not set: export {DATA_VARIABLE}=<folder that holds the data sets>"
        )
    path = Path(value)
    if not path.is_dir():
        raise UserError(
            f"{DATA_VARIABLE}={value}: no such folder: set it to the folder that holds the data sets"
        )
    return path


def folder(path: Path) -> Path:
    """`path` itself where it is a folder.

    Raises:
        UserError: it is not; the message names what is there instead.
    """
    if not path.is_dir():
        there = [item.name for item in path.parent.iterdir() if item.is_dir()] if path.parent.is_dir() else []
        hint = nearest(path.name, there) if there else f"{path.parent} is missing too"
        raise UserError(f"{path}: no such folder: {hint}")
    return path


def require(root: Path, *patterns: str) -> list[Path]:
    """All files under `root` that match one of the patterns, sorted.

    Raises:
        UserError: there is none.
    """
    folder(root)
    found = sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()})
    if not found:
        raise UserError(
            f"{root}: no file {' or '.join(patterns)}: put it there, or give the folder that holds it"
        )
    return found


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
        raise UserError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_PACKED_BYTES:
        raise UserError(f"{path}: unpacks to more than {MAX_PACKED_BYTES} bytes")
    return data


def read_text(path: Path) -> str:
    """A UTF-8 text file.

    Raises:
        UserError: missing, unreadable or in another encoding.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = read_bytes(path)[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line}: not UTF-8 text: convert it to UTF-8") from error


def read_json(path: Path, kind: type | None = None) -> Any:
    """A JSON file, its top level of the given kind.

    Raises:
        UserError: unreadable, not JSON, or another kind.
    """
    try:
        value = json.loads(read_text(path))
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


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a text file, one at a time; bytes that are not UTF-8 become surrogates (see `is_text`).

    Raises:
        UserError: missing or unreadable.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
            for number, line in enumerate(handle):
                text = line.decode("utf-8", errors="surrogateescape")
                yield text.removeprefix("\ufeff") if number == 0 else text
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from error


def is_text(text: str) -> bool:
    """Whether a line was UTF-8."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def read_csv(
    path: Path, columns: Iterable[str], delimiter: str = ",", names: list[str] | None = None
) -> Iterator[Row]:
    """(row name, values) of each row of a CSV file; one with too few or too many fields is a BadItem.

    Args:
        columns: columns that the header must have.
        names: the header, where the file has none.

    Raises:
        UserError: unreadable, or a column is missing.
    """
    rows = csv.reader(lines_of(path), delimiter=delimiter, strict=False)
    try:
        header = names or [name.strip() for name in next(rows, [])]
        for column in columns:
            if column not in header:
                raise UserError(f"{path}: no column '{column}': {nearest(column, header)}")
        for values in rows:
            name = f"line {rows.line_num}"
            if not is_text("".join(values)):
                yield BadItem(str(path), name, "row", "not UTF-8 text: convert the file to UTF-8")
            elif len(values) == len(header):
                yield name, dict(zip(header, values, strict=True))
            elif values:
                reason = f"{len(values)} fields, and there are {len(header)} columns"
                yield BadItem(str(path), name, "row", reason)
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num}: not CSV: {error}") from error


def read_jsonl(path: Path) -> Iterator[Row]:
    """(row name, value) of each line of a JSON-lines file; a line that is not JSON is a BadItem."""
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        try:
            if not is_text(line):
                raise ValueError("not UTF-8 text: convert the file to UTF-8")
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadItem(str(path), f"line {number}", "row", f"not JSON: {error}")
            continue
        yield f"line {number}", value


def numbered(rows: Iterable[Any], name: str = "row") -> Iterator[Row]:
    """Rows of a list with their position as name."""
    return ((f"{name} {number}", row) for number, row in enumerate(rows))


def each(path: Path, rows: Iterable[Row], convert: Callable[[Any], Iterable[Made]]) -> Iterator[Item]:
    """Media and rows made of each row of a file; a row that cannot be read is a BadItem that says why.

    `convert` yields media, faults, and rows as (split, task, record), and raises UserError on a bad row.
    """
    for item in rows:
        if isinstance(item, BadItem):
            yield item
            continue
        name, row = item
        try:
            made = list(convert(row))
        except UserError as error:
            yield BadItem(str(path), name, "row", str(error))
            continue
        for thing in made:
            yield RowItem(*thing, str(path), name) if isinstance(thing, tuple) else thing


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


def split_of(name: str, default: str = "train") -> str:
    """The split that an official file or split name stands for."""
    lowered = name.lower()
    for part, split in SPLIT_WORDS.items():
        if part in lowered:
            return split
    return default
