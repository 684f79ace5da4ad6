"""`unival score`: official metrics of a predictions file, submission files."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tasks import world
from unival.cli import main
from unival.data import media
from unival.data.manifest import ManifestWriter
from unival.data.store import ShardWriter
from unival.engine.inference import predictions
from unival.engine.inference import score as scoring
from unival.engine.machine.launch import torchrun
from unival.errors import UserError
from unival.metrics import java
from unival.record import Record
from unival.tasks.folder import write_tasks

ROOT = Path(__file__).parents[2]


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
        tmp_path,
        capsys,
        [row, {**row, "id": "9", "extra": {"question_id": "9"}}],
        "--submission",
        str(tmp_path / "s"),
    )
    assert float(found["vqa_accuracy"][0]) == pytest.approx((1.0 + 0.6) / 2)
    submitted = json.loads((tmp_path / "s").read_text())
    assert submitted == [{"answer": "two", "question_id": 421}, {"answer": "two", "question_id": 9}]


@pytest.mark.parametrize(
    ("said", "note"),
    [
        (["two", "two"], "all 2 predictions are alike"),
        (["two"], "a score of one row says nothing"),
        (["two", "red"], ""),
    ],
)
def test_scores_that_tell_nothing_are_said(said: list[str], note: str, tmp_path: Path, capsys: Any) -> None:
    rows = [
        {"id": str(number), "answers": {"two": 1.0}, "prediction": word} for number, word in enumerate(said)
    ]
    found = score(tmp_path, capsys, rows)
    assert "vqa_accuracy" in found and " ".join(found.get("note:", [])) == note


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
    rows[1]["extra"] = {"image_id": "43"}
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


@pytest.fixture
def made_set(tmp_path: Path) -> Callable[..., None]:
    """Makes a model, and a prepared set whose test rows a function may change."""

    def make(task: str, change: Callable[[Record], Record] = lambda record: record, count: int = 6) -> None:
        rows_of = task.removesuffix("_premise")
        for split, start in (("train", 100), ("test", 0)):
            folder, records = tmp_path / "set" / split, world.records(task, count, start)
            with ShardWriter(folder) as shards, ManifestWriter(folder, rows_of) as rows:
                for record in records:
                    rows.add(change(record) if split == "test" else record)
                for key in dict.fromkeys(record.image for record in records):
                    shards.add(str(key), "image", ".png", media.encode_image(world.Store().image(key)))
        world.model().save_pretrained(tmp_path / "model")
        world.processor().save_pretrained(tmp_path / "model")

    return make


@pytest.mark.parametrize("task", ["caption", "vqa"])
def test_rows_without_answers_are_submitted_and_not_scored(
    task: str, made_set: Callable[..., None], tmp_path: Path, capsys: Any
) -> None:
    made_set(task, lambda record: replace(record, references=(), answers=()))
    made, sent, folder = tmp_path / "made.jsonl", tmp_path / "sent.json", tmp_path / "set" / "test"
    place = ["--model", str(tmp_path / "model"), "--split", str(folder), "--task", task]
    main(["score", str(made), *place, "--submission", str(sent)])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "note: nothing to compare with: not scored",
        f"wrote {sent}",
    ]
    names = {"caption": ("image_id", "caption"), "vqa": ("question_id", "answer")}[task]
    predicted = [json.loads(line) for line in made.read_text().splitlines()]
    assert json.loads(sent.read_text()) == [
        dict(zip(names, (row["id"], row["prediction"]), strict=True)) for row in predicted
    ]
    with pytest.raises(SystemExit):
        main(["score", str(made)])
    assert "write the --submission" in capsys.readouterr().err


@pytest.mark.distributed
def test_ranks_that_share_the_rows_write_what_one_process_does(
    made_set: Callable[..., None], tmp_path: Path
) -> None:
    """Three batches on one, two and three ranks."""
    made_set("vqa", count=300)
    place = ["--model", str(tmp_path / "model"), "--split", str(tmp_path / "set" / "test"), "--task", "vqa"]
    environment = {**os.environ, "UNIVAL_RUNTIME": "cpu", "PYTHONPATH": str(ROOT / "src")}
    written, said = set(), set()
    for ranks in (1, 2, 3):
        command = [*torchrun(ranks), "--standalone"] if ranks > 1 else [sys.executable]
        command += ["-m", "unival", "score", str(tmp_path / f"{ranks}.jsonl"), *place]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        written.add((tmp_path / f"{ranks}.jsonl").read_bytes())
        said.add(done.stdout)
    assert len(written) == len(said) == 1 and len(written.pop().splitlines()) == 300


@pytest.mark.parametrize("task", ["caption", "vqa", "grounding", "entailment_premise"])
def test_an_imported_split_is_predicted_and_scored(
    task: str, made_set: Callable[..., None], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "available", lambda: False)
    monkeypatch.setenv("UNIVAL_RUNTIME", "cpu")
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    made_set(task)
    made, record = tmp_path / "made.jsonl", tmp_path / "model" / "training.json"
    record.write_text('{"media": ["audio"]}')
    place = ["--model", str(tmp_path / "model"), "--split", str(tmp_path / "set" / "test")]
    edition = ["--edition", "paper"] if task == "vqa" else []
    main(["score", str(made), *place, "--task", task, *edition])
    told = capsys.readouterr()
    assert {"caption": "cider", "grounding": "acc@0.5"}.get(task, "accuracy") in told.out
    assert "was never trained on image: it guesses" in told.err
    assert threads == [1]  # of the runtime
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


def test_a_model_is_scored_as_it_was_trained(tmp_path: Path) -> None:
    plain = scoring.settings("caption", "")
    trained = replace(plain, prompt=" what is there?")
    write_tasks({"caption": trained}, tmp_path)
    assert scoring.settings("caption", "", tmp_path) == trained
    assert scoring.settings("caption", "paper", tmp_path) == scoring.settings("caption", "paper")
    assert scoring.settings("vqa", "", tmp_path) == scoring.settings("vqa", "")


def submitted(tmp_path: Path, capsys: Any, rows: list[dict[str, Any]]) -> Any:
    """The submission file of rows, and what was printed beside it."""
    printed = score(tmp_path, capsys, rows, "--submission", str(tmp_path / "results.json"))
    return json.loads((tmp_path / "results.json").read_text()), printed


@pytest.mark.parametrize(
    ("row", "result"),
    [
        ({"id": "7", "text": "?", "extra": {"question_id": "7"}}, {"question_id": 7, "answer": "red"}),
        # GQA: ids are texts, whether they start with a zero or not
        ({"id": "x", "text": "?", "extra": {"questionId": "07"}}, {"questionId": "07", "prediction": "red"}),
        ({"id": "x", "text": "?", "extra": {"questionId": "7"}}, {"questionId": "7", "prediction": "red"}),
        ({"id": "v1", "text": "?", "extra": {"image": "v1.jpg"}}, {"image": "v1.jpg", "answer": "red"}),
        ({"id": "k", "references": ["a"], "extra": {"image_id": 9}}, {"image_id": 9, "caption": "red"}),
        ({"id": "c", "extra": {"image_id": "9"}}, {"image_id": 9, "caption": "red"}),
        # of no known data set
        ({"id": "12", "answers": {"red": 1.0}}, {"question_id": 12, "answer": "red"}),
        ({"id": "012", "answers": {"red": 1.0}}, {"question_id": "012", "answer": "red"}),
        ({"id": "clip-1"}, {"image_id": "clip-1", "caption": "red"}),
    ],
)  # fmt: skip
def test_each_data_set_has_its_results_file(
    row: dict[str, Any], result: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "available", lambda: False)
    found, printed = submitted(tmp_path, capsys, [{**row, "prediction": "red"}])
    assert found == [result]
    why = "nothing to compare with"
    if "answers" in row or "references" in row:
        why = "no Java" if "references" in row else "a score of one row says nothing"
    assert " ".join(printed["note:"]).startswith(why)


def test_rows_with_and_without_an_official_id_are_not_one_results_file(tmp_path: Path) -> None:
    rows = [
        {"id": name, "text": "?", "prediction": "a", "extra": extra}
        for name, extra in (("4", {"question_id": "4"}), ("5", {}))
    ]
    path = tmp_path / "made.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"made\.jsonl: line 2: no question_id in extra"):
        scoring.submitted(predictions.read(path))


def test_a_row_is_known_by_its_own_id_whatever_else_is_called_so(tmp_path: Path) -> None:
    known = [Record(name, references=(name,), extra={"id": other}) for name, other in ("ab", "ba")]
    path = tmp_path / "made.jsonl"
    path.write_text("\n".join(json.dumps({"id": name, "prediction": name}) for name in "ab"))
    rows = predictions.read(path, known)
    assert [(row.value, row.record.references) for row in rows] == [("a", ("a",)), ("b", ("b",))]


def test_ids_of_a_file_are_all_numbers_or_none(tmp_path: Path, capsys: Any) -> None:
    rows = [{"id": name, "answers": {"a": 1.0}, "prediction": "a"} for name in ("12", "012")]
    assert [row["question_id"] for row in submitted(tmp_path, capsys, rows)[0]] == ["12", "012"]


def test_a_results_file_is_compared_with_the_rows_of_a_split(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "available", lambda: False)
    with ManifestWriter(tmp_path / "set" / "test", "caption") as writer:
        for number in (1, 2):
            writer.add(Record(f"coco-{number}", references=("a dog runs",), extra={"image_id": str(number)}))
    split = ["--split", str(tmp_path / "set" / "test"), "--task", "caption"]
    results = tmp_path / "results.json"
    entries = [{"image_id": number, "caption": "a dog runs"} for number in (2, 1)]
    results.write_text(json.dumps(entries))
    main(["score", str(results), *split])
    assert "rouge_l          1.000000" in capsys.readouterr().out
    faults = {
        "1 rows have no prediction, first 'coco-1'": entries[:1],
        "entry 3: id '3' is not one of": [*entries, {"image_id": 3, "caption": "a"}],
        "entry 3: id 'coco-2' appears twice, first in .*entry 1": [*entries, entries[0]],
    }
    for reason, found in faults.items():
        results.write_text(json.dumps(found))
        with pytest.raises(SystemExit):
            main(["score", str(results), *split])
        assert re.search(reason, capsys.readouterr().err)
    results.write_text(json.dumps(entries))
    with pytest.raises(SystemExit):
        main(["score", str(results)])
    assert "give --split and --task" in capsys.readouterr().err


A = {"id": "a", "references": ["a dog"], "prediction": "a dog"}
Q = {"id": "q", "answers": {"yes": 1.0}, "prediction": "yes"}
B = {"id": "b", "box": [0, 0, 4, 4], "prediction": [0, 0, 4, 4]}


@pytest.mark.fault
@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "x.jsonl: no rows"),
        (["", "1"], "line 2: expected an object with id and prediction, found int"),
        (["{"], "line 1: not JSON"),
        (['{"id": 1}'], "line 1: no row of a predictions file: no field 'prediction'"),
        (["[" * 100_000], "not JSON"),
        (['{"id": "1", "prediction": NaN}'], "line 1: not JSON: NaN is not a number"),
        ([b"\xff"], "line 1: not JSON"),
        ([{"id": "1", "prediction": "x"}], "line 1: neither references nor answers nor box"),
        ([A, "", A], r"line 3: id 'a' appears twice, first in .*x.jsonl: line 1"),
        ([{**A, "id": 1}, {**A, "id": "1"}], "line 2: id '1' appears twice"),
        ([A, Q], "line 2: is compared with answers, and .*line 1 with captions"),
        ([A, {"id": "1", "prediction": "x"}], "line 2: is compared with nothing"),
        ([A, {**A, "id": "b", "prediction": [1, 2, 3, 4]}], "line 2: prediction: expected a text .*a box"),
        ([{**Q, "prediction": None}], "line 1: prediction: expected a text .*null"),
        ([{**Q, "prediction": 2}], "line 1: prediction: expected text, found int"),
        ([{**Q, "prediction": "\ud800"}], "line 1: prediction: holds half of a character"),
        ([{**Q, "answers": ["yes"]}], r"line 1: answers: expected {answer: weight}"),
        ([{**Q, "answers": {"yes": "1"}}], "line 1: answers: expected a number"),
        ([{**Q, "answers": {"yes": 3}}], "line 1: answers: answer weight 3.0 is outside"),
        ([{**Q, "answers": {"yes": 10**400}}], "line 1: answers: not a number of a sensible size"),
        ([{**Q, "extra": {"answers": '["yes", 1]'}}], r"line 1: extra.answers: expected the annotators'"),
        ([{**Q, "extra": {"answers": "[" * 100_000}}], "line 1: extra.answers"),
        ([{**Q, "probability": 95}], r"line 1: probability: 95.0 is outside \[0, 1\]"),
        ([{**Q, "probability": "high"}], "line 1: probability: expected a number"),
        ([{**Q, "media": ["a"]}], "line 1: media: expected"),
        ([{**A, "references": "a dog"}], "line 1: references: expected a list of texts"),
        ([{**A, "references": ["a", None]}], "line 1: references: expected text"),
        ([{**A, "objects": [1]}], "line 1: objects: expected text"),
        ([{**B, "box": [4, 0, 0, 4]}], "line 1: box: not a box"),
        ([B, {**B, "id": "c", "prediction": "a dog"}], "line 2: prediction: expected a box .* found a text"),
        ([{**B, "prediction": [0, 0, 4]}], r"line 1: prediction: expected text, found list .*a box \[x0"),
        ([{**B, "prediction": [0, 0, 1e300, 4]}], "line 1: prediction: not a number of a sensible size"),
    ],
)
def test_what_cannot_be_scored_is_named_by_line(lines: list[Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    written = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in written))
    with pytest.raises(UserError, match=reason):
        list(scoring.scores(predictions.read(path)))


FULL = {"media": {"image": "k"}, "text": "what?", "form": "f", "probability": 0.5, "objects": ["dog"]}
EXTRA = {"answers": '["yes", "no"]', "question_id": "1"}
ODD: list[Any] = [
    None, True, 0, -1, 3.5, 10**400, 1e308, "", " ", "\ud800", "\x00", "[", [], {}, [[]], [1], [1, 2, 3, 4],
    ["a", ""], [None], {"a": {}}, {"": 1}, {"a": -1}, {"image": 1}, {"answers": "{"}, {"answers": []},
]  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize("row", [A, Q, B], ids=["caption", "question", "box"])
def test_a_row_of_any_form_is_scored_or_refused(
    row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every field with every odd value: scores that are numbers, or one line that names file and line."""
    monkeypatch.setattr(java, "available", lambda: False)
    path, whole = tmp_path / "x.jsonl", {**row, **FULL, "extra": EXTRA}
    for name in whole:
        for value in ODD:
            path.write_text(json.dumps({**whole, name: value}))
            try:
                rows = predictions.read(path)
                found = [value for _, value, _ in scoring.scores(rows, {"dog": "dog"})]
                scoring.submitted(rows)
            except UserError as error:
                assert str(error).startswith(f"{path}: line 1: ") and "\n" not in str(error)
            else:
                assert np.isfinite([value[0] if isinstance(value, tuple) else value for value in found]).all()


@pytest.mark.fault
def test_a_folder_is_no_results_file(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        score(tmp_path, capsys, [Q], "--submission", str(tmp_path))
    assert f"{tmp_path}: is a folder" in capsys.readouterr().err


@pytest.mark.fault
def test_boxes_are_no_captions_to_submit(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        submitted(tmp_path, capsys, [{**B, "references": ["a dog"]}])
    assert "no server takes boxes" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()
