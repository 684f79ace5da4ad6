"""Intervals: coverage, pairing, determinism."""

import numpy as np
import pytest

from unival.metrics.bootstrap import difference, interval, resampled_means, statistic
from unival.metrics.calibration import brier, expected_calibration_error


def test_intervals_cover_the_truth_at_their_level():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        low, high = interval((rng.random(120) < 0.3).astype(float), seed=trial, resamples=500)[1:]
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_the_interval_of_a_mean_is_the_normal_one_for_many_rows():
    scores = np.random.default_rng(1).normal(2.0, 1.0, 2000)
    value, low, high = interval(scores)
    error = scores.std() / np.sqrt(len(scores))
    assert value == pytest.approx(scores.mean())
    assert (low, high) == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=0.15 * error)


def test_pairing_narrows_the_difference():
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 1, 400)
    first, second = hard + 0.05 + rng.normal(0, 0.05, 400), hard
    value, low, high = difference(first, second)
    assert 0 < low < value < high
    single = interval(first)
    assert high - low < 0.2 * (single.high - single.low)


def test_rows_about_one_medium_are_drawn_together():
    """Every row twice is no more knowledge; what differs between the rows of a medium still counts."""
    scores = np.random.default_rng(4).normal(0, 1, 200)
    media = [f"image-{number}" for number in range(200)]
    assert interval(scores, groups=media) == interval(scores)
    twice, both = np.repeat(scores, 2), np.repeat(media, 2).tolist()
    assert interval(twice, groups=both) == pytest.approx(interval(scores))
    plain = interval(twice)
    assert plain.high - plain.low < 0.8 * (interval(scores).high - interval(scores).low)
    assert difference(twice + 0.1, twice, groups=both) == pytest.approx((0.1, 0.1, 0.1))
    means = resampled_means(twice, 0, 50, both)
    np.testing.assert_allclose(means, resampled_means(scores, 0, 50))
    with pytest.raises(ValueError, match="200 groups of 400 rows"):
        interval(twice, groups=media)


def test_intervals_of_unequal_groups_cover_the_truth():
    """One to five rows of a medium share most of their luck: drawn one by one, intervals are too narrow."""
    rng = np.random.default_rng(5)
    covered = {"media": 0, "rows": 0}
    for _ in range(200):
        media = np.repeat(np.arange(60), rng.integers(1, 6, 60))
        scores = rng.normal(0, 1, 60)[media] + rng.normal(0, 0.3, len(media))
        for kind, groups in (("media", media.tolist()), ("rows", None)):
            low, high = interval(scores, resamples=400, groups=groups)[1:]
            covered[kind] += low <= 0 <= high
    assert covered["media"] / 200 >= 0.90 > covered["rows"] / 200


def test_the_same_seed_gives_the_same_interval_whatever_the_chunks(monkeypatch):
    from unival.metrics import bootstrap

    scores = np.random.default_rng(3).random(50)
    expected = interval(scores)
    monkeypatch.setattr(bootstrap, "_CHUNK", 500)
    assert interval(scores) == expected


def test_a_ratio_of_sums():
    statistics = np.stack([np.arange(1, 11), np.full(10, 10)], axis=1).astype(float)
    found = statistic(statistics, lambda sums: sums[..., 0] / sums[..., 1])
    assert found.value == pytest.approx(0.55)
    assert found.low < 0.55 < found.high


def test_rows_must_match_and_exist():
    with pytest.raises(ValueError, match="same rows"):
        difference(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="no rows"):
        interval(np.zeros(0))


def test_calibration():
    sure, right = np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0])
    assert expected_calibration_error(sure, right) == 0 and brier(sure, right).tolist() == [0, 0, 0]
    sure, right = np.full(4, 0.95), np.array([0.0, 0.0, 1.0, 0.0])
    assert expected_calibration_error(sure, right) == pytest.approx(0.70)
    assert brier(sure, right) == pytest.approx([0.9025, 0.9025, 0.0025, 0.9025])
