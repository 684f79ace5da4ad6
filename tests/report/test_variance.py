"""Where the spread of a score comes from."""

from dataclasses import replace

import numpy as np
import pytest

from tests.report.test_verdicts import scores
from unival.study import variance
from unival.study.evidence import Evidence, Seed

MEDIA = 400


def evidence(seeds: int, of_seed: float, of_medium: float, shifts: tuple[float, ...] = ()) -> Evidence:
    """Scores of one task whose seeds, media and shifts spread so much; single rows hardly."""
    rng = np.random.default_rng(0)
    medium_G = rng.normal(0, of_medium, MEDIA)
    found = {}
    for number in range(seeds):
        row_G = medium_G + rng.normal(0, of_seed) + rng.normal(0, 0.01, MEDIA)
        tables = {("finetune/vqa", "vqa", "test"): scores(0.5 + row_G)}
        tables |= {
            ("finetune/vqa", "vqa", f"ood-{place}"): scores(mean + 0 * row_G)
            for place, mean in enumerate(shifts)
        }
        found[number] = Seed(tables, {"vqa": 0.3})
    return Evidence(found, "pretrain/p", [])


def test_seeds_and_media_are_told_apart() -> None:
    (line,) = variance.table(evidence(40, of_seed=0.1, of_medium=0.4, shifts=(0.2, 0.3, 0.4)))
    assert line.seed == pytest.approx(0.1, rel=0.3)
    assert line.medium == pytest.approx(0.4 / MEDIA**0.5, rel=0.15)
    assert line.shift == pytest.approx(0.1) and line.kernels is None
    assert (line.task, line.model, line.seeds) == ("vqa", "finetune/vqa", 40)


def test_kernels_spread_as_two_draws_of_the_same_seed_do() -> None:
    here = evidence(2, 0.0, 0.1)
    there = {
        number: Seed({key: rows + 0.1 for key, rows in seed.scores.items()}, seed.baselines)
        for number, seed in here.seeds.items()
    }
    (line,) = variance.table(replace(here, kernels=there))
    assert line.kernels == pytest.approx(0.1 / 2**0.5, abs=1e-6)


def test_one_seed_says_nothing_of_others() -> None:
    assert not list(variance.table(evidence(1, 0.1, 0.1)))
