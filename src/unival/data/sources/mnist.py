"""MNIST handwritten digits in the idx format, plain or gzipped."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unival.data import media
from unival.data.source import MediaItem, RowItem
from unival.data.sources.reader import Item, read_bytes, reader, require
from unival.errors import UserError
from unival.record import Answer, Record

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTION = "which digit is it?"
PARTS = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes from an idx file (big-endian magic 0x0000 08 <dimensions>, sizes, data).

    Raises:
        UserError: not such a file, or shorter or longer than its header says.
    """
    data = read_bytes(path)
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 4 or len(data) < 4 + 4 * data[3]:
        raise UserError(f"{path}: not an idx file of unsigned bytes")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    content = data[4 + 4 * data[3] :]
    expected = int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise UserError(f"{path}: {len(content)} bytes of data, and the header says {expected}: get it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_part(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and labels (N,) of `train` or `t10k`.

    Raises:
        UserError: a file is missing or damaged, or the two do not fit.
    """
    images_file = require(root, f"{part}-images-idx3-ubyte*", f"{part}-images.idx3-ubyte*")[0]
    labels_file = require(root, f"{part}-labels-idx1-ubyte*", f"{part}-labels.idx1-ubyte*")[0]
    images_NHW, labels_N = read_idx(images_file), read_idx(labels_file)
    if images_NHW.ndim != 3 or labels_N.shape != images_NHW.shape[:1]:
        raise UserError(f"{labels_file}: {labels_N.shape} labels, and {images_file} holds {images_NHW.shape}")
    if labels_N.size and labels_N.max() > 9:
        raise UserError(f"{labels_file}: row {int(labels_N.argmax())}: label {labels_N.max()} is no digit")
    return images_NHW, labels_N


def digit_rows(split: str, key: str, digit: int, file: str) -> Iterator[RowItem]:
    """The rows of one picture of a digit: a caption and a question."""
    word = NUMBERS[digit]
    article = "an" if word == "eight" else "a"
    captions = (f"{article} handwritten {word}", f"the digit {word}", f"the number {word} written by hand")
    yield RowItem(split, "caption", Record(key, image=key, references=captions, objects=(word,)), file, key)
    answers = (Answer(word),)
    vqa = Record(key, image=key, text=QUESTION, answers=answers, objects=(word,), form="digit")
    yield RowItem(split, "vqa", vqa, file, key)


@reader(
    "mnist",
    expects="{train,t10k}-{images-idx3,labels-idx1}-ubyte, gzipped or not (one part is enough)",
    licence="MNIST: no formal licence, commonly given as CC-BY-SA 3.0",
    counts={"train/caption": 60_000, "test/caption": 10_000},
)
def read(root: Path) -> Iterator[Item]:
    """Each digit as a PNG with a caption and a question."""
    require(root, "*-images*idx3-ubyte*")
    for split, part in PARTS.items():
        if not list(root.glob(f"{part}-images*")):
            continue
        images_NHW, labels_N = read_part(root, part)
        file = str(root / part)
        for index, (image_HW, label) in enumerate(zip(images_NHW, labels_N, strict=True)):
            key = f"mnist-{part}-{index:05d}"
            pixels_HWC = np.repeat(image_HW[..., None], 3, axis=2)
            yield MediaItem(split, key, media.encode_image(pixels_HWC), ".png", file, str(index))
            yield from digit_rows(split, key, int(label), file)
