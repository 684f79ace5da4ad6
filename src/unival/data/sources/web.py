"""Web photos with alt-text: WebDataset tars, and the lists of CC3M, CC12M and SBU with photos on disk."""

import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from unival import limits
from unival.data.media import SUFFIXES
from unival.data.source import BadItem, MediaItem, RowItem
from unival.data.sources.formats import Load, Row, csv_rows, filled, numbered
from unival.data.sources.json_stream import json_lists
from unival.data.sources.packed import DAMAGE, opened_by_magic
from unival.data.sources.reader import (
    CAPTIONING,
    File,
    Item,
    read_rows,
    reader,
    require,
    rows,
)
from unival.data.sources.splits import split_of_file
from unival.errors import UserError
from unival.record import Record


@reader("webdataset")
def read_tars(root: Path) -> Iterator[Item]:
    """One caption row per sample; image, video or sound by its suffix. One sample is held at a time."""
    for path in require(root, "*.tar"):
        try:
            with opened_by_magic(path) as handle, tarfile.open(fileobj=handle, mode="r|") as archive:
                for stem, members in groupby(_members(archive), lambda member: member[0]):
                    yield from _sample(path, split_of_file(root, path) or "train", stem, _parts(members))
        except (tarfile.TarError, *DAMAGE) as error:
            yield BadItem(str(path), "file", "shard", f"cannot read on: {error}: get it again")


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """Path without suffixes, suffix and bytes of every file."""
    for member in iter(archive.next, None):
        archive.members.clear()  # type: ignore[attr-defined]  # it would remember them all
        if member.isfile():
            parent, slash, file = member.name.rpartition("/")
            name, _, suffix = file.partition(".")
            small = member.size <= limits.MEDIUM_BYTES and not member.issparse()
            handle = archive.extractfile(member) if small else None
            yield parent + slash + name, f".{suffix.lower()}", handle.read() if handle else b""


def _parts(members: Iterable[tuple[str, str, bytes]]) -> dict[str, bytes]:
    """The files of a sample by their suffix."""
    parts, total = dict[str, bytes](), 0
    for stem, suffix, data in members:
        total += len(data)
        if total > limits.MEDIUM_BYTES:
            raise tarfile.TarError(f"sample {stem}: more than {limits.MEDIUM_BYTES} bytes")
        parts[suffix] = data
    return parts


def _sample(path: Path, split: str, stem: str, parts: dict[str, bytes]) -> Iterator[Item]:
    suffix = next((suffix for suffix in parts if suffix in SUFFIXES), None)
    if suffix is None or ".txt" not in parts:
        yield BadItem(str(path), stem, "sample", f"needs a medium and a .txt, has {', '.join(sorted(parts))}")
        return
    try:
        caption = parts[".txt"].decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        yield BadItem(str(path), stem, "txt", "not UTF-8 text")
        return
    kind, key = SUFFIXES[suffix], f"{path.stem}-{stem}".replace("/", "-")
    yield MediaItem(split, key, parts[suffix], suffix, str(path), stem)
    record = Record.about(kind, key, key, references=(caption,))
    yield RowItem(split, CAPTIONING[kind], record, str(path), stem)


def _photo(row: dict[str, str], file: File) -> Iterator[Item]:
    """A photo that was fetched under its row number (`000000012.jpg`) or the last part of its address."""
    key, url = f"{file.number:09d}", row["url"]
    name = file.media.first("image", f"{key}.jpg", key, url.rsplit("/", 1)[-1])
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


rows("cc3m", "*.tsv", load=_photo_list("caption", "url"), split="train", beside=True)(_photo)


@reader("cc12m")
def read_cc12m(root: Path) -> Iterator[Item]:
    """One row per photo, from tars where there are some."""
    if any(root.glob("*.tar")) or any(root.glob("*/*.tar")):
        yield from read_tars(root)
    else:
        yield from read_rows(root, ["*.tsv"], _photo_list("url", "caption"), _photo, "train", beside=True)


def _sbu(path: Path) -> Iterator[Row]:
    """Two lists of one file that belong together."""
    lists = [(item for _, item in json_lists(path, name)) for name in ("captions", "image_urls")]
    try:
        pairs = zip(*lists, strict=True)
        yield from numbered({"url": url, "caption": text} for text, url in pairs)
    except ValueError as error:
        raise UserError(f"{path}: captions and image_urls are not equally many") from error


rows("sbu", "*sbu*.json", load=_sbu, split="train")(_photo)
