"""Real handwriting: scikit-learn's bundled digits (8x8 grey levels), each sample in one split only."""

import importlib.util
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from unival.data.benchmarks.world.drawing import tight
from unival.errors import UserError
from unival.record import NUMBERS

PORTIONS = {"train": (0, 7), "val": (7, 8), "test": (8, 10)}
"""Tenths of the samples for each split; evaluation shifts draw from the test portion."""


class DigitBank:
    """Handwritten digits of one collection and portion.

    Args:
        images_NHW: bright strokes on dark, in [0, 1].
        labels_N: 0 to 9.
        origin: name of the collection and portion.
    """

    def __init__(self, images_NHW: np.ndarray, labels_N: np.ndarray, origin: str) -> None:
        self.origin = origin
        self.strokes = [(tight(image_HW) * 255).astype(np.uint8) for image_HW in images_NHW]
        """Each image cropped to its strokes, uint8."""
        self._rows = [np.flatnonzero(labels_N == label) for label in range(10)]

    def choose(self, rng: Random, digit: str) -> int:
        """A random row that shows the digit."""
        rows = self._rows[NUMBERS.index(digit)]
        return int(rows[int(rng.random() * len(rows))])


@cache
def bundled() -> tuple[np.ndarray, np.ndarray]:
    """All bundled digits: strokes (1797, 8, 8) and labels (1797,).

    The file is read directly: importing `sklearn.datasets` for it costs two seconds.

    Raises:
        UserError: scikit-learn or its file is missing.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UserError(
            "scikit-learn is missing, whose handwritten digits the world needs: pip install scikit-learn"
        )
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise UserError(f"{path}: scikit-learn's digits are missing: reinstall scikit-learn")
    table = np.loadtxt(path, delimiter=",")
    return (table[:, :64].reshape(-1, 8, 8) / 16.0).astype(np.float32), table[:, 64].astype(np.int64)


@cache
def bundled_bank(portion: str) -> DigitBank:
    """The bundled samples of one split: row i belongs to the split that holds tenth i % 10."""
    strokes_NHW, labels_N = bundled()
    first, last = PORTIONS[portion]
    tenth_N = np.random.default_rng(1797).permutation(len(labels_N)) % 10
    chosen = np.flatnonzero((tenth_N >= first) & (tenth_N < last))
    return DigitBank(strokes_NHW[chosen], labels_N[chosen], f"sklearn/{portion}")


def bank_from_arrays(images_NHW: np.ndarray, labels_N: np.ndarray, origin: str) -> DigitBank:
    """A bank from another collection: bright strokes on dark, any size; uint8 or float.

    Raises:
        UserError: shapes do not fit, or a digit is missing.
    """
    if images_NHW.ndim != 3 or labels_N.shape != images_NHW.shape[:1]:
        raise UserError(f"{origin}: expected images (N, h, w) and labels (N,), found {images_NHW.shape}")
    missing = sorted(set(range(10)) - set(np.unique(labels_N).tolist()))
    if missing:
        raise UserError(f"{origin}: no image of digit {missing[0]}: handwriting needs all ten digits")
    strokes = images_NHW.astype(np.float32)
    return DigitBank(strokes / max(float(strokes.max()), 1e-6), labels_N.astype(np.int64), origin)
