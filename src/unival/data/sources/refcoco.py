"""Referring expressions: RefCOCO, RefCOCO+, RefCOCOg (REFER's pickled `refs`); Visual Genome."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unival import safe_pickle
from unival.data.source import BadItem
from unival.data.sources.coco import image_key
from unival.data.sources.media_folder import MediaFolder
from unival.data.sources.reader import (
    Item,
    Made,
    each,
    numbered,
    read_bytes,
    read_json,
    reader,
    require,
    rows_of,
    split_of,
    value,
)
from unival.errors import UserError
from unival.record import Answer, Record

NUMBER = (int, float)
OFFICIAL_SPLITS = ("train", "val", "test", "testA", "testB")


def corners(box: Any, sizes: tuple[float, float] | None = None) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 from COCO's x, y, width, height; cut at the image's width and height where given.

    Raises:
        UserError: not four numbers, or nothing of it is inside the image.
    """
    if (
        not isinstance(box, list | tuple)
        or len(box) != 4
        or not all(isinstance(side, NUMBER) for side in box)
    ):
        raise UserError(f"field 'bbox' should be [x, y, width, height], found {str(box)[:60]}")
    x, y, width, height = map(float, box)
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), x + width, y + height
    if sizes:
        x1, y1 = min(x1, sizes[0]), min(y1, sizes[1])
    if not (x0 < x1 and y0 < y1):
        raise UserError(f"box {list(box)} is empty or outside the image")
    return x0, y0, x1, y1


def _instances(path: Path | None) -> tuple[dict[Any, dict[str, Any]], dict[Any, list[float]], dict[Any, str]]:
    """Images by id, boxes by annotation id, category names by id, of a COCO instances JSON."""
    if path is None:
        return {}, {}, {}
    content = read_json(path, dict)
    images = {row.get("id"): row for row in rows_of(content, "images", path) if isinstance(row, dict)}
    boxes = {row.get("id"): row.get("bbox") for row in rows_of(content, "annotations", path)}
    categories = content.get("categories", [])
    return images, boxes, {row.get("id"): row.get("name", "") for row in categories}


def _refs(path: Path) -> list[Any]:
    refs = safe_pickle.loads(read_bytes(path), str(path)) if path.suffix == ".p" else read_json(path)
    if not isinstance(refs, list):
        raise UserError(f"{path}: expected a list of refs, found {type(refs).__name__}")
    return refs


def _instances_of(root: Path, path: Path) -> Path | None:
    """The instances JSON that belongs to a refs file: beside it, or the one with the same ending."""
    beside = path.with_name("instances.json")
    if beside.is_file():
        return beside
    ending = path.stem.removeprefix("refs_derived_")
    return next(iter(sorted(root.glob(f"**/instances_{ending}.json"))), None)


@reader(
    "refcoco",
    expects="refs(unc|umd|google).p with instances.json beside it (or refs*.json with boxes), and the photos",
    licence="RefCOCO: Apache-2.0 (REFER); boxes and photos as COCO",
    counts={
        "train/grounding": 120_624,
        "val/grounding": 10_834,
        "testA/grounding": 5_657,
        "testB/grounding": 5_095,
    },
)
def read(root: Path) -> Iterator[Item]:
    """One row per expression; all expressions of its box are references."""
    media = MediaFolder(root)
    for path in require(root, "refs*.p", "*/refs*.p", "refs*.json", "*/refs*.json"):
        images, boxes, categories = _instances(_instances_of(root, path))

        def convert(
            ref: Any, images: Any = images, boxes: Any = boxes, categories: Any = categories
        ) -> Iterator[Made]:
            image_id, split = value(ref, "image_id", int), value(ref, "split")
            split = split if split in OFFICIAL_SPLITS else split_of(split)
            image = images.get(image_id, {})
            size = (image["width"], image["height"]) if {"width", "height"} <= set(image) else None
            box = corners(ref.get("bbox", boxes.get(ref.get("ann_id"))), size)
            key, name = image_key(image_id), image.get("file_name") or value(ref, "file_name")
            yield from media.item(split, key, name)
            sentences = [value(row, "sent").strip() for row in value(ref, "sentences", list)]
            if not sentences:
                raise UserError("no sentences")
            objects = tuple(filter(None, [categories.get(ref.get("category_id"))]))
            for row, text in zip(ref["sentences"], sentences, strict=True):
                row_id = f"{image_id}-{value(ref, 'ref_id', int)}-{value(row, 'sent_id', int)}"
                others = tuple(dict.fromkeys((text, *sentences)))
                extra = {"ref_id": str(ref["ref_id"]), "image_id": str(image_id)}
                record = Record(
                    row_id, image=key, text=text, references=others, box=box, objects=objects, extra=extra
                )
                yield split, "grounding", record
                yield split, "grounded_caption", record

        yield from each(path, numbered(_refs(path), "ref"), convert)


@reader(
    "visual_genome",
    expects="region_descriptions.json and / or question_answers.json, and the photos ({image id}.jpg)",
    licence="Visual Genome: CC-BY 4.0",
)
def read_visual_genome(root: Path) -> Iterator[Item]:
    """One grounding row per region, one question row per question; all in the train split."""
    media = MediaFolder(root)
    for path in require(root, "region_descriptions.json", "question_answers.json"):
        kind = "regions" if "region" in path.stem else "qas"

        def convert(image: Any, kind: str = kind, path: Path = path) -> Iterator[Made]:
            image_id = value(image, "id" if "id" in image else "image_id", int)
            key = f"vg-{image_id}"
            yield from media.item("train", key, f"{image_id}.jpg")
            for position, row in enumerate(value(image, kind, list)):
                try:
                    yield _vg_row(row, key, kind)
                except UserError as error:
                    yield BadItem(str(path), f"image {image_id}, {kind}[{position}]", "row", str(error))

        yield from each(path, numbered(read_json(path, list), "image"), convert)


def _vg_row(row: Any, key: str, kind: str) -> tuple[str, str, Record]:
    if kind == "qas":
        answers = (Answer(value(row, "answer").strip().rstrip(".").lower()),)
        row_id, text = f"vg-{value(row, 'qa_id', int)}", value(row, "question").strip()
        return "train", "vqa", Record(row_id, image=key, text=text, answers=answers)
    box = corners([value(row, name, NUMBER) for name in ("x", "y", "width", "height")])
    text = value(row, "phrase").strip()
    row_id = f"vg-{value(row, 'region_id', int)}"
    return "train", "grounding", Record(row_id, image=key, text=text, references=(text,), box=box)
