"""Calibration: how well the probabilities of answers tell right from wrong."""

import numpy as np

BINS = 10


def expected_calibration_error(confidence_N: np.ndarray, right_N: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over ten bins of equal width (Guo et al. 2017).

    Args:
        confidence_N: probability given to the predicted answer, in [0, 1].
        right_N: 1 where it was right, else 0; a soft score is taken as it is.
    """
    place_N = np.minimum((confidence_N * BINS).astype(int), BINS - 1)
    # a bin weighs by its rows, so that these cancel against the means
    gap_B = np.bincount(place_N, weights=confidence_N - right_N, minlength=BINS)
    return float(np.abs(gap_B).sum() / max(len(confidence_N), 1))


def brier(confidence_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """Squared distance of confidence and being right, of every row (N,). The metric is the mean."""
    return (confidence_N - right_N) ** 2
