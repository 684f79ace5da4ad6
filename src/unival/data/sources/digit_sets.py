"""Sets of digits: MNIST (idx), USPS (HDF5), the sign-language digits (folders), spoken digits (FSDD)."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unival import limits
from unival.data import media
from unival.data.media import SUFFIXES
from unival.data.source import BadItem, MediaItem, RowItem, rows_about
from unival.data.sources.packed import unpacked_bytes
from unival.data.sources.reader import Item, reader, require
from unival.errors import UserError
from unival.record import NUMBERS, Answer

PARTS = {"train": "train", "test": "t10k"}
RECORDING = re.compile(r"([0-9])_([a-z]+)_([0-9]+)\.wav")
TEST_INDICES = 5
"""FSDD's own rule: recordings 0-4 of each digit and speaker are the test set."""


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes from an idx file (big-endian magic 0x0000 08 <dimensions>, sizes, data).

    Raises:
        UserError: not such a file, or shorter or longer than its header says.
    """
    data = unpacked_bytes(path)
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 4 or len(data) < 4 + 4 * data[3]:
        raise UserError(f"{path}: not an idx file of unsigned bytes")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    content = data[4 + 4 * data[3] :]
    expected = int(np.prod(shape, dtype=object))
    if len(content) != expected or not limits.is_shape(shape):
        raise UserError(f"{path}: {len(content)} bytes of data, and the header says {expected}: get it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_part(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and labels (N,) of MNIST's `train` or `t10k`.

    Raises:
        UserError: a file is missing or damaged, or the two do not fit.
    """
    images_file = require(root, f"{part}-images?idx3-ubyte*")[0]
    labels_file = require(root, f"{part}-labels?idx1-ubyte*")[0]
    images_NHW, labels_N = read_idx(images_file), read_idx(labels_file)
    if images_NHW.ndim != 3 or labels_N.shape != images_NHW.shape[:1]:
        raise UserError(f"{labels_file}: {labels_N.shape} labels, and {images_file} holds {images_NHW.shape}")
    if labels_N.size and labels_N.max() > 9:
        raise UserError(f"{labels_file}: row {int(labels_N.argmax())}: label {labels_N.max()} is not a digit")
    return images_NHW, labels_N


