"""Calibration of answers with a probability."""

from typing import NamedTuple

import numpy as np


class Calibration(NamedTuple):
    """How well probabilities tell right from wrong."""

    ece: float
    """Expected calibration error: mean distance of confidence and accuracy over the bins."""
    brier: float
    """Mean squared distance of confidence and being right (of the chosen answer)."""
    confidence: np.ndarray
    """Mean confidence of each bin that has rows, (bins,)."""
    accuracy: np.ndarray
    """Accuracy of each of these bins, (bins,)."""
    rows: np.ndarray
    """Rows in each of these bins, (bins,)."""


def calibration(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = 10) -> Calibration:
    """Calibration over `bins` bins of equal width (Guo et al. 2017).

    Args:
        confidence_N: probability given to the predicted answer, in [0, 1].
        right_N: 1 where it was right, else 0; a soft score is taken as it is.
    """
    place_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    count_B = np.bincount(place_N, minlength=bins)
    used_B = count_B > 0
    mean = [
        np.bincount(place_N, weights=values, minlength=bins)[used_B] / count_B[used_B]
        for values in (confidence_N, right_N)
    ]
    share_B = count_B[used_B] / max(len(confidence_N), 1)
    ece = float((share_B * np.abs(mean[0] - mean[1])).sum())
    brier = float(((confidence_N - right_N) ** 2).mean()) if len(confidence_N) else 0.0
    return Calibration(ece, brier, mean[0], mean[1], count_B[used_B])
