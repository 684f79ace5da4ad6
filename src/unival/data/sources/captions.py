"""Captions of photos: COCO (plain JSON and Karpathy's split), NoCaps, Flickr8k and 30k; captions alone."""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from unival.data.disk_map import DiskMap
from unival.data.sources.formats import ID, Load, Row, captioned, changed, csv_rows, grouped, json_rows, value
from unival.data.sources.json_stream import json_keys
from unival.data.sources.reader import File, Item, found, read_rows, reader, require, rows
from unival.data.sources.splits import listed, listed_split
from unival.errors import UserError
from unival.record import Record

KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
coco_json = captioned("images", "id", "annotations", "image_id")


def image_key(image_id: object) -> str:
    """Key of a COCO photo."""
    return f"coco-{image_id}"


def _captions(row: tuple[Any, list[str]], file: File, prefix: str = "coco") -> Iterator[Item]:
    image, captions = row
    extra = {"image_id": str(image["id"])}
    if "domain" in image:
        extra["domain"] = value(image, "domain")
    key = f"{prefix}-{image['id']}"
    yield from file.captions("image", key, captions, value(image, "file_name"), extra=extra)


def _karpathy(row: Any, file: File) -> Iterator[Item]:
    """One row per photo of COCO, Flickr8k or Flickr30k."""
    split = KARPATHY_SPLITS.get(value(row, "split"))
    if split is None:
        raise UserError(f"unknown split '{row['split']}': splits: {', '.join(KARPATHY_SPLITS)}")
    texts = [value(sentence, "raw") for sentence in value(row, "sentences", list)]
    file_name = value(row, "filename")
    official = {"image_id": str(value(row, "cocoid", int))} if "cocoid" in row else {}
    key = image_key(official["image_id"]) if official else Path(file_name).stem
    name = file.media.first("image", f"{row.get('filepath', '.')}/{file_name}", file_name)
    yield from file.captions("image", key, texts, name, split=split, extra=official)


def _read_karpathy(root: Path, name: str) -> Iterator[Item]:
    """Karpathy's division of a set."""
    return read_rows(root, [name], json_rows("image {}", "images"), _karpathy)


COCO_FILES = ("captions_*.json", "image_info_test2014.json")
"""The second lists the photos of the caption challenge; the lists of later years repeat them."""


def _photos_alone(path: Path) -> Iterator[Row]:
    """(photo, no captions) of a test split whose captions are not published."""
    return changed(path, json_rows("image {}", "images")(path), lambda image: (image, []))


def _with_photos(path: Path) -> Iterable[Row]:
    """A name with `textonly` is for captions of photos that are not there: see `text_captions`."""
    if "textonly" in path.stem:
        return ()
    return _photos_alone(path) if path.name.startswith("image_info") else coco_json(path)


@reader("coco_captions")
def read_coco(root: Path) -> Iterator[Item]:
    """One row per photo with its captions; Karpathy's split where its file is there."""
    if found(root, "dataset_coco.json"):
        yield from _read_karpathy(root, "dataset_coco.json")
    else:
        _refuse_two_years([path for path in require(root, *COCO_FILES) if path.match(COCO_FILES[0])])
        yield from read_rows(root, COCO_FILES, _with_photos, _captions)


def _refuse_two_years(files: list[Path]) -> None:
    """2014 and 2017 divide the same photos: together, photos would be there twice, or in train and val."""
    used = [path for path in files if "textonly" not in path.stem]
    years = {year[0]: path for path in used if (year := re.search("20[0-9][0-9]", path.name))}
    if len(years) > 1:
        first, second = list(years.values())[:2]
        raise UserError(
            f"{first} and {second} divide the same photos into train and val in two ways: move the "
            "captions of all years but one out of the folder"
        )


def _nocaps_json(path: Path) -> Iterable[Row]:
    """The test split is a list of photos alone."""
    alone = "annotations" not in (json_keys(path) or ("annotations",))
    return _photos_alone(path) if alone else coco_json(path)


rows("nocaps", "*nocaps*.json", load=_nocaps_json, split="val")(partial(_captions, prefix="nocaps"))


def _flickr_lines(path: Path) -> Iterator[Row]:
    """(image, caption) of captions.txt and results.csv (Kaggle), *.token.txt (name.jpg#0<tab>caption)."""
    load, image, caption = csv_rows("image", "caption"), "image", "caption"
    if path.suffix == ".csv":
        image, caption = "image_name", "comment"
        load = csv_rows(image, caption, delimiter="|")
    elif path.name.endswith(".token.txt"):
        load = csv_rows(delimiter="\t", names=(image, caption))
    return changed(path, load(path), lambda row: (row[image].partition("#")[0].strip(), row[caption]))


flickr: Load = grouped(_flickr_lines, key=lambda row: row[0], text=lambda row: row[1])


def _flickr(
    row: tuple[tuple[str, str], list[str]], file: File, splits: DiskMap | None = None, lists: str = ""
) -> Iterator[Item]:
    """One row per photo with its captions, in the split that lists it."""
    (name, _), captions = row
    if not name:
        raise UserError("no image name")
    split = listed_split(splits, name, lists)
    yield from file.captions("image", Path(name).stem, captions, name, split=split)


@reader("flickr8k")
def read_flickr8k(root: Path) -> Iterator[Item]:
    """One row per photo with its captions; its own lists tell the split, else Karpathy's file."""
    lists = found(root, "Flickr_8k.*Images.txt")
    if not lists and found(root, "dataset_flickr8k.json"):
        return _read_karpathy(root, "dataset_flickr8k.json")
    convert = partial(_flickr, splits=listed(lists), lists=", ".join(path.name for path in lists))
    return read_rows(root, ["captions.txt", "*.token.txt"], flickr, convert)


@reader("flickr30k")
def read_flickr30k(root: Path) -> Iterator[Item]:
    """One row per photo with its captions, in Karpathy's split: the set has none of its own."""
    if found(root, "dataset_flickr30k.json"):
        return _read_karpathy(root, "dataset_flickr30k.json")
    return read_rows(root, ["results.csv", "*.token.txt"], flickr, _flickr)


def _loose(path: Path) -> Iterator[Row]:
    """(id, captions) of COCO's or MSVD's JSON, or of a CSV with a column `caption`."""
    if path.suffix != ".json":
        return changed(path, csv_rows("caption")(path), lambda row: (path.stem, [row["caption"]]))
    if json_keys(path) is not None:
        return changed(path, coco_json(path), lambda row: (row[0]["id"], row[1]))
    return changed(path, json_rows()(path), lambda row: (value(row, "id", ID), value(row, "caption", list)))


@rows("text_captions", "*.json", "*.csv", "*.txt", load=_loose, split="train")
def _texts(row: tuple[Any, list[str]], file: File) -> Iterator[Item]:
    """One row of the task `text` per caption: for vocabularies and language."""
    for number, caption in enumerate(row[1]):
        row_id = f"{row[0]}-{number if file.path.suffix == '.json' else file.number}"
        yield file.item(file.split, "text", Record(row_id, references=(caption.strip(),)))
