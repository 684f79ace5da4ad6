"""VQA accuracy: the official normalisation, leave-one-out, recorded official figures, soft answers."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unival.errors import UserError
from unival.metrics.vqa import soft_score
from unival.vqa_answers import consensus, leave_one_out, normalise, soft_answers


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Two", "2"),
        ("none", "0"),
        ("the red ball", "red ball"),
        ("A  dog.", "dog"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("e.g. 3.", "eg 3"),
        ("yes, sir", "yes sir"),
        ("what\nis", "what is"),
        ("dont know", "don't know"),
        ("oclock", "o'clock"),
        ("wouldntve", "wouldntve"),  # only contractions that lack one apostrophe are mended
        ("somebody'd", "somebodyd"),  # the one entry of the official table that takes an apostrophe away
        # apostrophes and colons are no punctuation
        ("don't", "don't"),
        ("the man's hat", "man's hat"),
        ("7:45", "7:45"),
        ("'no'", "'no'"),
        ("5$ & #2*", "5$ & #2*"),
    ],
)
def test_normalisation(answer, expected):
    assert normalise(answer) == expected


@pytest.mark.parametrize("sign", ';/[]"{}()=+\\_-><@`,?!')
def test_punctuation_becomes_a_space_or_nothing(sign):
    """Nothing, where the answer has the sign beside a space or a comma between digits, wherever that is."""
    assert normalise(f"red{sign}white") == "red white"
    assert normalise(f"red{sign} white") == normalise(f"red {sign}white") == "red white"
    assert normalise(f"red{sign}white {sign}blue") == "redwhite blue"
    assert normalise(f"red{sign}white 2,500") == "redwhite 2500"
    assert normalise(f"{sign}red{sign}\n") == "red"


def test_only_32_periods_go():
    """The official code hands `re.UNICODE` to `sub` where the number of replacements belongs."""
    assert normalise("x" + "." * 40 + "y") == "x" + "." * 8 + "y"


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
    assert leave_one_out("Two", ["two"] * 10) == 0.0


@pytest.mark.parametrize("blank", [" ", "\n", "\t", "\u00a0"])
def test_white_space_at_the_ends_is_no_disagreement(blank):
    """Answers are stripped before it is asked whether all agree."""
    humans = ["no"] * 8 + [f"no{blank}", f"{blank}no"]
    assert leave_one_out(f"no{blank}", humans) == 1.0
    assert leave_one_out("no!", humans) == 0.0


@pytest.mark.skipif("UNIVAL_METRICS" not in os.environ, reason="UNIVAL_METRICS is not set")
def test_recorded_figures_of_the_official_code():
    differ, count = [], 0
    for path in sorted(Path(os.environ["UNIVAL_METRICS"]).glob("vqa_*.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            count += 1
            found = leave_one_out(row["prediction"], row["answers"]), normalise(row["prediction"])
            if found != (pytest.approx(row["accuracy"], abs=1e-9), row["normalised"]):
                differ.append((path.name, row["id"], found))
    assert count and not differ


WORDS = ["red", "blue", "two", "2", "a cat", "cat!", "t-shirt", "don't", "dont", "", " ", "A", "the", "no "]


@given(st.lists(st.sampled_from(WORDS), min_size=2, max_size=10))
def test_a_soft_answer_weighs_what_giving_it_scores(humans):
    soft = soft_answers(humans) if any(map(str.strip, humans)) else ()
    for answer in soft:
        assert answer.text.strip()
        assert answer.weight == pytest.approx(leave_one_out(answer.text, humans), abs=1e-4)
    scores = {leave_one_out(human, humans) for human in humans if human.strip()}
    assert {answer.weight for answer in soft} == {round(score, 4) for score in scores if score}


def test_soft_answers():
    def weights(*humans):
        return {answer.text: answer.weight for answer in soft_answers(humans)}

    assert weights(*["yes"] * 5, *["no"] * 3, *["maybe"] * 2) == {"yes": 1.0, "no": 0.9, "maybe": 0.6}
    assert weights(*["two"] * 2, *["2"] * 2, *["Three!"] * 3, *["x-ray"] * 3) == {
        "2": 1.0,
        "3": 0.9,
        "x ray": 0.9,
    }
    # nine that agree and a blank one: they differ, so that answers are normalised
    assert weights(*["Two"] * 9, "") == {"2": 1.0}
    assert weights(*["Two"] * 9, "Two ") == {"Two": 1.0}
    # an article alone is nothing to the evaluation, but can be given as an answer
    assert weights(*["A"] * 7, *["C"] * 3) == {"A": 1.0, "c": 0.9}
    assert weights("x") == {"x": 1.0}
    for humans, reason in (([], "no answers"), (["", " "], "all answers are blank")):
        with pytest.raises(UserError, match=reason):
            soft_answers(humans)


def test_soft_score_takes_the_weight_of_the_matching_answer():
    weights = {"red": 1.0, "two dogs": 0.6, "2 dogs": 0.3}
    assert soft_score("red", weights) == 1.0
    assert soft_score("The red.", weights) == 1.0
    assert soft_score("two dogs", weights) == 0.6
    assert soft_score("2  dogs!", weights) == 0.6
    assert soft_score("blue", weights) == 0.0
