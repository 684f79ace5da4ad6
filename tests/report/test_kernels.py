"""Verdicts on other kernels of the processor beside those that are there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_verdicts import claim, study
from unival.commands import kernels
from unival.errors import UserError
from unival.provenance import machine
from unival.report import spread
from unival.study.tables import Repeat

CLAIMS = {"gains": claim()}


def compared(gain: float, other: float, seeds: int = 6, again: int = 2) -> spread.Kernels:
    """A study with one gain whose first seeds give another one on other kernels."""
    here, there = (study(seeds, {"vqa": value, "grounding": value}) for value in (gain, other))
    both = replace(here, kernels={number: there.seeds[number] for number in range(again)})
    (found,) = spread.kernels(CLAIMS, both)
    return found


@pytest.mark.parametrize(
    ("gain", "other", "flipped"),
    [
        (0.2, 0.15, False),
        (0.2, 0.0, False),
        (0.2, -0.2, True),
        (-0.2, 0.2, True),
        (0.0, 0.0, False),
    ],
)
def test_a_flip_is_from_clearly_better_to_clearly_worse(gain: float, other: float, flipped: bool) -> None:
    """Also where the seeds are too few for a verdict, or the others outweigh them."""
    assert compared(gain, other, again=4).flipped is flipped
    assert compared(gain, other, seeds=4, again=4).flipped is flipped
    assert compared(gain, other, again=6).flipped is flipped


def test_both_verdicts_and_both_effects_stand_side_by_side() -> None:
    found = compared(0.2, 0.15)
    cells = dict(zip(spread.COLUMNS, found.cells(), strict=True))
    assert (cells["study"], cells["with other kernels"]) == ("supported", "supported")
    assert cells["these seeds"].startswith("+") and cells["these seeds"] != cells["on other kernels"]
    assert (found.here.seeds, found.there.seeds, found.mixed.seeds) == (2, 2, 6)


def test_without_seeds_on_other_kernels_there_is_nothing_to_compare() -> None:
    assert spread.kernels(CLAIMS, study(6, {"vqa": 0.2})) == []


@pytest.mark.fault
@pytest.mark.parametrize(
    ("chosen", "there", "instructions", "message"),
    [
        ([], [], "", "`seeds` is empty"),
        ([3], [0, 1], "", "--seeds 3: not one of `seeds` in params.yaml: 1, 2"),
        ([2], [0, 1], "", "reports/seeds/2: not of the study as it is now"),
        ([1], [0, 1], "these", "kernels already"),
        ([1], [0, 1], ["AVX2", "AVX512"], r"several kinds of kernels \(instructions AVX2 and AVX512\)"),
        ([1], [0, 1], "other", ""),
    ],
)
def test_seeds_that_cannot_be_compared_are_refused(
    chosen: list[int], there: list[int], instructions: Any, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIVAL_RUNTIME", "cpu")
    (tmp_path / "conf").symlink_to(Path(__file__).parents[2] / "conf")
    ran = {"instructions": machine()["instructions"] if instructions == "these" else instructions}
    note = Repeat(seed=1, study="", data="", code="", commit=None, machine=ran)
    (tmp_path / "reports/seeds/1").mkdir(parents=True)
    (tmp_path / "reports/seeds/1/seed.json").write_text(json.dumps(vars(note)))
    if not message:
        kernels.check(chosen, there, [1, 2])
        return
    with pytest.raises(UserError, match=message):
        kernels.check(chosen, there, [1, 2])
