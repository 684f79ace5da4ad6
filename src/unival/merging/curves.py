"""What a merge buys, from scores: barriers, Pareto front, area, effective robustness.

Everything here is arithmetic on scores that the caller evaluated (see `live.Interpolation`). `barrier` works
on any leading axes, so that resamples of a bootstrap go through it like the scores themselves.
"""

from collections.abc import Sequence

import numpy as np


def barrier(ts: Sequence[float], losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, t): the largest excess of the loss over the chord between the ends, and where it is.

    B = max_t L(t) - (1 - t) L(0) - t L(1) (Entezari et al. 2022, arXiv 2110.06296; Frankle et al. 2020 take
    the mean of both ends instead of the chord); 0 at the ends, so B >= 0. For a score, where more is better,
    give its negative.

    Args:
        ts: T places in increasing order, the first 0 and the last 1.
        losses: (..., T).

    Raises:
        ValueError: an end is missing.
    """
    places, values = np.asarray(ts, dtype=float), np.asarray(losses, dtype=float)
    if places[0] != 0 or places[-1] != 1 or (np.diff(places) <= 0).any():
        raise ValueError("a barrier needs both ends, t = 0 and t = 1, and increasing t")
    excess = values - ((1 - places) * values[..., :1] + places * values[..., -1:])
    return excess.max(axis=-1), places[excess.argmax(axis=-1)]


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other point beats in all objectives (more is better), in input order.

    A point with NaN is on no front: it can be compared with none.
    """
    values = np.asarray(points, dtype=float)
    kept = []
    for i, point in enumerate(values):
        if np.isnan(point).any():
            continue
        no_worse, better = (values >= point).all(axis=1), (values > point).any(axis=1)
        if not (no_worse & better).any():
            kept.append(i)
    return kept


def dominated_area(points: Sequence[Sequence[float]]) -> float:
    """The area between the origin and the front of points (x, y): the hypervolume of two objectives."""
    values = np.asarray(points, dtype=float)
    values = values[(values > 0).all(axis=1)]
    # strips from the top: between two heights, as wide as the widest point that reaches above
    heights = np.unique(values[:, 1])[::-1]
    lower = [*heights[1:], 0.0]
    strips = zip(heights, lower, strict=False)  # of no heights there are none
    return float(sum((top - bottom) * values[values[:, 1] >= top, 0].max() for top, bottom in strips))


def effective_robustness(identity: float, shifted: float, references: Sequence[tuple[float, float]]) -> float:
    """OOD score minus what a line through reference models predicts from the ID score.

    After Taori et al. (2020, arXiv 2007.00644), who draw the line through logits of accuracies; here through
    the scores, which are not all shares.

    Args:
        identity, shifted: the model's ID and OOD scores. references: (ID, OOD) of at least two other models.
    """
    xs, ys = zip(*references, strict=True)
    slope, intercept = np.polyfit(xs, ys, 1)
    return shifted - float(slope * identity + intercept)
