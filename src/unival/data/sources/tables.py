"""Files of our own fields: JSON lines, CSV or Parquet, one file per split and task."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unival.data.manifest import TASKS, check_row
from unival.data.source import BadItem
from unival.data.sources.media_folder import MediaFolder
from unival.data.sources.reader import Item, Made, Row, each, read_csv, read_jsonl, reader, require
from unival.errors import UserError
from unival.record import MEDIA

LISTS = ("references", "answers", "box", "objects", "extra")
"""Fields that a CSV holds as JSON."""
PATTERNS = tuple(f"{depth}*.{suffix}" for depth in ("", "*/") for suffix in ("jsonl", "csv", "parquet"))


def _place(path: Path) -> tuple[str, str]:
    """Split and task from `<split>/<task>.<suffix>` or `<split>_<task>.<suffix>`.

    Raises:
        UserError: the name says neither.
    """
    stem = path.stem
    if stem in TASKS:
        return path.parent.name, stem
    for task in sorted(TASKS, key=len, reverse=True):
        if stem.endswith(f"_{task}"):
            return stem.removesuffix(f"_{task}"), task
    names = f"<split>/<task>{path.suffix} or <split>_<task>{path.suffix}"
    raise UserError(f"{path}: name it {names}: tasks: {', '.join(TASKS)}")


def _rows(path: Path) -> Iterable[Row]:
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    return read_parquet(path) if path.suffix == ".parquet" else _from_csv(path)


def _from_csv(path: Path) -> Iterator[Row]:
    for item in read_csv(path, ("id",)):
        if isinstance(item, BadItem):
            yield item
            continue
        line, row = item
        try:
            cells = {name: text for name, text in row.items() if text}
            yield line, {name: json.loads(text) if name in LISTS else text for name, text in cells.items()}
        except ValueError as error:
            yield BadItem(str(path), line, "row", f"{', '.join(LISTS)} are written as JSON: {error}")


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


@reader(
    "table",
    expects="<split>/<task>.jsonl, .csv or .parquet with a record's fields, media by file name beside",
    licence="as its owner says",
)
def read(root: Path) -> Iterator[Item]:
    """Rows as they are; image, video and audio are file names anywhere under the folder."""
    media = MediaFolder(root)
    for path in require(root, *PATTERNS):
        split, task = _place(path)

        def convert(row: Any, split: str = split, task: str = task) -> Iterator[Made]:
            if not isinstance(row, dict):
                raise UserError(f"expected an object, found {type(row).__name__}")
            if isinstance(row.get("extra"), str):
                row = {**row, "extra": json.loads(row["extra"] or "{}")}
            record, problems = check_row({key: cell for key, cell in row.items() if cell is not None})
            if record is None:
                raise UserError("; ".join(f"{name}: {reason}" for name, reason in problems))
            for name in MEDIA:
                key = getattr(record, name)
                if key is not None:
                    yield from media.item(split, key, key)
            yield split, task, record

        yield from each(path, _rows(path), convert)
