"""Handwriting of other collections for the embedded benchmark's shift `ood-handwriting`."""

from pathlib import Path

import numpy as np

from unival.data.source import HANDWRITING
from unival.data.sources.digit_scenes import ink, resized
from unival.data.sources.digit_sets import read_groups, read_part
from unival.data.sources.reader import require

SIDE = 16
SAMPLES = 2000


@HANDWRITING.register("usps")
def usps_handwriting(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The first 2,000 digits of `usps/` in the folder: uint8 (N, 16, 16) and labels (N,).

    Raises:
        UserError: the file in it is missing or damaged.
    """
    if not (folder / "usps").is_dir():
        return None
    images_NHW, labels_N = read_groups(require(folder / "usps", "*.h5")[0]).popitem()[1]
    return _framed(images_NHW[:SAMPLES]), labels_N[:SAMPLES]


@HANDWRITING.register("mnist")
def mnist_handwriting(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The first 2,000 digits of `mnist/` in the folder, likewise."""
    if not (folder / "mnist").is_dir():
        return None
    images_NHW, labels_N = read_part(folder / "mnist", "train")
    return _framed(images_NHW[:SAMPLES]), labels_N[:SAMPLES].astype(np.int64)


def _framed(images_NHW: np.ndarray) -> np.ndarray:
    """The ink of each in the middle of a square frame whose height it fills, as in the bundled digits."""
    frames_NHW = np.zeros((len(images_NHW), SIDE, SIDE), np.uint8)
    for frame_HW, image_HW in zip(frames_NHW, images_NHW, strict=True):
        strokes = resized(ink(image_HW), SIDE)
        start = (SIDE - strokes.shape[1]) // 2
        frame_HW[:, start : start + strokes.shape[1]] = strokes
    return frames_NHW
