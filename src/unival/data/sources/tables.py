"""Files of our own fields: JSON lines, CSV or Parquet, one file per split and task."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unival.data.manifest import check_row
from unival.data.sources.formats import Row, changed, csv_rows, jsonl_rows, size_of
from unival.data.sources.reader import File, Item, rows
from unival.errors import UserError
from unival.record import MEDIA

SIZE = ("width", "height")
"""Of the picture that a box was drawn in."""
LISTS = ("references", "answers", "box", "objects", "extra", *SIZE)
"""Fields that a CSV holds as JSON."""


SPLIT = re.compile(r"train|val|test(A|B|dev)?|ood-.+")


def _place(path: Path) -> tuple[str, str]:
    """Split and task from `<split>/<task>.<suffix>` or `<split>_<task>.<suffix>`.

    Raises:
        UserError: neither is a split.
    """
    split, _, task = path.stem.partition("_")
    if SPLIT.fullmatch(path.parent.name):
        return path.parent.name, path.stem
    if not task or not SPLIT.fullmatch(split):
        raise UserError(f"{path}: name it <split>/<task> or <split>_<task>: train, val, test or ood-<shift>")
    return split, task


def _load(path: Path) -> Iterable[Row]:
    _place(path)
    if path.suffix == ".csv":
        return changed(path, csv_rows("id")(path), _unpacked)
    return jsonl_rows(path) if path.suffix == ".jsonl" else read_parquet(path)


def _unpacked(row: dict[str, str]) -> dict[str, Any]:
    try:
        return {name: json.loads(text) if name in LISTS else text for name, text in row.items() if text}
    except ValueError as error:
        raise UserError(f"{', '.join(LISTS)} are written as JSON: {error}") from error


def read_parquet(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, a group at a time.

    Raises:
        UserError: not a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(4096):
            for row in batch.to_pylist():
                yield f"row {number}", row
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error


@rows("table", "*.jsonl", "*.csv", "*.parquet", load=_load)
def _table(row: Any, file: File) -> Iterator[Item]:
    """Rows as they are; image, video and audio are file names anywhere under the folder."""
    if not isinstance(row, dict):
        raise UserError(f"expected an object, found {type(row).__name__}")
    if isinstance(row.get("extra"), str):
        row = {**row, "extra": json.loads(row["extra"] or "{}")}
    fields = {key: cell for key, cell in row.items() if cell is not None and key not in SIZE}
    record, problems = check_row(fields)
    if record is None:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in problems))
    split, task = _place(file.path)
    for medium in MEDIA:
        key = getattr(record, medium)
        if key is not None:
            yield from file.medium(split, medium, key, key)
    yield file.item(split, task, record, size_of(row))