def read_groups(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """USPS group -> images uint8 (N, 16, 16), bright on dark, and labels (N,).

    Raises:
        UserError: not such a file.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: reading HDF5 needs h5py: pip install h5py") from error
    groups = dict[str, tuple[np.ndarray, np.ndarray]]()
    try:
        with h5py.File(path) as file:
            for name in file:
                group = _own(file, name)
                groups[name] = np.asarray(_own(group, "data")), np.asarray(_own(group, "target"))
    except (OSError, KeyError, RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a USPS file with {{train|test}}/{{data,target}}: {error}") from error
    return {name: _checked(*arrays, f"{path}: group '{name}'") for name, arrays in groups.items()}


def _own(group: Any, name: str) -> Any:
    """A member of an HDF5 group whose content is in the file itself: HDF5 can refer to any file there is.

    Raises:
        KeyError: there is none.
        ValueError: it refers to another file, or would fill the memory.
    """
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink | None):
        raise ValueError(f"'{name}' is a link")
    member = group[name]
    if isinstance(member, h5py.Dataset):
        if member.external or member.is_virtual:
            raise ValueError(f"'{name}' is kept in another file")
        if member.nbytes > limits.UNPACKED_BYTES:
            raise ValueError(f"'{name}' claims {member.nbytes} bytes: more than {limits.UNPACKED_BYTES}")
    return member


def _checked(data: np.ndarray, labels: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    if (
        data.ndim != 2
        or data.shape[1] != 256
        or labels.shape != data.shape[:1]
        or data.dtype.kind not in "fiu"
    ):
        raise UserError(
            f"{where}: expected data (N, 256) and target (N,), found {data.shape} and {labels.shape}"
        )
    if not np.isfinite(data).all() or (data.size and (data.min() < 0 or data.max() > 1)):
        raise UserError(f"{where}: pixels outside 0 .. 1")
    if not np.isin(labels, np.arange(10)).all():
        raise UserError(f"{where}: a label that is not a digit")
    return (data * 255).round().astype(np.uint8).reshape(-1, 16, 16), labels.astype(np.int64)


def _rows(split: str, key: str, word: str, file: str, captions: tuple[str, ...]) -> Iterator[RowItem]:
    """A caption and a question of one digit in a picture."""
    row = rows_about(split, "image", key, file, objects=(word,))
    yield row("caption", references=captions)
    yield row("vqa", text="which digit is it?", answers=(Answer(word),), form="digit")


def _pictures(
    split: str, prefix: str, images_NHW: np.ndarray, labels_N: np.ndarray, file: str
) -> Iterator[Item]:
    """Handwritten digits as PNGs, each with its rows."""
    for index, (image_HW, digit) in enumerate(zip(images_NHW, labels_N.tolist(), strict=True)):
        key, word = f"{prefix}-{index:05d}", NUMBERS[digit]
        pixels_HWC = np.repeat(image_HW[..., None], 3, axis=2)
        yield MediaItem(split, key, media.encode_image(pixels_HWC), ".png", file, str(index))
        article = "an" if word == "eight" else "a"
        captions = f"{article} handwritten {word}", f"the digit {word}", f"the number {word} written by hand"
        yield from _rows(split, key, word, file, captions)


@reader("mnist")
def read_mnist(root: Path) -> Iterator[Item]:
    """Each digit as a PNG with a caption and a question."""
    require(root, "*-images?idx3-ubyte*")
    for split, part in PARTS.items():
        if list(root.glob(f"{part}-images*")):
            yield from _pictures(split, f"mnist-{part}", *read_part(root, part), str(root / part))


@reader("usps")
def read_usps(root: Path) -> Iterator[Item]:
    """Each digit as a 16x16 PNG with a caption and a question."""
    for path in require(root, "*.h5"):
        for split, (images_NHW, labels_N) in read_groups(path).items():
            yield from _pictures(split, f"usps-{split}", images_NHW, labels_N, str(path))


@reader("sign_digits")
def read_signs(root: Path) -> Iterator[Item]:
    """A caption and a question per image, all in one split."""
    for path in require(root, "[0-9]/*"):
        if SUFFIXES.get(path.suffix.lower()) == "image":
            word, key = NUMBERS[int(path.parent.name)], f"sign-{path.parent.name}-{path.stem}"
            yield MediaItem("train", key, path)
            captions = f"a hand sign of the digit {word}", f"a hand shows the number {word}"
            yield from _rows("train", key, word, str(path), captions)


@dataclass(frozen=True)
class Recording:
    """One spoken digit."""

    path: Path
    word: str
    speaker: str
    index: int


def recordings(root: Path) -> Iterator[Recording | BadItem]:
    """All recordings of FSDD, sorted by name; a wav file with another name is a BadItem."""
    for path in require(root, "*.wav"):
        match = RECORDING.fullmatch(path.name)
        if match is None:
            yield BadItem(str(path), path.name, "name", "not {digit}_{speaker}_{index}.wav")
        else:
            yield Recording(path, NUMBERS[int(match[1])], match[2], int(match[3]))


def spoken_captions(word: str) -> tuple[str, ...]:
    """Five templated captions of a spoken digit."""
    return (
        f"a person says {word}",
        f"someone says the digit {word}",
        f"a voice says {word}",
        f"the number {word} is spoken",
        f"a speaker says the number {word}",
    )


@reader("fsdd")
def read_fsdd(root: Path) -> Iterator[Item]:
    """Each recording with captions and a question; indices 0-4 are the test split, as the data set says."""
    for item in recordings(root):
        if isinstance(item, BadItem):
            yield item
            continue
        key, split = item.path.stem, "test" if item.index < TEST_INDICES else "train"
        yield MediaItem(split, key, item.path)
        row = rows_about(split, "audio", key, str(item.path), extra={"speaker": item.speaker})
        word = item.word
        yield row("audio_caption", references=spoken_captions(word), objects=(word,))
        yield row("audio_qa", text="which digit is said?", answers=(Answer(word),), form="digit")
