"""What a data source is: a stream of media and rows, each saying where it came from.

A source is registered under a name; `prepare` checks what it yields and writes it. Generated and imported
data take this one path. Media come before the rows that use them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unival.data import media
from unival.files import read_bytes
from unival.record import Modality, Record
from unival.registry import Registry


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One image, video or sound of a split: its encoded bytes, or the file that holds them."""

    split: str
    key: str
    """Unique within the split; rows refer to it."""
    data: bytes | Path
    suffix: str = ""
    """File suffix with its dot (.png); a path's own suffix where empty."""
    file: str = ""
    """Where it came from, for messages; the path itself where empty."""
    row: str = ""
    read_as: Modality | None = None
    """What it is read as, where its suffix alone does not say: a clip (.mp4) may be wanted as a sound."""
    part: media.Part | None = None
    """What of a clip is meant, in seconds; all of it where None."""

    @property
    def modality(self) -> Modality:
        """What it is read as.

        Raises:
            UserError: its suffix is unknown.
        """
        return self.read_as or media.modality_of(self.ending, self.origin)

    @property
    def origin(self) -> str:
        """The file that it came from, for messages."""
        return self.file or str(self.data if isinstance(self.data, Path) else self.split)

    @property
    def ending(self) -> str:
        """The suffix that tells what it is, in small letters."""
        return (self.suffix or (self.data.suffix if isinstance(self.data, Path) else "")).lower()

    def read(self) -> bytes:
        """Its encoded bytes.

        Raises:
            UserError: the file cannot be read.
        """
        return self.data if isinstance(self.data, bytes) else read_bytes(self.data)


@dataclass(frozen=True, slots=True)
class RowItem:
    """One row of a task: a Record, or a mapping with (some of) its fields that still has to be checked."""

    split: str
    task: str
    row: Record | Mapping[str, Any]
    file: str = ""
    """The file that the row was read from, for messages."""
    number: str = ""
    """Its line, index or id in that file."""
    size: tuple[int, int] | None = None
    """Width and height, by the annotation, of the picture that its box lies in; None where it tells none."""


def rows_about(
    split: str, modality: Modality, key: str, file: str = "", **shared: Any
) -> Callable[..., RowItem]:
    """A function (task, end of the id, fields of the record) -> row about one medium; `shared` are in all."""

    def row(task: str, end: str = "", **fields: Any) -> RowItem:
        record = Record.about(modality, key, key + end, **shared, **fields)
        return RowItem(split, task, record, file or f"{split}/{task}", record.id)

    return row


@dataclass(frozen=True, slots=True)
class BadItem:
    """Something the source could not read at all: it goes into the rejected table."""

    file: str
    row: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """A stream of items, and what the benchmark's description says about it."""

    items: Iterable[MediaItem | RowItem | BadItem]
    licence: str
    info: Mapping[str, Any] = field(default_factory=dict)
    """Goes into benchmark.json as it is (sizes, original names)."""


SOURCES: Registry[Callable[[Mapping[str, Any], str], Source]] = Registry("data source")
"""Name -> function (options, where the options stand) -> Source. It builds its own typed options."""
