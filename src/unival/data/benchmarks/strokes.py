"""The strokes of a handwriting sample, without its margins, at any height."""

import numpy as np
from PIL import Image


def ink(image_HW: np.ndarray) -> np.ndarray:
    """The part of a sample that holds strokes, so that collections with other margins look alike."""
    rows, columns = np.flatnonzero(image_HW.max(1) > 32), np.flatnonzero(image_HW.max(0) > 32)
    if not len(rows):
        return image_HW
    return image_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def resized(image_HW: np.ndarray, height: int) -> np.ndarray:
    """The strokes at another height, width in proportion (at least 3 pixels, at most the height)."""
    size = shape_at(image_HW, height)[::-1]
    return np.asarray(Image.fromarray(image_HW).resize(size, Image.Resampling.BOX))


def shape_at(image_HW: np.ndarray, height: int) -> tuple[int, int]:
    """Height and width of strokes that are `resized`."""
    width = round(image_HW.shape[1] * height / image_HW.shape[0])
    return height, min(max(width, 3), height)
