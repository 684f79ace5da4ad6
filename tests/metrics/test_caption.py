"""Caption metrics: recorded official values, both tokenisers, identities."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from unival.metrics import caption, java
from unival.metrics.cider import CiderReferences
from unival.metrics.tokenise import tokenise

needs_data = pytest.mark.skipif("UNIVAL_DATA" not in os.environ, reason="UNIVAL_DATA is not set")
needs_java = pytest.mark.skipif(not java.available(), reason="no Java: the official tokeniser cannot run")
SETS = ("coco_human_leave_one_out", "cocoapi_fakecap_val2017subset", "aac_example_1")
NAMES = {"CIDEr": "cider", "ROUGE_L": "rouge_l", **{f"Bleu_{n}": f"bleu_{n}" for n in (1, 2, 3, 4)}}


def recorded(name):
    """Candidates, references and expected scores of a set of captions."""
    folder = Path(os.environ["UNIVAL_DATA"]) / "caption_metrics"
    expected = json.loads((folder / f"{name}_expected.json").read_text())["scores"]
    if name == "aac_example_1":
        rows = list(csv.DictReader((folder / f"{name}.csv").open()))
        references = [[row[f"caption_{i}"] for i in range(1, 6) if row[f"caption_{i}"]] for row in rows]
        return [row["caption_predicted"] for row in rows], references, expected
    results = json.loads((folder / f"{name}_results.json").read_text())
    if name.startswith("coco_"):
        by_image = json.loads((folder / f"{name}_references.json").read_text())
    else:
        by_image = {}
        for row in json.loads((folder / f"{name}_annotations.json").read_text())["annotations"]:
            by_image.setdefault(str(row["image_id"]), []).append(row["caption"])
    references = [by_image[str(row["image_id"])] for row in results]
    return [row["caption"] for row in results], references, expected


def means(rows, statistics):
    bleu = {f"bleu_{n}": float(caption.bleu_of(n)(statistics.sum(0))) for n in (1, 2, 3, 4)}
    return {**{name: float(scores.mean()) for name, scores in rows.items()}, **bleu}


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_python_tokeniser_is_within_a_hundredth_of_the_official_values(name):
    candidates, references, expected = recorded(name)
    found = means(caption.row_scores(candidates, references), caption.bleu_statistics(candidates, references))
    for official, ours in NAMES.items():
        assert found[ours] == pytest.approx(expected[official], abs=0.01), official


@needs_data
@needs_java
@pytest.mark.parametrize("name", SETS)
def test_official_tokeniser_gives_the_official_values_to_the_digit(name):
    candidates, references, expected = recorded(name)
    found = java.scores(candidates, references).corpus
    assert set(found) >= {f"{ours}_ptb" for ours in (*NAMES.values(), "meteor")}
    for official, ours in {**NAMES, "METEOR": "meteor"}.items():
        assert round(found[f"{ours}_ptb"], 6) == pytest.approx(expected[official], abs=1.5e-6), official


def test_cider_equals_pycocoevalcap():
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    rng = np.random.default_rng(0)
    words = np.array(["a", "the", "red", "blue", "cat", "dog", "sits", "runs", "on", "mat", "with", "ball"])

    def sentence():
        return " ".join(rng.choice(words, int(rng.integers(0, 12))))

    candidates = [sentence() for _ in range(60)]
    references = [[sentence() for _ in range(int(rng.integers(1, 6)))] for _ in range(60)]
    scorer = CiderScorer(n=4, sigma=6.0)
    for candidate, row in zip(candidates, references, strict=True):
        scorer += (candidate, row)
    expected = scorer.compute_score()[1]
    np.testing.assert_allclose(CiderReferences(references).scores(candidates), expected, atol=1e-12)


def test_a_reference_scores_one_and_an_empty_caption_zero():
    references = [["a red ball on a mat", "a ball"], ["two dogs run in the park"]]
    scores = caption.row_scores(["A red ball on a mat.", ""], references)
    np.testing.assert_allclose(scores["rouge_l"], [1.0, 0.0])
    assert scores["cider"][0] > 0 and scores["cider"][1] == 0
    statistics = caption.bleu_statistics(["a red ball on a mat", "two dogs run in the park"], references)
    assert caption.bleu_of(4)(statistics.sum(0)) == pytest.approx(1.0)


def test_statistics_of_bleu_add_up():
    statistics = np.random.default_rng(0).integers(1, 30, (7, 10)).astype(float)
    whole = caption.bleu_of(4)(statistics.sum(0))
    parts = caption.bleu_of(4)(np.stack([statistics[:3].sum(0) + statistics[3:].sum(0)]))
    np.testing.assert_allclose(parts, [whole])


@needs_java
def test_lines_of_the_official_tokeniser_stay_with_their_texts():
    texts = ["two\nlines", "", "a\r\nb\u2028c", "a dog, a cat", ""]
    assert java.ptb_tokenise(texts) == ["two lines", "", "a b c", "a dog a cat", ""]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A man isn't riding; he's walking.", "a man is n't riding he 's walking"),
        ("the girl's dog can't see the players' hats", "the girl 's dog ca n't see the players ' hats"),
        ('"No parking" - 3.5 metres, 1,000 people...', "no parking 3.5 metres 1,000 people"),
        ("A black-and-white cat (asleep) at 10:30 on Main St. in the U.S.", None),
        ("We cannot go, they're gonna wait", "we can not go they 're gon na wait"),
        ("", ""),
    ],
)
def test_tokeniser_follows_the_treebank(text, tokens):
    if tokens is not None:
        # a lone apostrophe is punctuation that COCO's evaluation drops
        assert tokenise(text) == " ".join(word for word in tokens.split() if word != "'")
    if java.available():
        assert tokenise(text) == java.ptb_tokenise([text])[0]
