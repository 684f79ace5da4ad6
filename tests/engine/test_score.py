"""`unival score`: official metrics of a predictions file, submission files."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tasks import world
from unival.cli import main
from unival.data import media
from unival.data.manifest import ManifestWriter
from unival.data.store import ShardWriter
from unival.engine.inference import score as scoring
from unival.errors import UserError
from unival.metrics import java


def score(tmp_path: Path, capsys: Any, rows: list[dict[str, Any]], *options: str) -> dict[str, list[str]]:
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["score", str(path), *options])
    return {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}


def test_answers_are_scored_by_the_ten_annotators(tmp_path: Path, capsys: Any) -> None:
    """Two said 2, two said two: four agree once normalised, which soft weights cannot tell."""
    humans = ["2", "2", "two", "two", "3", "4", "5", "6", "7", "8"]
    row = {
        "id": "q1", "answers": {"2": 0.6, "two": 0.6, "3": 0.3}, "prediction": "two",
        "extra": {"answers": json.dumps(humans), "question_id": "421"},
    }  # fmt: skip
    found = score(
        tmp_path, capsys, [row, {**row, "id": "9", "extra": {}}], "--submission", str(tmp_path / "s")
    )
    assert float(found["vqa_accuracy"][0]) == pytest.approx((1.0 + 0.6) / 2)
    submitted = json.loads((tmp_path / "s").read_text())
    assert submitted == [{"answer": "two", "question_id": 421}, {"answer": "two", "question_id": 9}]


def test_probabilities_of_answers_are_scored(tmp_path: Path, capsys: Any) -> None:
    rows = [
        {"id": name, "answers": {"yes": 1.0}, "prediction": said, "probability": probability}
        for name, said, probability in (("a", "yes", 0.95), ("b", "no", 0.95), ("c", "yes", 0.5))
    ]
    found = score(tmp_path, capsys, rows)
    # one bin of two rows, right half of the time at 0.95; one of a row that is right at 0.5
    assert float(found["ece"][0]) == pytest.approx((2 * 0.45 + 0.5) / 3, abs=1e-6)
    assert float(found["brier"][0]) == pytest.approx((0.05**2 + 0.95**2 + 0.25) / 3, abs=1e-6)


def test_boxes_are_counted_by_size(tmp_path: Path, capsys: Any) -> None:
    small, large = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 400.0, 400.0]
    rows = [
        {"id": "1", "box": small, "references": ["a"], "prediction": small},
        {"id": "2", "box": small, "references": ["a"], "prediction": [5.0, 5.0, 15.0, 15.0]},
        {"id": "3", "box": large, "references": ["a"], "prediction": None},
    ]
    found = score(tmp_path, capsys, rows)
    assert {name: float(values[0]) for name, values in found.items() if name.startswith("acc@0.5")} == {
        "acc@0.5": pytest.approx(1 / 3, abs=1e-6), "acc@0.5/small": 0.5, "acc@0.5/large": 0.0,
    }  # fmt: skip
    assert found["acc@0.5/small"][-1] == "n=2"


def test_captions_objects_and_results_file(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "available", lambda: False)
    (tmp_path / "objects.txt").write_text("dog, puppy, dogs\ncat, kitten\n")
    rows = [
        {"id": "a", "references": ["a puppy runs"], "prediction": "a dog runs", "extra": {"image_id": "42"}},
        {"id": "b", "references": ["a tree"], "objects": ["dog"], "prediction": "a dog and a kitten"},
    ]
    options = ("--objects", str(tmp_path / "objects.txt"), "--submission", str(tmp_path / "results.json"))
    found = score(tmp_path, capsys, rows, *options)
    assert float(found["chair_s"][0]) == 0.5 and float(found["chair_i"][0]) == pytest.approx(1 / 3, abs=1e-6)
    assert {"cider", "rouge_l", "bleu_4", "note:"} <= set(found)
    assert json.loads((tmp_path / "results.json").read_text())[0] == {"caption": "a dog runs", "image_id": 42}


@pytest.mark.skipif(not java.available(), reason="no Java: the official tokeniser cannot run")
def test_captions_with_java(tmp_path: Path, capsys: Any) -> None:
    rows = [{"id": "a", "references": ["A dog runs.", "a dog is running"], "prediction": "a dog runs"}]
    found = score(tmp_path, capsys, rows)
    assert float(found["bleu_3_ptb"][0]) == pytest.approx(1.0, abs=1e-6)
    assert float(found["meteor_ptb"][0]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("task", ["caption", "vqa", "grounding", "entailment_premise"])
def test_an_imported_split_is_predicted_and_scored(
    task: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "available", lambda: False)
    rows_of = task.removesuffix("_premise")
    for split, start in (("train", 100), ("test", 0)):
        folder = tmp_path / "set" / split
        with ShardWriter(folder) as shards, ManifestWriter(folder, rows_of) as rows:
            for record in world.records(task, 6, start):
                rows.add(record)
            for key in dict.fromkeys(record.image for record in world.records(task, 6, start)):
                shards.add(str(key), "image", ".png", media.encode_image(world.Store().image(key)))
    world.model().save_pretrained(tmp_path / "model")
    world.processor().save_pretrained(tmp_path / "model")
    made = tmp_path / "made.jsonl"
    place = ["--model", str(tmp_path / "model"), "--split", str(tmp_path / "set" / "test")]
    edition = ["--edition", "paper"] if task == "vqa" else []
    main(["score", str(made), *place, "--task", task, *edition])
    assert {"caption": "cider", "grounding": "acc@0.5"}.get(task, "accuracy") in capsys.readouterr().out
    assert [json.loads(line)["id"] for line in made.read_text().splitlines()] == [
        record.id for record in world.records(task, 6)
    ]
    with pytest.raises(SystemExit):
        main(["score", str(made), *place, "--task", "captoin"])
    assert "did you mean 'caption'" in capsys.readouterr().err


def test_an_edition_changes_the_decoding() -> None:
    paper, plain = scoring.settings("caption", "paper"), scoring.settings("caption", "")
    assert (paper.decode.beams, paper.decode.no_repeat_ngram) == (5, 3)
    assert plain.decode.beams == 1
    assert paper.prompt == plain.prompt


@pytest.mark.fault
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no rows"),
        ("[1]\n", "line 1: no row"),
        ("{\n", "not a readable"),
        ('{"id": "1", "prediction": "x"}\n', "neither"),
    ],
)
def test_other_files_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=reason):
        list(scoring.scores(scoring.read(path)))
