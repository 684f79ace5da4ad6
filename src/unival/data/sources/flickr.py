"""Flickr8k and Flickr30k captions: Kaggle's captions.txt, the original token file, Kaggle's results.csv."""

from collections.abc import Iterator
from pathlib import Path

from unival.data.source import BadItem
from unival.data.sources.media_folder import MediaFolder
from unival.data.sources.reader import Item, Made, Row, each, read_csv, reader, require
from unival.errors import UserError
from unival.record import Record

LICENCE = "Flickr8k / Flickr30k: research and education only; photos belong to their authors"


def _rows(path: Path) -> Iterator[Row]:
    """(line, {image, caption}) of any of the three forms."""
    if path.suffix == ".csv":  # Flickr30k of Kaggle: image_name| comment_number| comment
        for item in read_csv(path, ("image_name", "comment"), delimiter="|"):
            if isinstance(item, BadItem):
                yield item
            else:
                yield item[0], {"image": item[1]["image_name"], "caption": item[1]["comment"]}
    elif path.name.endswith(".token.txt"):  # the original: name.jpg#0<tab>caption
        for item in read_csv(path, (), delimiter="\t", names=["image", "caption"]):
            if not isinstance(item, BadItem):
                item[1]["image"] = item[1]["image"].partition("#")[0]
            yield item
    else:
        yield from read_csv(path, ("image", "caption"))


def _captions(root: Path) -> Iterator[Item]:
    media = MediaFolder(root)
    for path in require(root, "captions.txt", "*.token.txt", "results.csv", "*/results.csv"):
        grouped: dict[str, tuple[str, list[str]]] = {}
        for item in _rows(path):
            if isinstance(item, BadItem):
                yield item
                continue
            line, row = item
            if not row["caption"].strip():
                yield BadItem(str(path), line, "caption", "empty")
                continue
            grouped.setdefault(row["image"].strip(), (line, []))[1].append(row["caption"].strip())

        def convert(row: tuple[str, list[str]]) -> Iterator[Made]:
            name, captions = row
            if not name:
                raise UserError("no image name")
            key = Path(name).stem
            yield from media.item("train", key, name)
            yield "train", "caption", Record(key, image=key, references=tuple(captions))

        rows = ((line, (name, captions)) for name, (line, captions) in grouped.items())
        yield from each(path, rows, convert)


@reader(
    "flickr8k",
    expects="captions.txt (image,caption) or Flickr8k.token.txt, and any photo folder beside it",
    licence=LICENCE,
    counts={"train/caption": 8_091},
)
def read(root: Path) -> Iterator[Item]:
    """One row per photo with its captions, all in one split (the official lists are by image name)."""
    yield from _captions(root)


@reader(
    "flickr30k",
    expects="results.csv or results_20130124.token.txt, and any photo folder beside it",
    licence=LICENCE,
    counts={"train/caption": 31_783},
)
def read_30k(root: Path) -> Iterator[Item]:
    """As Flickr8k."""
    yield from _captions(root)
