"""Boxes of pictures that their EXIF turns: in the picture as shown, whatever the annotation speaks of."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unival.data.benchmarks import shrink
from unival.data.importing import import_dataset
from unival.data.manifest import read_records
from unival.data.sources.ofa_tsv import write_tsv
from unival.data.store import MediaStore
from unival.errors import UserError
from unival.media_format import Box, Size

STORED, SHOWN = (60, 40), (40, 60)
RED: Box = (6.0, 10.0, 30.0, 20.0)
"""Where the stored picture is red."""


def photo(orientation: int, size: Size = STORED) -> bytes:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    x0, y0, x1, y1 = map(int, RED)
    pixels[y0:y1, x0:x1, 0] = 255
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def red_in(pixels_HWC: np.ndarray) -> Box:
    rows, columns = np.nonzero(pixels_HWC[..., 0] > 128)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def folder(name: str, root: Path, picture: bytes, box: Box, declared: dict[str, int]) -> Path:
    """A data set of one box."""
    root.mkdir(parents=True)
    (root / "1.png").write_bytes(picture)
    x0, y0, x1, y1 = box
    files: dict[str, Any]
    if name == "table":
        row = {"id": "1", "image": "1.png", "text": "the red one", "box": list(box), **declared}
        files = {"val_grounding.jsonl": row}
    else:
        ref = {
            "image_id": 1,
            "ref_id": 1,
            "ann_id": 1,
            "split": "val",
            "file_name": "1.png",
            "category_id": 1,
        }
        ref["sentences"] = [{"sent": "the red one", "sent_id": 1}]
        instances = {
            "images": [{"id": 1, "file_name": "1.png", **declared}],
            "annotations": [{"id": 1, "image_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}],
            "categories": [],
        }
        files = {"refs.json": [ref], "instances.json": instances}
    for file, content in files.items():
        (root / file).write_text(json.dumps(content))
    return root


def declared(size: Size) -> dict[str, int]:
    return {"width": size[0], "height": size[1]}


@pytest.mark.parametrize("name", ["table", "refcoco"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_stored_pixels_are_turned_with_them(name: str, orientation: int, tmp_path: Path) -> None:
    root = folder(name, tmp_path / "in", photo(orientation), RED, declared(STORED))
    import_dataset(name, root, tmp_path / "out")
    (record,) = read_records(tmp_path / "out" / "val", "grounding")
    assert record.image is not None
    assert record.box == red_in(MediaStore(tmp_path / "out" / "val").image(record.image))


@pytest.mark.parametrize("name", ["table", "refcoco"])
@pytest.mark.parametrize("orientation", [6, 8])
def test_boxes_of_the_picture_as_shown_stay(name: str, orientation: int, tmp_path: Path) -> None:
    root = folder(name, tmp_path / "in", photo(orientation), (5.0, 10.0, 20.0, 50.0), declared(SHOWN))
    import_dataset(name, root, tmp_path / "out")
    assert read_records(tmp_path / "out" / "val", "grounding")[0].box == (5.0, 10.0, 20.0, 50.0)


@pytest.mark.parametrize("name", ["table", "refcoco"])
@pytest.mark.parametrize(
    ("orientation", "size", "told"),
    [
        (6, STORED, {}),
        (6, STORED, declared((640, 480))),
        (3, STORED, declared(STORED)),
        (2, STORED, declared(STORED)),
        (6, (40, 40), declared((40, 40))),
    ],
)
def test_a_box_that_may_be_of_either_is_refused(
    name: str, orientation: int, size: Size, told: dict[str, int], tmp_path: Path
) -> None:
    root = folder(name, tmp_path / "in", photo(orientation, size), RED, told)
    import_dataset(name, root, tmp_path / "out", max_rejected=1.0)
    faults = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert {fault["field"] for fault in faults} == {"box"}
    assert all(f"EXIF orientation {orientation}" in fault["reason"] for fault in faults)


@pytest.mark.parametrize("name", ["table", "refcoco"])
def test_boxes_of_upright_pictures_need_no_size(name: str, tmp_path: Path) -> None:
    for number, told in enumerate(({}, declared((640, 480)))):
        root = folder(name, tmp_path / f"in{number}", photo(1), RED, told)
        import_dataset(name, root, tmp_path / f"out{number}")
        assert read_records(tmp_path / f"out{number}" / "val", "grounding")[0].box == RED


def test_a_smaller_copy_is_upright_and_takes_its_boxes_along() -> None:
    data, view = shrink.image(photo(6), "x", 30)
    smaller = np.asarray(Image.open(io.BytesIO(data)))
    assert smaller.shape == (30, 20, 3)
    assert np.abs(np.subtract(view.box(RED, STORED), red_in(smaller))).max() <= 1
    with pytest.raises(UserError, match="EXIF orientation 6"):
        view.box(RED, None)


@pytest.mark.parametrize("deep", [False, True])
def test_an_exported_picture_is_the_one_shown_to_readers_that_heed_no_exif(
    deep: bool, tmp_path: Path
) -> None:
    picture = photo(1 if deep else 6)
    if deep:
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(Image.open(io.BytesIO(picture)))[..., 0].astype(np.uint16) * 257).save(
            buffer, "PNG"
        )
        picture = buffer.getvalue()
    root = folder("table", tmp_path / "in", picture, RED, declared(STORED))
    import_dataset("table", root, tmp_path / "out")
    write_tsv(tmp_path / "out" / "val", "grounding", tmp_path / "val.tsv")
    *_, box, encoded = (tmp_path / "val.tsv").read_text().strip().split("\t")
    seen = np.asarray(Image.open(io.BytesIO(base64.urlsafe_b64decode(encoded))).convert("RGB"))
    assert tuple(map(float, box.split(","))) == red_in(seen)
    assert set(np.unique(seen)) == {0, 255}
