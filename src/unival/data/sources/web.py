"""Web photos with alt-text: WebDataset tars, and the lists of CC3M, CC12M and SBU with photos on disk."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unival.data.media import SUFFIXES
from unival.data.source import BadItem, MediaItem, RowItem
from unival.data.sources.media_folder import MediaFolder
from unival.data.sources.reader import (
    Item,
    Made,
    Row,
    each,
    read_csv,
    read_json,
    reader,
    require,
    split_of,
)
from unival.errors import UserError
from unival.record import Record

TASK_OF = {"image": "caption", "video": "video_caption", "audio": "audio_caption"}
MAX_MEMBER_BYTES = 1024**3


@reader(
    "webdataset",
    expects="*.tar shards whose samples are <key>.<media suffix>, <key>.txt and perhaps <key>.json",
    licence="as its owner says",
)
def read_tars(root: Path) -> Iterator[Item]:
    """One caption row per sample; image, video or sound by its suffix. One sample is held at a time."""
    for path in require(root, "*.tar", "*/*.tar"):
        split = split_of(path.stem)
        try:
            with tarfile.open(path, "r|*") as archive:
                yield from _samples(archive, path, split)
        except (tarfile.TarError, EOFError, OSError) as error:
            yield BadItem(str(path), "file", "shard", f"cannot read on: {error}: get it again")


def _samples(archive: tarfile.TarFile, path: Path, split: str) -> Iterator[Item]:
    stem = ""
    parts: dict[str, bytes] = {}
    for member in archive:
        if not member.isfile():
            continue
        name, _, suffix = member.name.partition(".") if "/" not in member.name else _parted(member.name)
        if name != stem and parts:
            yield from _sample(path, split, stem, parts)
            parts = {}
        stem = name
        handle = archive.extractfile(member) if member.size <= MAX_MEMBER_BYTES else None
        parts[f".{suffix.lower()}"] = handle.read() if handle else b""
    if parts:
        yield from _sample(path, split, stem, parts)


def _parted(name: str) -> tuple[str, str, str]:
    folder, _, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return f"{folder}/{stem}", dot, suffix


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
    yield RowItem(split, TASK_OF[kind], record, str(path), stem)


def _photo(media: MediaFolder, split: str, key: str, url: str, caption: str) -> Iterator[Made]:
    """A photo that was fetched under its row number (`000000012.jpg`) or the last part of its address."""
    name = media.name_of(key) or url.rsplit("/", 1)[-1]
    if not caption.strip():
        raise UserError("the caption is empty")
    yield from media.item(split, key, name)
    yield split, "caption", Record(key, image=key, references=(caption.strip(),), extra={"url": url})


def _listed(root: Path, names: tuple[str, str]) -> Iterator[Item]:
    media = MediaFolder(root)
    for path in require(root, "*.tsv"):
        split = split_of(path.stem)

        def rows(path: Path = path) -> Iterator[Row]:
            for number, item in enumerate(read_csv(path, (), delimiter="\t", names=list(names))):
                yield item if isinstance(item, BadItem) else (item[0], (f"{number:09d}", item[1]))

        def convert(row: tuple[str, dict[str, str]], split: str = split) -> Iterator[Made]:
            yield from _photo(media, split, row[0], row[1]["url"], row[1]["caption"])

        yield from each(path, rows(), convert)


@reader(
    "cc3m",
    expects="*.tsv (caption, url) and the photos, named by row number or by the end of their address",
    licence="CC3M: text free for any use; photos belong to their owners",
    counts={"train/caption": 3_318_333},
)
def read_cc3m(root: Path) -> Iterator[Item]:
    """One row per photo."""
    yield from _listed(root, ("caption", "url"))


@reader(
    "cc12m",
    expects="*.tsv (url, caption) and the photos; or WebDataset *.tar shards",
    licence="CC12M: text free for any use; photos belong to their owners",
    counts={"train/caption": 12_423_374},
)
def read_cc12m(root: Path) -> Iterator[Item]:
    """One row per photo, from tars where there are some."""
    if any(root.glob("*.tar")):
        yield from read_tars(root)
    else:
        yield from _listed(root, ("url", "caption"))


@reader(
    "sbu",
    expects="sbu-captions-all.json (captions, image_urls) and the photos, named by row number or address",
    licence="SBU captions: research use; photos belong to their owners",
    counts={"train/caption": 1_000_000},
)
def read_sbu(root: Path) -> Iterator[Item]:
    """One row per photo."""
    media = MediaFolder(root)
    path = require(root, "*sbu*.json")[0]
    content = read_json(path, dict)
    captions, urls = content.get("captions"), content.get("image_urls")
    if not isinstance(captions, list) or not isinstance(urls, list) or len(captions) != len(urls):
        raise UserError(f"{path}: needs lists 'captions' and 'image_urls' of one length")

    def convert(row: tuple[str, Any, Any]) -> Iterator[Made]:
        if not isinstance(row[1], str) or not isinstance(row[2], str):
            raise UserError("the address or the caption is no text")
        yield from _photo(media, "train", *row)

    rows = zip(urls, captions, strict=True)
    yield from each(path, ((f"row {n}", (f"{n:09d}", *row)) for n, row in enumerate(rows)), convert)
