"""Regions of photos: RefCOCO, RefCOCO+, RefCOCOg (REFER's pickled `refs`); Visual Genome."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from unival.data.source import BadItem
from unival.data.sources import safe_pickle
from unival.data.sources.captions import image_key
from unival.data.sources.formats import (
    Row,
    by_id,
    changed,
    json_rows,
    numbered,
    size_of,
    value,
)
from unival.data.sources.json_stream import json_values
from unival.data.sources.packed import unpacked_bytes
from unival.data.sources.reader import File, Item, read_rows, reader, rows
from unival.data.sources.splits import said_split
from unival.errors import UserError

NUMBER = (int, float)
OFFICIAL_SPLITS = ("train", "val", "test", "testA", "testB")


def corners(box: Any) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 from COCO's x, y, width, height.

    Raises:
        UserError: not four numbers, or the box is empty.
    """
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(isinstance(n, NUMBER) for n in box):
        raise UserError(f"field 'bbox' should be [x, y, width, height], found {str(box)[:60]}")
    x, y, width, height = map(float, box)
    if not (width > 0 and height > 0):
        raise UserError(f"box {list(box)} is empty")
    return x, y, x + width, y + height


def _refs(path: Path) -> Iterator[Row]:
    """(ref, its image, its box, its category) of a refs file and its instances JSON.

    That lies beside it, or has the same ending anywhere below the folder above.
    """
    if path.suffix == ".p":
        refs: Iterable[Any] = safe_pickle.loads(unpacked_bytes(path), str(path))
        if not isinstance(refs, list):
            raise UserError(f"{path}: expected a list of refs, found {type(refs).__name__}")
    else:
        refs = json_values(path)
    ending = path.stem.removeprefix("refs_derived_")
    instances = [
        *path.parent.glob("instances.json"),
        *sorted(path.parents[1].glob(f"*/instances_{ending}.json")),
    ]
    ids = {"images": "image_id", "annotations": "ann_id", "categories": "category_id"}
    fields = ("file_name", "width", "height", "bbox", "name")
    find = by_id(instances[0], dict.fromkeys(ids, "id"), fields) if instances else lambda name, row_id: None

    def joined(ref: Any) -> tuple[Any, Any, Any, str | None]:
        image, thing, category = (find(name, ref.get(key)) or {} for name, key in ids.items())
        if "bbox" not in ref and "bbox" not in thing:
            ann_id = value(ref, "ann_id", int)
            raise UserError(
                f"ann_id {ann_id} is not in {instances[0].name if instances else 'instances.json'}"
            )
        return ref, image, ref.get("bbox") or thing.get("bbox"), category.get("name")

    return changed(path, numbered(refs, "ref {}"), joined)


def _refcoco(row: tuple[Any, Any, Any, str | None], file: File) -> Iterator[Item]:
    """One row per expression; all expressions of its box are references."""
    ref, image, box, category = row
    image_id, split = value(ref, "image_id", int), value(ref, "split")
    split = split if split in OFFICIAL_SPLITS else said_split(split)
    name = image.get("file_name") or value(ref, "file_name")
    sentences = [value(sentence, "sent").strip() for sentence in value(ref, "sentences", list)]
    if not sentences:
        raise UserError("no sentences")
    for sentence, text in zip(ref["sentences"], sentences, strict=True):
        row_id = f"{image_id}-{value(ref, 'ref_id', int)}-{value(sentence, 'sent_id', int)}"
        for task in ("grounding", "grounded_caption"):
            yield from file.row(
                task, row_id, "image", image_key(image_id), name, split, size_of(image),
                text=text, box=corners(box),
                references=tuple(dict.fromkeys((text, *sentences))), objects=(category,) if category else (),
                extra={"ref_id": str(ref["ref_id"]), "image_id": str(image_id)},
            )  # fmt: skip


def _read_refs(root: Path, name: str, refs: str) -> Iterator[Item]:
    """The official split of one set where REFER's folders lie side by side, else the only refs file."""
    patterns = [f"{name}/{refs}"], [refs], ["refs*.p", "refs*.json"]
    there = (files for files in patterns if any(path for file in files for path in root.rglob(file)))
    files = next(there, patterns[-1])
    yield from read_rows(root, files, _refs, _refcoco)


for _name, _file in (("refcoco", "refs(unc).p"), ("refcoco+", "refs(unc).p"), ("refcocog", "refs(umd).p")):
    reader(_name)(partial(_read_refs, name=_name, refs=_file))


@rows(
    "visual_genome",
    "region_descriptions.json",
    "question_answers.json",
    load=json_rows("image {}"),
    split="train",
)
def _visual_genome(image: Any, file: File) -> Iterator[Item]:
    """One grounding row per region, one question row per question; all in the train split."""
    kind = "regions" if "region" in file.path.stem else "qas"
    image_id = value(image, "id" if "id" in image else "image_id", int)
    for position, row in enumerate(value(image, kind, list)):
        try:
            yield from _vg_row(row, image_id, kind, file)
        except UserError as error:
            yield BadItem(str(file.path), f"image {image_id}, {kind}[{position}]", "row", str(error))


def _vg_row(row: Any, image_id: int, kind: str, file: File) -> Iterator[Item]:
    key, name = f"vg-{image_id}", f"{image_id}.jpg"
    if kind == "qas":
        row_id, answer = f"vg-{value(row, 'qa_id', int)}", value(row, "answer").strip().rstrip(".").lower()
        yield from file.question("image", key, row_id, value(row, "question"), answer, name)
        return
    box = corners([value(row, name, NUMBER) for name in ("x", "y", "width", "height")])
    text, row_id = value(row, "phrase").strip(), f"vg-{value(row, 'region_id', int)}"
    yield from file.row("grounding", row_id, "image", key, name, text=text, references=(text,), box=box)
