"""Properties of box overlap."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unival.metrics import boxes

side = st.floats(0, 100, allow_nan=False)


@st.composite
def box(draw):
    x0, x1 = sorted((draw(side), draw(side)))
    y0, y1 = sorted((draw(side), draw(side)))
    return np.array([[x0, y0, x1 + 1, y1 + 1]])


@given(box(), box(), st.floats(0.1, 10), st.floats(-50, 50))
def test_iou_is_a_similarity(first, second, scale, shift):
    iou = boxes.iou(first, second)
    assert 0 <= iou[0] <= 1
    np.testing.assert_allclose(boxes.iou(second, first), iou)
    np.testing.assert_allclose(boxes.iou(first, first), 1.0)
    moved = boxes.iou(first * scale + shift, second * scale + shift)
    np.testing.assert_allclose(moved, iou, atol=1e-6)


def test_known_overlaps():
    first = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=float)
    second = np.array([[1, 1, 3, 3], [0, 0, 2, 1], [2, 2, 3, 3], [0, 0, 0, 0]], dtype=float)
    np.testing.assert_allclose(boxes.iou(first, second), [1 / 7, 0.5, 0, 0])
    np.testing.assert_array_equal(boxes.accuracy(np.array([0.5, 0.49]), 0.5), [1, 0])


def test_size_classes_cover_all_boxes_once():
    sides = np.array([100, 173, 174, 316, 317, 500], dtype=float)
    truth = np.stack([np.zeros(6), np.zeros(6), sides, sides], axis=1)
    classes = boxes.size_classes(truth)
    np.testing.assert_array_equal(sum(mask.astype(int) for mask in classes.values()), 1)
    assert [int(mask.sum()) for mask in classes.values()] == [2, 2, 2]


def test_the_best_constant_box_beats_others():
    rng = np.random.default_rng(0)
    truth = np.clip(np.array([0.25, 0.25, 0.75, 0.75]) + rng.normal(0, 0.05, (200, 4)), 0, 1)
    best = boxes.best_constant(truth, 8)
    np.testing.assert_allclose(best, [0.25, 0.25, 0.75, 0.75], atol=0.13)
