"""Annotation files as rows: JSON, JSON lines, CSV, text; every fault names file and row.

A loader takes a path and gives (name of the row, its content), or a BadItem for a row it cannot read.
"""

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unival import limits
from unival.data.disk_map import DiskMap, Groups
from unival.data.source import BadItem
from unival.data.sources.json_stream import NOT_TEXT, json_lists, json_values, open_text
from unival.data.sources.packed import DAMAGE, unreadable
from unival.errors import UserError, nearest
from unival.record import is_unicode

Row = tuple[str, Any] | BadItem
"""Name of a row in its file, and its content."""
Load = Callable[[Path], Iterable[Row]]
ID = (int, str)
BAD_ROW = (UserError, TypeError, ValueError, LookupError, AttributeError, RecursionError)
"""What reading a row may raise: our own words, or whatever a value of a surprising form leads to."""


def numbered(rows: Iterable[Any], name: str = "row {}") -> Iterator[Row]:
    """Rows of a list with their position in their name."""
    return ((name.format(number), row) for number, row in enumerate(rows))


def json_rows(name: str = "row {}", under: str = "") -> Load:
    """Loader of a JSON list, or of the list `under` a key of an object.

    Args:
        name: of a row, by its position.
    """

    def load(path: Path) -> Iterator[Row]:
        values = (row for _, row in json_lists(path, under)) if under else json_values(path)
        return numbered(values, name)

    return load


def json_pairs(path: Path) -> Iterator[Row]:
    """The (key, value) pairs of a JSON object."""
    return numbered(json_values(path, "{"))


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, one at a time; bytes that are not UTF-8 become surrogates."""
    try:
        with open_text(path) as handle:
            for number in itertools.count(1):
                line = handle.readline(limits.LINE_CHARS + 1)
                if not line:
                    return
                if len(line) > limits.LINE_CHARS:
                    raise UserError(f"{path}: line {number}: more than {limits.LINE_CHARS} characters")
                yield line
    except DAMAGE as error:
        raise unreadable(path, error) from error


def line_rows(path: Path) -> Iterator[Row]:
    """The lines of a text file that are not blank, without their ends."""
    for number, line in enumerate(_lines(path), 1):
        if not is_unicode(line):
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

    Quotes mean something between commas only: the official files with tabs or bars have them as plain text.

    Args:
        columns: columns that the header must have.
        names: the header, where the file has none.
    """
    return partial(_csv, columns=columns, delimiter=delimiter, names=names)


def _csv(path: Path, columns: tuple[str, ...], delimiter: str, names: tuple[str, ...]) -> Iterator[Row]:
    plain = delimiter != ","
    rows = csv.reader(
        _lines(path), delimiter=delimiter, strict=True,
        quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
    )  # fmt: skip
    ended = 0
    try:
        header = list(names) or [name.strip() for name in next(rows, [])]
        for column in columns:
            if column not in header:
                raise UserError(f"{path}: no column '{column}': {nearest(column, header)}")
        for column in filter(None, header):
            if header.count(column) > 1:
                raise UserError(f"{path}: column '{column}' comes twice: rename or remove one")
        ended = rows.line_num
        for values in rows:
            ended = rows.line_num
            name = f"line {ended}"
            if not is_unicode("".join(values)):
                yield BadItem(str(path), name, "row", NOT_TEXT)
            elif len(values) == len(header):
                yield name, dict(zip(header, values, strict=True))
            elif values:
                reason = f"{len(values)} fields, and there are {len(header)} columns"
                yield BadItem(str(path), name, "row", reason)
    except csv.Error as error:
        fix = "close every quote, and write one inside quotes twice"  # else it takes in the rows that follow
        raise UserError(f"{path}: line {ended + 1}: not CSV: {error}: {fix}") from error


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


def grouped(load: Load, key: Callable[[Any], Any], text: Callable[[Any], str]) -> Load:
    """Loader of one row per key: the first row of it and all its texts as (row, texts)."""

    def gather(path: Path) -> Iterator[Row]:
        groups = Groups()
        pairs = changed(path, load(path), lambda row: (key(row), row, filled(text(row))))
        for item in pairs:
            if isinstance(item, BadItem):
                yield item
            else:
                name, (owner, row, caption) = item
                groups.add(owner, (name, row, caption))
        for _, rows in groups:
            yield rows[0][0], (rows[0][1], [caption for _, _, caption in rows])

    return gather


def captioned(one: str, one_id: str, many: str, many_id: str) -> Load:
    """Loader of a JSON with two lists: rows of `one` as (row, captions that rows of `many` give for it)."""

    def load(path: Path) -> Iterator[Row]:
        things, texts, used = DiskMap(), Groups(), DiskMap()

        def owner(row: Any) -> None:
            key, content = json.dumps(value(row, one_id, ID)), json.dumps(row)
            if not things.add(key, content) and things.get(key) != content:
                raise UserError(f"{one_id} {row[one_id]} appears twice, with different content")

        def text(row: Any) -> None:
            key, caption = value(row, many_id, ID), filled(value(row, "caption"))
            if json.dumps(key) not in things:
                raise UserError(f"{many_id} {key} is not in '{one}'")
            texts.add(key, caption)

        for name, take in ((one, owner), (many, text)):
            items = changed(path, json_rows(f"{name}[{{}}]", name)(path), take)
            yield from (item for item in items if isinstance(item, BadItem))
        for key, captions in texts:
            used.add(json.dumps(key))
            yield f"{one_id} {key}", (json.loads(things.get(json.dumps(key)) or ""), captions)
        for key in things:
            if key not in used:
                yield BadItem(str(path), f"{one_id} {json.loads(key)}", "row", "has no caption")

    return load


def size_of(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of a picture by its annotation, None where it does not tell both."""
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def by_id(path: Path, lists: Mapping[str, str], fields: Sequence[str] = ()) -> Callable[[str, Any], Any]:
    """Rows of lists in a JSON object, kept on disk: a function (list, id) -> the row, or None.

    Args:
        lists: name of a list -> field that holds the id.
        fields: what to keep of a row; all where empty.

    Raises:
        UserError: an id appears twice, with different content.
    """
    rows = DiskMap()
    for name, row in json_lists(path, *lists):
        if isinstance(row, dict):
            kept = json.dumps({field: row[field] for field in fields or row if field in row})
            key = f"{name} {row.get(lists[name])}"
            if not rows.add(key, kept) and rows.get(key) != kept:
                raise UserError(f"{path}: {lists[name]} of {key} appears twice, with different content")

    def find(name: str, row_id: Any) -> Any:
        row = rows.get(f"{name} {row_id}")
        return None if row is None else json.loads(row)

    return find


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
    content = row[key]
    if not isinstance(content, kind) or isinstance(content, bool):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise UserError(f"field '{key}' should be {names}, found {str(content)[:40]!r}")
    return content
