"""COCO captions (plain JSON and Karpathy's split) and NoCaps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unival.data.sources.media_folder import MediaFolder
from unival.data.sources.reader import (
    Item,
    Made,
    each,
    numbered,
    read_json,
    reader,
    require,
    rows_of,
    split_of,
    value,
)
from unival.errors import UserError
from unival.record import Record

LICENCE = "COCO annotations: CC-BY 4.0; photos: the Flickr licence that the JSON gives for each"
KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def image_key(image_id: object) -> str:
    """Key of a COCO photo."""
    return f"coco-{image_id}"


def captions_by_image(path: Path) -> tuple[dict[Any, dict[str, Any]], dict[Any, list[str]], list[str]]:
    """Images by id, captions by image id, and faults, of one captions JSON.

    Raises:
        UserError: the file is not of that form.
    """
    content = read_json(path, dict)
    images = {}
    faults = []
    for position, image in enumerate(rows_of(content, "images", path)):
        try:
            value(image, "file_name")
            images[value(image, "id", (int, str))] = image
        except UserError as error:
            faults.append(f"images[{position}]: {error}")
    captions: dict[Any, list[str]] = {}
    for position, row in enumerate(rows_of(content, "annotations", path)):
        try:
            image_id, caption = value(row, "image_id", (int, str)), value(row, "caption").strip()
            if image_id not in images:
                raise UserError(f"image_id {image_id} is not in 'images'")
            if not caption:
                raise UserError("field 'caption' is empty")
            captions.setdefault(image_id, []).append(caption)
        except UserError as error:
            faults.append(f"annotations[{position}]: {error}")
    return images, captions, faults


def caption_items(path: Path, media: MediaFolder, prefix: str, split: str) -> Iterator[Item]:
    """One row per image of a captions JSON, with all its captions."""
    from unival.data.source import BadItem

    images, captions, faults = captions_by_image(path)
    for fault in faults:
        where, _, reason = fault.partition(": ")
        yield BadItem(str(path), where, "row", reason)

    def convert(image: dict[str, Any]) -> Iterator[Made]:
        key = f"{prefix}-{image['id']}"
        yield from media.item(split, key, image["file_name"])
        extra = {"image_id": str(image["id"])}
        if "domain" in image:
            extra["domain"] = value(image, "domain")
        yield split, "caption", Record(key, image=key, references=tuple(captions[image["id"]]), extra=extra)

    rows = ((f"image {image_id}", images[image_id]) for image_id in captions)
    yield from each(path, rows, convert)


@reader(
    "coco_captions",
    expects="annotations/captions_*.json or dataset_coco.json (Karpathy), and any photo folder beside it",
    licence=LICENCE,
    counts={"train/caption": 113_287, "val/caption": 5_000, "test/caption": 5_000},
)
def read(root: Path) -> Iterator[Item]:
    """One row per photo with its captions; Karpathy's split where its file is there."""
    media = MediaFolder(root)
    karpathy = sorted(root.glob("dataset_coco.json")) + sorted(root.glob("*/dataset_coco.json"))
    if karpathy:
        yield from _karpathy(karpathy[0], media)
        return
    for path in require(root, "annotations/captions_*.json", "captions_*.json"):
        if "textonly" not in path.stem:  # captions of photos that are not there: see `text_captions`
            yield from caption_items(path, media, "coco", split_of(path.stem))


def _karpathy(path: Path, media: MediaFolder) -> Iterator[Item]:
    def convert(row: Any) -> Iterator[Made]:
        split = KARPATHY_SPLITS.get(value(row, "split"))
        if split is None:
            raise UserError(f"unknown split '{row['split']}': splits: {', '.join(KARPATHY_SPLITS)}")
        key = image_key(value(row, "cocoid", int))
        references = tuple(value(sentence, "raw").strip() for sentence in value(row, "sentences", list))
        yield from media.item(split, key, value(row, "filename"))
        yield split, "caption", Record(key, image=key, references=references)

    rows = rows_of(read_json(path, dict), "images", path)
    yield from each(path, numbered(rows, "image"), convert)


@reader(
    "nocaps",
    expects="nocaps_*.json (COCO form, `domain` per image), and any photo folder beside it",
    licence="NoCaps: CC-BY 2.0; photos of Open Images: CC-BY 2.0",
    counts={"val/caption": 4_500},
)
def read_nocaps(root: Path) -> Iterator[Item]:
    """One row per photo; the domain (in, near, out) is in `extra`."""
    media = MediaFolder(root)
    for path in require(root, "*nocaps*.json", "annotations/*nocaps*.json"):
        yield from caption_items(path, media, "nocaps", split_of(path.stem, "val"))
