"""Rows on disk: one Parquet file per split and task, whose columns are the fields of `Record`.

`ManifestWriter` writes it, `read_records` gives it back as a sequence. `check_row` is the one place where a
row from anywhere (a generator, a file of the user) becomes a `Record` or a list of reasons why not.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unival.data.table import TableWriter
from unival.errors import UserError, nearest
from unival.record import MODALITIES, Answer, Record, is_unicode

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("video", pa.string()),
        ("audio", pa.string()),
        ("text", pa.string()),
        ("references", pa.list_(pa.string())),
        ("answers", pa.list_(pa.struct([("text", pa.string()), ("weight", pa.float64())]))),
        ("box", pa.list_(pa.float64())),
        ("objects", pa.list_(pa.string())),
        ("form", pa.string()),
        ("facts", pa.string()),
        ("extra", pa.string()),
    ]
)
FIELDS = tuple(field.name for field in fields(Record))
assert tuple(SCHEMA.names) == FIELDS
_STRINGS = ("id", "text", "form", "facts")
_STRING_LISTS = ("references", "objects")
AT_ONCE = 1024
"""Rows that are made together."""
MAX_NUMBER = 1e9
"""Nothing in a row is larger; areas of such boxes still are finite."""


def manifest_path(split_dir: Path | str, task: str) -> Path:
    """Where the rows of a task lie."""
    return Path(split_dir) / f"{task}.parquet"


def check_row(row: Record | Mapping[str, Any]) -> tuple[Record | None, list[tuple[str, str]]]:
    """Turn a mapping or a Record into a checked Record; otherwise (None, all problems as (field, reason))."""
    if isinstance(row, Record):
        row = {name: given for name in FIELDS if (given := getattr(row, name))}
    problems = [(key, f"unknown field: {nearest(str(key), FIELDS)}") for key in row if key not in FIELDS]
    values: dict[str, Any] = {}
    for name in FIELDS:
        if name not in row or row[name] is None:
            continue
        try:
            values[name] = _CHECKS[name](row[name])
        except (TypeError, ValueError) as error:
            problems.append((name, str(error)))
    if not values.get("id") and not any(name == "id" for name, _ in problems):
        problems.append(("id", "missing"))
    return (None, problems) if problems else (Record(**values), [])


def check_text(value: Any) -> str:
    """The value itself where it is text that can be written.

    Raises:
        TypeError, ValueError: it is none, and why.
    """
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {type(value).__name__} {str(value)[:40]!r}")
    if "\x00" in value:
        raise ValueError("holds a zero byte")
    if not is_unicode(value):
        raise ValueError("holds half of a character, or a byte that is not UTF-8")
    return value


def _key(value: Any) -> str:
    if not check_text(value):
        raise ValueError("empty media key")
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"expected a list of texts, found {type(value).__name__}")
    return tuple(map(check_text, value))


def _answers(value: Any) -> tuple[Answer, ...]:
    """The answers that say something: one of many annotators may have left the field blank."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"expected a list of answers, found {type(value).__name__}")
    answers = []
    for item in value:
        if isinstance(item, Mapping):
            item = Answer(item.get("text", None), item.get("weight", 1.0))  # type: ignore[arg-type]
        if not isinstance(item, Answer):
            raise TypeError(f"expected {{text, weight}}, found {type(item).__name__} {str(item)[:40]!r}")
        weight = check_number(item.weight)
        if not 0 < weight <= 1:
            raise ValueError(f"answer weight {weight} is outside (0, 1]")
        answers.append(Answer(check_text(item.text), weight))
    kept = tuple(answer for answer in answers if answer.text.strip())
    if answers and not kept:
        raise ValueError("an empty answer")
    return kept


