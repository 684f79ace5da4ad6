"""A field of a dataclass as columns of a CSV file, and the text of its cells as its type."""

import csv
import dataclasses
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unival import config
from unival.errors import UserError
from unival.metrics.bootstrap import Interval

FIX = "it is damaged, or of another version: run `dvc repro`"


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a union offers; of another type, itself."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def columns(cls: type) -> dict[str, tuple[str, ...]]:
    """Field -> its columns: one of its name, for an interval three."""
    hints = typing.get_type_hints(cls)
    made: dict[str, tuple[str, ...]] = {}
    for name in (one.name for one in dataclasses.fields(cls)):
        spread = Interval in _kinds(hints[name])
        made[name] = (name, f"{name}_low", f"{name}_high") if spread else (name,)
    return made


def lines(path: Path, wanted: Collection[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """(file and line, column -> text) of every line of a table.

    Args:
        wanted: all columns that it must have.

    Raises:
        UserError: it is not a table, or has other columns.
    """
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            header = next(reader, [])
            for name in {**dict.fromkeys(wanted), **dict.fromkeys(header)} if wanted else ():
                if (count := header.count(name)) != 1 or name not in wanted:
                    problem = "no such" if not count else "an unknown" if count == 1 else "more than one such"
                    raise UserError(f"{path}: line 1: {name}: {problem} column: {FIX}")
            for cells in reader:
                place = f"{path}: line {reader.line_num}"
                if len(cells) != len(header):
                    raise UserError(f"{place}: {len(cells)} cells, {len(header)} columns: {FIX}")
                yield place, dict(zip(header, cells, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a table: {error}: {FIX}") from error


def field(hint: Any, columns: Sequence[str], line: Mapping[str, str], place: str) -> Any:
    """The cells of one field as its type.

    Raises:
        UserError: a cell of another type.
    """
    if Interval in (kinds := _kinds(hint)):
        if types.NoneType in kinds and not any(line[column] for column in columns):
            return None
        return Interval(*(value(float, line[column], f"{place}: {column}") for column in columns))
    return value(hint, line[columns[0]], f"{place}: {columns[0]}")


def value(hint: Any, text: str, where: str) -> Any:
    """A cell as its column's type.

    Raises:
        UserError: it is of another.
    """
    kinds = _kinds(hint)
    if text == "" and types.NoneType in kinds:
        return None
    try:
        return config.convert(hint, _parsed(kinds, text), where)
    except UserError as error:
        raise UserError(f"{error}: {FIX}") from error


def _parsed(kinds: Collection[type], text: str) -> Any:
    """The number that a text is, or the text as it is, for `config.convert` to refuse."""
    try:
        if bool in kinds:
            return bool(("0", "1").index(text))
        if int in kinds:
            return int(text)
        if float in kinds and math.isfinite(float(text)):
            return float(text)
    except ValueError:
        pass
    return text
