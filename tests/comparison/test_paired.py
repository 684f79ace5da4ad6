"""Rows of two models on one cell: their intervals are right, and what means something else is left out."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from unival.comparison import paired
from unival.errors import UserError
from unival.metrics import caption

WORDS = ("a", "red", "small", "circle", "blue", "square", "above", "star")


def row(number: int, **changed):
    """A line of a predictions file."""
    line = {"id": f"r{number}", "media": {"image": f"image-{number // 2}"}, "text": "which?", "output": "yes"}
    return line | {"answers": {"yes": 1.0}, "prediction": "yes", "scores": {"accuracy": 1.0}} | changed


def rows(count: int = 6, **changed):
    """Lines by id."""
    return {f"r{number}": row(number, **changed) for number in range(count)}


def measured(first, second):
    """Metric -> what is measured of it, and what is left out."""
    found = paired.cell([first], [second])
    return {one.metric: one for one in found.measured()}, found.left_out


def equally_good(rng: np.random.Generator, count: int, media: int):
    """Two models that are right with the same chance, which depends on the medium."""
    skill = rng.beta(2, 1, media)
    numbers = rng.integers(media, size=count)
    return [
        {
            f"r{place}": row(place, media={"image": f"m{number}"}, prediction=f"{side}")
            | {"scores": {"accuracy": float(rng.random() < skill[number])}}
            for place, number in enumerate(numbers)
        }
        for side in range(2)
    ]


def captioned(rng: np.random.Generator, count: int):
    """Two models that drop as many words of the captions."""
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(count)]
    return [
        {
            f"r{place}": row(place, media={"image": f"m{place // 2}"}, answers={}, references=[text])
            | {"prediction": " ".join(word for word in text.split() if rng.random() < 0.8)}
            | {"scores": {"rouge_l": 0.0}}
            for place, text in enumerate(texts)
        }
        for _ in range(2)
    ]


def coverage(make, metric: str, pairs: int) -> float:
    """How often the interval of models that do not differ holds zero."""
    rng = np.random.default_rng(0)
    effects = [measured(*make(rng))[0][metric].effect for _ in range(pairs)]
    return float(np.mean([one.low <= 0 <= one.high for one in effects]))


def test_intervals_of_equal_models_hold_zero():
    assert 0.93 <= coverage(lambda rng: equally_good(rng, 80, 40), "accuracy", 400) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "metric"),
    [
        (lambda rng: equally_good(rng, 500, 250), "accuracy"),
        (lambda rng: equally_good(rng, 100, 50), "accuracy"),
        (lambda rng: captioned(rng, 200), "bleu_4"),
        (lambda rng: captioned(rng, 200), "bleu_1"),
    ],
    ids=["500 rows", "100 rows", "BLEU-4", "BLEU-1"],
)
def test_intervals_of_a_thousand_equal_pairs(make, metric):
    """The figures of docs/comparing.md."""
    assert 0.93 <= coverage(make, metric, 1000) <= 0.97


def test_a_difference_is_of_the_second_from_the_first():
    second = rows()
    second["r0"]["scores"] = {"accuracy": 0.0}
    second["r0"]["prediction"] = "no"
    found = measured(rows(), second)[0]["accuracy"]
    assert (found.before, found.rows) == (1.0, 6)
    assert found.effect.value == pytest.approx(-1 / 6) == pytest.approx(found.after - found.before)


def test_seeds_are_paired_and_counted():
    worse = rows(scores={"accuracy": 0.0}, prediction="no")
    found = list(paired.cell([rows(), rows(), rows()], [rows(), worse, rows()]).measured())
    assert found[0].effect.seeds == 3 and found[0].effect.value == pytest.approx(-1 / 3)


def test_bleu_is_that_of_the_corpus():
    first, second = captioned(np.random.default_rng(1), 50)
    found = measured(first, second)[0]["bleu_2"]
    for lines, value in ((first, found.before), (second, found.after)):
        sums = caption.bleu_statistics(
            [line["prediction"] for line in lines.values()], [line["references"] for line in lines.values()]
        ).sum(axis=0)
        assert value == pytest.approx(caption.bleu_of(2)(sums))


@pytest.mark.parametrize("name", ["media", "text", "answers"])
def test_rows_that_ask_or_expect_something_else_are_left_out(name):
    other = rows()
    other["r3"][name] = {"image": "another"} if name == "media" else {"no": 1.0} if name == "answers" else "?"
    found, left_out = measured(rows(), other)
    assert found["accuracy"].rows == 5
    assert left_out == ["1 rows: ask or expect something else"]


def test_rows_of_one_alone_are_left_out():
    found, left_out = measured(rows(6), rows(4))
    assert found["accuracy"].rows == 4 and left_out == ["2 rows: in one of them alone"]


def test_cider_is_not_compared_over_other_references():
    scores = {"cider": 1.0, "exact": 1.0}
    found, left_out = measured(rows(6, scores=scores), rows(4, scores=scores))
    assert set(found) == {"exact"} and any(what.startswith("cider: ") for what in left_out)
    other = rows(6, scores=scores)
    other["r0"]["references"] = ["something else"]
    assert "cider" not in measured(rows(6, scores=scores), other)[0]


def test_a_metric_that_scores_equal_answers_differently_is_named():
    found, left_out = measured(rows(), rows(scores={"accuracy": 0.9}))
    assert not found and "equal answers score differently" in left_out[0]


def test_a_metric_of_one_alone_is_named():
    found, left_out = measured(rows(), rows(scores={"accuracy": 1.0, "new": 1.0}))
    assert set(found) == {"accuracy"} and left_out == ["new: in one of them alone"]


def test_nothing_in_common():
    other = {f"x{key}": line for key, line in rows().items()}
    assert paired.cell([rows()], [other]).ids == []


def test_flips_are_rows_won_and_lost():
    second = copy.deepcopy(rows(4))
    first = rows(4)
    first["r1"]["scores"], second["r2"]["scores"] = {"accuracy": 0.0}, {"accuracy": 0.3}
    assert list(paired.cell([first], [second]).flips("accuracy")) == [("r1", 0.0, 1.0), ("r2", 1.0, 0.3)]


def test_a_caption_is_answered_where_all_facts_are_right():
    first, second = (rows(2, scores={"cider": 9.0, "correct": right}) for right in (0.0, 1.0))
    assert [flip[0] for flip in paired.cell([first], [second]).flips("cider")] == ["r0", "r1"]


def test_what_ends_a_line_elsewhere_is_part_of_a_text(tmp_path: Path):
    """Captions of the web hold Unicode's line and paragraph separators, which JSON leaves as they are."""
    path, said = tmp_path / "test.jsonl", "a dog\u2028a cat\u2029one\x85two"
    path.write_text("".join(json.dumps(row(n, prediction=said), ensure_ascii=False) + "\n" for n in range(2)))
    assert [one["prediction"] for one in paired.read(path).values()] == [said, said]


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "a"}', '"text"'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(row(0)) + "\n" + line + "\n")
    with pytest.raises(UserError, match=r"test\.jsonl: line 2"):
        paired.read(path)
