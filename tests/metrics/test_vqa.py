"""VQA accuracy: the official normalisation, the soft score, a worked example."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unival.metrics.vqa import consensus, leave_one_out, normalise, soft_score


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Two", "2"),
        ("none", "0"),
        ("the red ball", "red ball"),
        ("A  dog.", "dog"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("yes, sir", "yes sir"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("dont know", "don't know"),
        ("don't", "don t"),  # the official code takes the apostrophe out before it looks for contractions
        ("oclock", "o'clock"),
        ("wouldntve", "wouldntve"),  # only contractions that lack one apostrophe are mended
        ("what\nis", "what is"),
    ],
)
def test_normalisation(answer, expected):
    assert normalise(answer) == expected


def test_worked_example():
    """Ten annotators: six say 2 in words or digits, three say three, one is unsure."""
    humans = ["2", "two", "2", "2", "2", "2", "three", "three", "3", "not sure"]
    # six others agree in 4 of 10 subsets, five in 6: all at least three
    assert leave_one_out("two", humans) == 1.0
    # "3": the three annotators who said it each see two others (2/3), the other seven see three (1)
    assert leave_one_out("3", humans) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    # one annotator: zero when left out, a third otherwise
    assert leave_one_out("not sure", humans) == pytest.approx(0.3)
    assert leave_one_out("four", humans) == 0.0


@pytest.mark.parametrize(("count", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_consensus_of_ten(count, score):
    assert consensus(count) == pytest.approx(score)


def test_where_all_agree_answers_are_compared_as_they_are():
    assert leave_one_out("two", ["two"] * 10) == 1.0
    assert leave_one_out("2", ["two"] * 10) == 0.0


def test_soft_score_takes_the_weight_of_the_matching_answer():
    weights = {"red": 1.0, "two dogs": 0.6, "2 dogs": 0.3}
    assert soft_score("red", weights) == 1.0
    assert soft_score("The red.", weights) == 1.0
    assert soft_score("two dogs", weights) == 0.6
    assert soft_score("2  dogs!"[:7], weights) == 0.6
    assert soft_score("blue", weights) == 0.0


@given(st.lists(st.sampled_from(["red", "blue", "two", "2", "a cat"]), min_size=10, max_size=10))
def test_the_soft_score_of_counts_is_the_leave_one_out_score(humans):
    normal = [normalise(answer) for answer in humans]
    for answer in set(humans):
        if len(set(humans)) > 1:
            assert leave_one_out(answer, humans) == pytest.approx(consensus(normal.count(normalise(answer))))
