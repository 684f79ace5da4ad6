"""Captions without their media, from loose files: rows of the task `text`, for vocabularies and language."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unival.data.source import BadItem
from unival.data.sources.coco import captions_by_image
from unival.data.sources.reader import (
    Item,
    Made,
    each,
    numbered,
    read_csv,
    read_json,
    reader,
    require,
    split_of,
    value,
)
from unival.record import Record


@reader(
    "text_captions",
    expects="captions of absent media: COCO or MSVD JSON, CSV with a column `caption` (or one such file)",
    licence="as its owner says",
)
def read(root: Path) -> Iterator[Item]:
    """One row of the task `text` per caption."""
    for path in [root] if root.is_file() else require(root, "*.json", "*.csv", "*.txt"):
        yield from _json(path) if path.suffix == ".json" else _csv(path)


def _csv(path: Path) -> Iterator[Item]:
    split = split_of(path.stem)

    def convert(row: tuple[int, dict[str, str]]) -> Iterator[Made]:
        number, cells = row
        yield split, "text", Record(f"{path.stem}-{number}", references=(cells["caption"].strip(),))

    rows = read_csv(path, ("caption",))
    named = (i if isinstance(i, BadItem) else (i[0], (n, i[1])) for n, i in enumerate(rows))
    yield from each(path, named, convert)


def _json(path: Path) -> Iterator[Item]:
    split, content = split_of(path.stem), read_json(path)
    if isinstance(content, dict):
        _, captions, faults = captions_by_image(path)
        for fault in faults:
            where, _, reason = fault.partition(": ")
            yield BadItem(str(path), where, "row", reason)
        groups: Any = captions.items()
    else:  # MSVD's list of {id, caption: [...]}
        groups = ((value(row, "id"), value(row, "caption", list)) for row in content)

    def convert(group: tuple[Any, list[str]]) -> Iterator[Made]:
        for number, caption in enumerate(group[1]):
            yield split, "text", Record(f"{group[0]}-{number}", references=(caption.strip(),))

    yield from each(path, numbered(groups, "group"), convert)
