"""Rows of one's own: JSON lines, CSV or Parquet.

Two kinds of files. With the fields of a record, a file holds one task of one split: `<split>/<task>.<suffix>`
or `<split>_<task>.<suffix>`. With plain columns (PLAIN) the columns say the task: `image,caption`,
`image,question,answer`, `audio,label`; the captions of one medium are one row.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from unival import limits
from unival.data.intake import NEEDS
from unival.data.manifest import FIELDS, check_row
from unival.data.source import BadItem
from unival.data.sources.formats import Load, Row, changed, csv_rows, grouped, jsonl_rows, size_of
from unival.data.sources.reader import ANSWERING, CAPTIONING, File, Item, rows
from unival.data.sources.splits import split_of
from unival.errors import UserError, nearest
from unival.record import MODALITIES, Modality, Record

PLAIN = {"question": "text", "caption": "references", "answer": "answers", "label": "answers"}
"""Columns by their usual names -> fields of a record."""
QUESTIONS: dict[Modality, str] = {
    "image": "what is it?",
    "video": "what is it?",
    "audio": "which sound is it?",
}
"""What a label answers."""
SIZE = ("width", "height")
"""Of the picture that a box was drawn in."""
LISTS = ("references", "answers", "objects")
"""Fields that hold several: a JSON list, or one text."""
SPLIT = re.compile(r"train|val|test(A|B|dev)?|ood-.+")


def _place(path: Path) -> tuple[str, str]:
    """Split and task that the name of a file says, "" where it says none."""
    split, _, task = path.stem.partition("_")
    if SPLIT.fullmatch(path.parent.name):
        return path.parent.name, path.stem
    if SPLIT.fullmatch(split):
        return split, task
    return split_of(f"{path.parent.name}/{path.stem}"), path.stem if path.stem in NEEDS else ""


def _load(path: Path) -> Iterable[Row]:
    """The file's rows; of plain captions one per medium."""
    if path.suffix not in LOADERS:
        raise UserError(f"{path}: no table: give a file of {', '.join(LOADERS)}, or a folder of them")
    load: Load = LOADERS[path.suffix]
    first = next((item[1] for item in load(path) if not isinstance(item, BadItem)), None)
    if not isinstance(first, dict) or "caption" not in first or "id" in first:
        return load(path)
    captions = grouped(load, _medium, lambda row: row.get("caption") or "")
    return changed(path, captions(path), lambda row: {**row[0], "caption": row[1]})


def _medium(row: Any) -> list[Any]:
    return [row.get(modality) for modality in MODALITIES]


def _csv(path: Path) -> Iterable[Row]:
    return changed(path, csv_rows()(path), lambda row: {name: _cell(name, row[name]) for name in row})


def _cell(name: str, text: str) -> Any:
    """What a cell of a CSV holds; None where it is empty."""
    field, listed = PLAIN.get(name, name), text.lstrip().startswith(("[", "{"))
    if not text.strip():
        return None
    if name == "caption" or field not in (*LISTS, "box", "extra", *SIZE) or (field in LISTS and not listed):
        return text
    try:
        return json.loads(f"[{text}]" if field == "box" and not listed else text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"field '{name}': not JSON: {error}") from error


def read_parquet(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, a group at a time.

    Raises:
        UserError: not a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number, file = 0, pq.ParquetFile(path)
        for batch in file.iter_batches(_rows_at_once(path, file.metadata)):
            for row in batch.to_pylist():
                yield f"row {number}", row
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error


def _rows_at_once(path: Path, metadata: Any) -> int:
    """So many that their texts fit into memory: a few bytes can stand for a long text in every row.

    Raises:
        UserError: lists of a column hold too many elements.
    """
    largest = 1
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.num_values > limits.TABLE_VALUES:
                raise UserError(f"{path}: '{column.path_in_schema}': more than {limits.TABLE_VALUES} values")
            largest = max(largest, column.total_uncompressed_size)
    return max(1, min(4096, limits.UNPACKED_BYTES // largest))


LOADERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    ".csv": _csv,
    ".jsonl": jsonl_rows,
    ".parquet": read_parquet,
}


@rows("table", "*.jsonl", "*.csv", "*.parquet", load=_load)
def _table(row: Any, file: File) -> Iterator[Item]:
    """Rows as they are; image, video and audio are file names anywhere under the folder."""
    if not isinstance(row, dict):
        raise UserError(f"expected an object, found {type(row).__name__}")
    plain = bool(PLAIN.keys() & row.keys())
    fields = _fields({key: cell for key, cell in row.items() if cell is not None and key not in SIZE})
    fields.setdefault("id", f"{file.path.stem}-{file.number}")
    record, problems = check_row(fields)
    if record is None:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in problems))
    split, task = _place(file.path)
    if plain and task not in NEEDS:
        task = _task(record)
    if not task:
        raise UserError(
            f"{file.path.name} says no task, nor do its columns ({', '.join(PLAIN)}): name it <split>_<task>"
        )
    for modality, key in record.media():
        yield from file.medium(split, modality, key, key)
    yield file.item(split, task, record, size_of(row))


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    """The row by the names of a record's fields; one text stands for a list of it."""
    fields = dict[str, Any]()
    for name, cell in row.items():
        field = PLAIN.get(name, name)
        if field not in FIELDS:
            split = next((mark for mark in ";\t|" if mark in name), None)
            hint = f"write commas, not {split!r}" if split else nearest(name.lower(), (*FIELDS, *PLAIN))
            raise UserError(f"{name}: unknown field: {hint}")
        if field in fields:
            raise UserError(f"'{name}' and another column are both the field '{field}'")
        fields[field] = [cell] if field in LISTS and isinstance(cell, str) else cell
    if "label" in row and "text" not in fields:
        fields["text"] = next((QUESTIONS[modality] for modality in MODALITIES if row.get(modality)), "")
    if isinstance(answers := fields.get("answers"), list):
        fields["answers"] = [{"text": item} if isinstance(item, str) else item for item in answers]
    if isinstance(fields.get("extra"), str):
        fields["extra"] = json.loads(fields["extra"] or "{}")
    return fields


def _task(record: Record) -> str:
    """What a row of plain columns is for."""
    modality = next((modality for modality, _ in record.media()), None)
    if modality is None:
        raise UserError(f"no medium: give a column {', '.join(MODALITIES)}")
    if record.box:
        return "grounding"
    return ANSWERING[modality] if record.answers else CAPTIONING[modality]
