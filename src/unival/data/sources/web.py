"""Web photos with alt-text: WebDataset tars, and the lists of CC3M, CC12M and SBU with photos on disk."""

import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from unival.data.media import SUFFIXES
from unival.data.source import BadItem, MediaItem, RowItem
from unival.data.sources.formats import Load, Row, csv_rows, filled, numbered
from unival.data.sources.json_stream import json_lists
from unival.data.sources.reader import (
    CAPTIONING,
    File,
    Item,
    Made,
    read_rows,
    reader,
    require,
    rows,
    split_of,
)
from unival.errors import UserError
from unival.record import Record

MAX_MEMBER_BYTES = 1024**3
WEB = "text free for any use; photos belong to their owners"


@reader("webdataset")
def read_tars(root: Path) -> Iterator[Item]:
    """One caption row per sample; image, video or sound by its suffix. One sample is held at a time."""
    for path in require(root, "*.tar"):
        split = split_of(path.stem if path == root else str(path.relative_to(root).with_suffix("")))
        try:
            with tarfile.open(path, "r|*") as archive:
                for stem, parts in _samples(archive):
                    yield from _sample(path, split, stem, parts)
        except (tarfile.TarError, EOFError, OSError) as error:
            yield BadItem(str(path), "file", "shard", f"cannot read on: {error}: get it again")


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Path without suffixes, and suffix -> bytes, of members that follow each other."""
    stem, parts = "", dict[str, bytes]()
    for member in iter(archive.next, None):
        archive.members.clear()  # type: ignore[attr-defined]  # it would remember them all
        if not member.isfile():
            continue
        parent, slash, file = member.name.rpartition("/")
        name, _, suffix = file.partition(".")
        if parent + slash + name != stem and parts:
            yield stem, parts
            parts = {}
        stem = parent + slash + name
        handle = archive.extractfile(member) if member.size <= MAX_MEMBER_BYTES else None
        parts[f".{suffix.lower()}"] = handle.read() if handle else b""
    if parts:
        yield stem, parts


def _sample(path: Path, split: str, stem: str, parts: dict[str, bytes]) -> Iterator[Item]:
    suffix = next((suffix for suffix in parts if suffix in SUFFIXES), None)
    if suffix is None or ".txt" not in parts:
        yield BadItem(str(path), stem, "sample", f"needs a medium and a .txt, has {', '.join(sorted(parts))}")
        return
    try:
        caption = parts[".txt"].decode("utf-8").strip()
    except UnicodeDecodeError:
        yield BadItem(str(path), stem, "txt", "not UTF-8 text")
        return
    kind, key = SUFFIXES[suffix], f"{path.stem}-{stem}".replace("/", "-")
    yield MediaItem(split, key, parts[suffix], suffix, str(path), stem)
    record = Record(key, references=(caption,), **{kind: key})  # type: ignore[arg-type]
    yield RowItem(split, CAPTIONING[kind], record, str(path), stem)


def _photo(row: dict[str, str], file: File) -> Iterator[Made]:
    """A photo that was fetched under its row number (`000000012.jpg`) or the last part of its address."""
    key, url = f"{file.number:09d}", row["url"]
    name = key if key in file.media else url.rsplit("/", 1)[-1]
    yield from file.captions("image", key, [filled(row["caption"])], name, extra={"url": url})


def _photo_list(*names: str) -> Load:
    """Loader of a list whose row numbers name the photos in its folder: it must be the only one there."""

    def load(path: Path) -> Iterable[Row]:
        for other in path.parent.glob("*.tsv"):
            if other != path:
                raise UserError(
                    f"{path} and {other.name} both number the photos of their folder: give each list a "
                    "folder of its own, with its photos"
                )
        return csv_rows(delimiter="\t", names=names)(path)

    return load


rows("cc3m", "*.tsv", load=_photo_list("caption", "url"), beside=True)(_photo)


@reader("cc12m")
def read_cc12m(root: Path) -> Iterator[Item]:
    """One row per photo, from tars where there are some."""
    if any(root.glob("*.tar")) or any(root.glob("*/*.tar")):
        yield from read_tars(root)
    else:
        yield from read_rows(root, ["*.tsv"], _photo_list("url", "caption"), _photo, beside=True)


def _sbu(path: Path) -> Iterator[Row]:
    """Two lists of one file that belong together."""
    lists = [(item for _, item in json_lists(path, name)) for name in ("captions", "image_urls")]
    try:
        pairs = zip(*lists, strict=True)
        yield from numbered({"url": url, "caption": text} for text, url in pairs)
    except ValueError as error:
        raise UserError(f"{path}: captions and image_urls are not equally many") from error


rows("sbu", "*sbu*.json", load=_sbu)(_photo)
