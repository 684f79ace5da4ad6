"""Handwriting of other collections for the embedded benchmark's shift `ood-handwriting`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from unival.data.benchmarks.strokes import ink, resized
from unival.data.sources.digit_sets import read_groups, read_part
from unival.data.sources.reader import require
from unival.registry import Registry

SIDE = 16
SAMPLES = 2000
Digits = tuple[np.ndarray, np.ndarray]
"""Grey levels (N, h, w) with bright strokes on dark, and labels (N,)."""
HANDWRITING: Registry[Callable[[Path], Digits]] = Registry("handwriting collection")
"""Name of a collection and of its folder under UNIVAL_DATA -> function (that folder) -> its digits."""


@HANDWRITING.register("usps")
def _usps(folder: Path) -> Digits:
    return read_groups(require(folder, "*.h5")[0]).popitem()[1]


@HANDWRITING.register("mnist")
def _mnist(folder: Path) -> Digits:
    return read_part(folder, "train")


def other_handwriting(root: Path, name: str) -> Digits | None:
    """The first 2,000 digits of a collection, uint8 (N, 16, 16), and labels (N,); None without its folder.

    The ink of each is in the middle of a square frame whose height it fills, as in the bundled digits.

    Raises:
        UserError: unknown name; its file is missing or damaged.
    """
    read = HANDWRITING[name]
    if not (root / name).is_dir():
        return None
    images_NHW, labels_N = read(root / name)
    images_NHW, labels_N = images_NHW[:SAMPLES], labels_N[:SAMPLES]
    frames_NHW = np.zeros((len(images_NHW), SIDE, SIDE), np.uint8)
    for frame_HW, image_HW in zip(frames_NHW, images_NHW, strict=True):
        strokes = resized(ink(image_HW), SIDE)
        start = (SIDE - strokes.shape[1]) // 2
        frame_HW[:, start : start + strokes.shape[1]] = strokes
    return frames_NHW, labels_N
