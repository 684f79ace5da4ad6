"""Effects over seeds and media: identities, coverage, error rates of verdicts."""

import numpy as np
import pytest
from scipy import stats

from tests.metrics.simulation import simulate, simulate_wins
from unival.metrics.significance import Paired, detectable, effect, holm, sign_flip


def test_with_rows_that_all_agree_the_interval_is_the_paired_t_test_of_the_seeds() -> None:
    of_seed_S = np.array([0.1, 0.3, 0.2, 0.25, 0.05, 0.2])
    found = effect([Paired(np.repeat(of_seed_S[:, None], 40, axis=1), range(40))])
    test = stats.ttest_1samp(of_seed_S, 0.0)
    low, high = test.confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((of_seed_S.mean(), low, high))
    assert found.p == pytest.approx(test.pvalue)
    assert found.flip_p == 2 / 2**6


def test_with_seeds_that_all_agree_the_interval_is_the_t_test_of_the_media() -> None:
    rows_N = np.random.default_rng(0).normal(0.1, 1.0, 50)
    found = effect([Paired(np.tile(rows_N, (6, 1)), range(50))])
    low, high = stats.ttest_1samp(rows_N, 0.0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))


def test_rows_of_one_medium_count_as_one() -> None:
    rng = np.random.default_rng(1)
    of_medium = rng.normal(size=(6, 30))
    alone = effect([Paired(of_medium, range(30))])
    fourfold = effect([Paired(np.repeat(of_medium, 4, axis=1), np.repeat(range(30), 4).tolist())])
    assert fourfold[:4] == pytest.approx(alone[:4])


def test_comparisons_count_the_same_whatever_their_rows() -> None:
    small, large = np.full((3, 2), 1.0), np.full((3, 200), 0.0)
    assert effect([Paired(small, "ab"), Paired(large, range(200))]).value == 0.5


def test_one_seed_covers_the_media_alone_and_decides_nothing() -> None:
    found = effect([Paired(np.full((1, 20), 1.0) + np.arange(20) / 100, range(20))])
    assert found.low > 0.9
    assert found.flip_p == 1 and found.decide(found.p) == "undecided"


def test_parts_must_share_their_seeds() -> None:
    with pytest.raises(ValueError, match="2 seeds"):
        effect([Paired(np.zeros((2, 3)), range(3)), Paired(np.zeros((3, 3)), range(3))])


def test_sign_flips() -> None:
    assert sign_flip(np.array([1.0, 2.0, 3.0])) == 2 / 2**3
    assert sign_flip(np.array([1.0, -1.0, 1.0, -1.0])) == 1


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_an_effect_that_is_said_to_be_detectable_is_detected() -> None:
    rng = np.random.default_rng(2)
    size = detectable(0.05**2, 0.01**2, seeds=8, tests=1)
    studies = (size + rng.normal(0, 0.05, (8, 1)) + rng.normal(0, 0.1, (1, 100)) for _ in range(200))
    decided = [effect([Paired(study, range(100))]) for study in studies]
    assert 0.7 < np.mean([found.decide(found.p) == "supported" for found in decided]) < 0.9


@pytest.mark.parametrize("seeds", [6, 10])
def test_intervals_cover_and_verdicts_are_seldom_wrong(seeds: int) -> None:
    """docs/statistics.md has the same of 1,000 studies."""
    rates = simulate(60, seeds, media=200, spread=0.06)
    assert 0.93 <= rates.covered <= 0.98
    assert rates.wrong <= 0.01 and rates.any_wrong <= 0.1


@pytest.mark.parametrize("shared", [0.2, 0.8])
def test_verdicts_on_wins_are_seldom_wrong(shared: float) -> None:
    """Averages of subsets of experts have experts in common: docs/statistics.md has 1,000 studies."""
    rates = simulate_wins(60, 6, comparisons=28, shared=shared)
    assert 0.93 <= rates.covered <= 0.98
    assert rates.wrong <= 0.01 and rates.any_wrong <= 0.1
