"""Boxes: overlap, accuracy at a threshold, size classes, the best constant box.

Boxes are (N, 4) arrays of x0, y0, x1, y1 (top-left and bottom-right corner) in pixels, float64.
"""

from collections.abc import Mapping

import numpy as np

SMALL, LARGE = 30_000.0, 100_000.0
"""Areas in square pixels that part small, medium and large objects (docs/reference.md 3.4)."""


def area(boxes_N4: np.ndarray) -> np.ndarray:
    """Area of each box; 0 for one whose corners are swapped."""
    sides_N2 = np.maximum(boxes_N4[..., 2:] - boxes_N4[..., :2], 0.0)
    return sides_N2[..., 0] * sides_N2[..., 1]


def iou(first_N4: np.ndarray, second_N4: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair, (N,); broadcasts. Two empty boxes have 0."""
    corner_N2 = np.maximum(first_N4[..., :2], second_N4[..., :2])
    opposite_N2 = np.minimum(first_N4[..., 2:], second_N4[..., 2:])
    sides_N2 = np.maximum(opposite_N2 - corner_N2, 0.0)
    shared_N = sides_N2[..., 0] * sides_N2[..., 1]
    union_N = area(first_N4) + area(second_N4) - shared_N
    return np.divide(shared_N, union_N, out=np.zeros_like(shared_N), where=union_N > 0)


def accuracy(iou_N: np.ndarray, threshold: float) -> np.ndarray:
    """1 where the overlap reaches the threshold, else 0, float64 (N,)."""
    return (iou_N >= threshold).astype(np.float64)


def size_classes(truth_N4: np.ndarray) -> Mapping[str, np.ndarray]:
    """Three masks (N,): small (below SMALL), medium and large (above LARGE) boxes."""
    area_N = area(truth_N4)
    is_small, is_large = area_N < SMALL, area_N > LARGE
    return {"small": is_small, "medium": ~is_small & ~is_large, "large": is_large}


def best_constant(truth_N4: np.ndarray, grid: int) -> np.ndarray:
    """The box on a `grid` x `grid` raster of the unit square with the best Acc@0.5, of equals IoU, (4,)."""
    edges = np.arange(grid + 1) / grid
    x0, y0, x1, y1 = np.meshgrid(edges, edges, edges, edges, indexing="ij")
    boxes_C4 = np.stack([axis.ravel() for axis in (x0, y0, x1, y1)], axis=-1)
    boxes_C4 = boxes_C4[area(boxes_C4) > 0]
    iou_CN = iou(boxes_C4[:, None], truth_N4[None])
    return boxes_C4[np.argmax((iou_CN >= 0.5).mean(axis=1) + 1e-3 * iou_CN.mean(axis=1))]
