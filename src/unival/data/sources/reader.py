"""What a reader of an official data set is: a name, what lies in its folder, and one function of a row.

`rows` registers a function that turns a row of an annotation file into media and rows, under the data set's
name, both as a reader (for `unival import`) and as a source (for `prepare`). `reader` registers a function of
the whole folder, for a data set that is not files of rows.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from unival import config
from unival.data.media import Part
from unival.data.source import SOURCES, BadItem, MediaItem, RowItem, Source
from unival.data.sources.formats import BAD_ROW, Load, fault
from unival.data.sources.media_folder import MediaFolder, folder
from unival.data.sources.splits import split_of_file
from unival.errors import UserError
from unival.record import Answer, Modality, Record
from unival.registry import Registry

DATA_VARIABLE = "UNIVAL_DATA"
Item = MediaItem | RowItem | BadItem
CAPTIONING: dict[Modality, str] = {"image": "caption", "video": "video_caption", "audio": "audio_caption"}
ANSWERING: dict[Modality, str] = {"image": "vqa", "video": "video_qa", "audio": "audio_qa"}
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


OFFICIAL: dict[str, dict[str, Any]] = config.load(Path(__file__).with_name("official.yaml"))
READERS: Registry[Reader] = Registry("data set")


@dataclass(frozen=True)
class ReaderOptions:
    """Options of every reader as a source."""

    root: str | None = None
    """Folder of the data set; where null, the folder of the same name under UNIVAL_DATA."""
    text_only: bool = False
    """Captions alone, as rows of the task `text`; no medium is looked for."""
    split: str = ""
    """Split of the rows whose official one is not known; where empty, such rows are an error."""


@dataclass
class File:
    """An annotation file while its rows are read."""

    path: Path
    split: str
    """What its name or folder says, "" where they say none."""
    media: MediaFolder
    number: int = 0
    """Of the row that is read, from 0."""
    name: str = ""
    """Of the row, for messages."""

    def item(self, split: str, task: str, record: Record, size: tuple[int, int] | None = None) -> RowItem:
        """A row as it is; `size`: width and height of its picture by the annotation."""
        return RowItem(split, task, record, str(self.path), self.name, size)

    def medium(
        self, split: str, modality: Modality, key: str, name: str, part: Part | None = None
    ) -> Iterator[MediaItem | BadItem]:
        """A medium, or a part of a clip, by its file name or the stem of it, once per split."""
        for item in self.media.item(split, modality, key, name, self.path.parent):
            yield replace(item, part=part) if part and isinstance(item, MediaItem) else item

    def row(
        self, task: str, row_id: str, modality: Modality, key: str, name: str = "", split: str = "",
        size: tuple[int, int] | None = None, part: Part | None = None, **fields: Any,
    ) -> Iterator[Item]:  # fmt: skip
        """A row and its medium: `name` (else `key`) is its file name or the stem; `size`: see `item`."""
        split = split or self.split
        yield from self.medium(split, modality, key, name or key, part)
        yield self.item(split, task, Record.about(modality, key, row_id, **fields), size)

    def captions(
        self,
        modality: Modality,
        key: str,
        texts: Sequence[Any],
        name: str = "",
        row_id: str = "",
        **fields: Any,
    ) -> Iterator[Item]:
        """A row of captions; a test split may come without.

        Raises:
            UserError: no captions outside a test split, or one that is no text.
        """
        needed = fields.get("split", self.split) != "test"
        if (needed and not texts) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"expected captions, found {str(texts)[:60]}")
        references = tuple(text.strip() for text in texts)
        yield from self.row(
            CAPTIONING[modality], row_id or key, modality, key, name, references=references, **fields
        )

    def question(
        self, modality: Modality, key: str, row_id: str, text: str, answers: str | tuple[Answer, ...],
        name: str = "", **fields: Any,
    ) -> Iterator[Item]:  # fmt: skip
        """A row of a question; one answer may be given as its text."""
        answers = (Answer(answers.strip()),) if isinstance(answers, str) else answers
        yield from self.row(
            ANSWERING[modality], row_id, modality, key, name, text=text.strip(), answers=answers, **fields
        )


Convert = Callable[[Any, File], Iterable[Item]]


def rows(
    name: str, *files: str, load: Load, split: str = "", beside: bool = False, **facts: Any
) -> Callable[[Convert], Convert]:
    """Decorator: register a function (row, file) -> media, faults and rows as reader and source `name`.

    Args:
        files: patterns of the annotation files, in the folder or one below it.
        split: of files whose names tell none, for a set that has no official splits.
        beside: media are looked for beside each file, not in the whole folder.
        facts: see `reader`.
    """

    def enter(convert: Convert) -> Convert:
        reader(name, **facts)(
            partial(read_rows, files=files, load=load, convert=convert, split=split, beside=beside)
        )
        return convert

    return enter


def read_rows(
    root: Path, files: Sequence[str], load: Load, convert: Convert, split: str = "", beside: bool = False
) -> Iterator[Item]:
    """Media and rows of all files under `root` that match; a row that cannot be read is a fault with why."""
    whole = MediaFolder(root) if root.is_dir() and not beside else None
    for path in require(root, *files):
        if not path.stat().st_size:
            yield BadItem(str(path), "file", "rows", "the file is empty: get it again")
            continue
        file = File(path, split_of_file(root, path) or split, whole or MediaFolder(path.parent))
        for file.number, item in enumerate(load(path)):
            if isinstance(item, BadItem):
                yield item
                continue
            file.name, content = item
            try:
                items = list(convert(content, file))
            except BAD_ROW as error:
                items = [fault(path, file.name, error)]
            if file.number == 0 and _asks_in_vain(items):
                yield BadItem(
                    str(path), "file", "media", "has no answers, and its first medium is not there: left out"
                )
                break
            yield from items


def _asks_in_vain(items: Iterable[Item]) -> bool:
    """Whether a row is one to predict only, and its medium is missing: few have the media of a test split."""
    asks = any(
        isinstance(item, RowItem) and isinstance(item.row, Record) and not item.row.labelled for item in items
    )
    media = [item.data for item in items if isinstance(item, MediaItem)]
    return asks and any(isinstance(data, Path) and not data.is_file() for data in media)


def reader(
    name: str, *, expects: str = "", licence: str = "", counts: Mapping[str, int] | None = None
) -> Callable[[Read], Read]:
    """Decorator: register a reading function of a folder as reader and source `name`.

    Args:
        expects: what must lie under the folder, for `--help`.
        licence: of the data, for the benchmark's description.
        counts: rows of the complete set. All three are in `official.yaml` where they are not given.
    """
    facts = {"expects": expects, "licence": licence, "counts": counts or {}} if expects else OFFICIAL[name]

    def enter(read: Read) -> Read:
        entry = READERS.register(name)(Reader(name, read=read, **facts))

        def source(options: Mapping[str, Any], where: str) -> Source:
            chosen = config.build(ReaderOptions, options, where)
            root = Path(chosen.root) if chosen.root else data_folder() / name
            items = _in_split(read(root if root.is_file() else folder(root)), chosen.split, entry)
            return Source(_texts(items) if chosen.text_only else items, entry.licence)

        SOURCES.register(name)(source)
        return read

    return enter


def _in_split(items: Iterable[Item], split: str, reader: Reader) -> Iterator[Item]:
    """The items; those whose official split is not known go into the given one."""
    for item in items:
        if isinstance(item, BadItem) or item.split:
            yield item
        elif split:
            yield replace(item, split=split)
        elif isinstance(item, RowItem):  # its medium, which came before it, says less
            raise UserError(
                f"{item.file}: its split is not known: '{reader.name}' is {reader.expects}: get the file "
                "that gives it, or put all such rows in one split with --split <split>"
            )


def _texts(items: Iterable[Item]) -> Iterator[Item]:
    """Of a data set's items the captions, one row each."""
    for item in items:
        if isinstance(item, BadItem):
            yield item
        elif isinstance(item, RowItem) and isinstance(item.row, Record):
            for number, text in enumerate(item.row.references):
                row = Record(f"{item.task}-{item.row.id}-{number}", references=(text,))
                yield RowItem(item.split, "text", row, item.file, item.number)


def data_folder(root: str | None = None, *needed: str) -> Path:
    """The folder with the data sets: `root`, or the one that the environment names; `needed` are in it.

    Raises:
        UserError: UNIVAL_DATA is not set, or one of the folders is missing.
    """
    value = root or os.environ.get(DATA_VARIABLE)
    if not value:
        raise UserError(
            f"{DATA_VARIABLE} is not set: export {DATA_VARIABLE}=<folder that holds the data sets>"
        )
    for name in ("", *needed):
        folder(Path(value, name))
    return Path(value)


def found(root: Path, *patterns: str) -> list[Path]:
    """All files that match one of the patterns in `root` or a folder in it, sorted."""
    deep = (pattern for name in patterns for pattern in (name, f"*/{name}"))
    return sorted({path for pattern in deep for path in root.glob(pattern) if path.is_file()})


def require(root: Path, *patterns: str) -> list[Path]:
    """As `found`; `root` itself if it is a file.

    Raises:
        UserError: there is none.
    """
    if root.is_file():
        return [root]
    paths = found(folder(root), *patterns)
    if not paths:
        raise UserError(
            f"{root}: no file {' or '.join(patterns)}: put it there, or give the folder that holds it"
        )
    return paths