def _box(value: Any) -> tuple[float, float, float, float]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 4:
        raise TypeError(f"expected [x0, y0, x1, y1], found {str(value)[:60]!r}")
    x0, y0, x1, y1 = map(check_number, value)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"not a box: [{x0}, {y0}, {x1}, {y1}] needs x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def check_number(value: Any) -> float:
    """The value as a float where it is a number that a float can hold.

    Raises:
        TypeError, ValueError: it is none, and why.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {type(value).__name__} {str(value)[:40]!r}")
    if not abs(value) <= MAX_NUMBER:
        raise ValueError(f"not a number of a sensible size: {str(value)[:40]}")
    return float(value)


def _extra(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected a mapping, found {type(value).__name__}")
    return {check_text(key): check_text(item) for key, item in value.items()}


_CHECKS: dict[str, Any] = {
    **dict.fromkeys(_STRINGS, check_text),
    **dict.fromkeys(MODALITIES, _key),
    **dict.fromkeys(_STRING_LISTS, _strings),
    "answers": _answers,
    "box": _box,
    "extra": _extra,
}


def _to_row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(record, name) for name in FIELDS}
    row["answers"] = [{"text": answer.text, "weight": answer.weight} for answer in record.answers]
    row["extra"] = json.dumps(record.extra, sort_keys=True, ensure_ascii=False) if record.extra else ""
    return row


class ManifestWriter(TableWriter):
    """Writes the rows of one split and task."""

    def __init__(self, split_dir: Path | str, task: str) -> None:
        super().__init__(manifest_path(split_dir, task), SCHEMA)

    def add(self, record: Record) -> None:
        """Append a row (its id is the caller's to keep unique)."""
        self.write(_to_row(record))


class Records(Sequence[Record]):
    """The rows of a manifest as a sequence: columns stay in Arrow, a Record is made when asked for."""

    def __init__(self, table: pa.Table, path: Path) -> None:
        self.path = path
        self._columns = [table.column(name).combine_chunks() for name in FIELDS]
        self._length = table.num_rows

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            places = range(*index.indices(self._length))
            whole = places.step == 1
            return list(self._made(places.start, places.stop)) if whole else [self[place] for place in places]
        place = index + self._length if index < 0 else index  # from the end
        if not 0 <= place < self._length:
            raise IndexError(f"row {index} of {self._length} in {self.path}")
        return next(self._made(place, place + 1))

    def _made(self, start: int, stop: int) -> Iterator[Record]:
        """The rows of a range; many at once take half the time that they take one by one."""
        for first in range(start, stop, AT_ONCE):
            count = min(AT_ONCE, stop - first)
            columns = [column.slice(first, count).to_pylist() for column in self._columns]
            yield from map(_record, zip(*columns, strict=True))

    def __iter__(self) -> Iterator[Record]:
        return self._made(0, self._length)

    def column(self, name: str) -> list[Any]:
        """All values of one field as plain Python values (`ids` is `column("id")`)."""
        return self._columns[FIELDS.index(name)].to_pylist()

    def lengths(self, name: str) -> np.ndarray:
        """Number of entries of a list field in every row, int64 (rows,)."""
        lengths = pc.fill_null(pc.list_value_length(self._columns[FIELDS.index(name)]), 0)
        return np.asarray(lengths, dtype=np.int64)

    @property
    def ids(self) -> list[str]:
        """Row ids, in row order."""
        return self.column("id")


def _record(values: tuple[Any, ...]) -> Record:
    """A row of a manifest from its fields."""
    row = dict(zip(FIELDS, values, strict=True))
    row["references"] = tuple(row["references"] or ())
    row["objects"] = tuple(row["objects"] or ())
    row["answers"] = tuple(Answer(item["text"], item["weight"]) for item in row["answers"] or ())
    row["box"] = tuple(row["box"]) if row["box"] is not None else None
    row["extra"] = json.loads(row["extra"]) if row["extra"] else {}
    return Record(**row)


def read_records(split_dir: Path | str, task: str) -> Records:
    """Open the rows of a split and task.

    Raises:
        UserError: the file is missing, is no Parquet file, or has an unknown, missing or mistyped column.
    """
    path = manifest_path(split_dir, task)
    if not path.is_file():
        splits = sorted(item.parent.name for item in path.parent.glob(f"*/{path.name}"))
        tasks = sorted(item.stem for item in path.parent.glob("*.parquet") if item.stem != "media")
        hint = f"tasks there: {', '.join(tasks)}" if tasks else "run `unival run prepare` first"
        hint = f"give one of its splits: {', '.join(splits)}" if splits else hint
        raise UserError(f"{path}: no rows of task '{task}': {hint}")
    try:
        table = pq.read_table(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error
    for name in table.schema.names:
        if name not in FIELDS:
            raise UserError(f"{path}: unknown column '{name}': {nearest(name, FIELDS)}")
    for field in SCHEMA:
        if field.name not in table.schema.names:
            raise UserError(f"{path}: missing column '{field.name}': write it with ManifestWriter")
    try:
        return Records(table.select(list(FIELDS)).cast(SCHEMA), path)
    except pa.ArrowException as error:
        raise UserError(f"{path}: a column has the wrong type: {str(error).splitlines()[0]}") from error
