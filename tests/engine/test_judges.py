"""The evaluations of COCO and VQA read our results files, and come to the scores of `unival score`."""

import json
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from pycocotools.coco import COCO

from unival.cli import main
from unival.metrics import java

ROWS = {
    9: ("A dog runs, on the grass.", ["a dog runs on grass", "The dog is running!", "dog's day out"]),
    139: ("two cats", ["Two cats sit on a mat.", "a pair of cats", "two cats on a mat"]),
    285: ("a bear", ["a big brown bear", "a bear sitting down", "The bear (brown) rests."]),
}


@pytest.mark.skipif(not java.available(), reason="no Java")
def test_cocos_evaluation_comes_to_our_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, results, truth = (tmp_path / name for name in ("made.jsonl", "results.json", "captions.json"))
    rows = [
        {"id": f"coco-{number}", "prediction": said, "references": known, "extra": {"image_id": str(number)}}
        for number, (said, known) in ROWS.items()
    ]
    made.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["score", str(made), "--submission", str(results)])
    found = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[:-1]}
    known = [
        {"id": 10 * number + place, "image_id": number, "caption": text}
        for number, (_, texts) in ROWS.items()
        for place, text in enumerate(texts)
    ]
    truth.write_text(json.dumps({"images": [{"id": number} for number in ROWS], "annotations": known}))

    official = COCO(str(truth))
    answers = official.loadRes(str(results))
    references, candidates = (
        PTBTokenizer().tokenize({number: coco.imgToAnns[number] for number in ROWS})
        for coco in (official, answers)
    )
    assert found["cider_ptb"] == pytest.approx(Cider().compute_score(references, candidates)[0], abs=1e-6)
    assert found["rouge_l_ptb"] == pytest.approx(Rouge().compute_score(references, candidates)[0], abs=1e-6)
    for order, score in enumerate(Bleu(4).compute_score(references, candidates, verbose=0)[0], 1):
        assert found[f"bleu_{order}_ptb"] == pytest.approx(score, abs=1e-6)


QUESTIONS = {
    9: ("Red!", ["red"] * 4 + ["dark red"] * 6),
    139: ("two dogs", ["two dogs"] * 2 + ["2 dogs"] * 8),
    262148: ("3", ["3"] * 3 + ["4"] * 7),
    262149000: ("t-shirt", ["t shirt"] * 7 + ["shirt", "sweater", "t-shirt"]),
    262149001: ("no", ["yes"] * 10),
    262149002: ("yes", ["yes"] * 10),
}


def official(name: str) -> ModuleType:
    """A module of the official tool that LAVIS carries; LAVIS itself need not be importable."""
    lavis = find_spec("lavis")
    assert lavis is not None and lavis.submodule_search_locations
    place = Path(lavis.submodule_search_locations[0]) / f"common/vqa_tools/{name}.py"
    spec = spec_from_file_location(name, place)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(find_spec("lavis") is None, reason="no LAVIS: docs/judges.md")
def test_vqas_evaluation_comes_to_our_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That copy leaves number words and articles of annotators as they are: here, none decides."""
    made, results, asked, truth = (tmp_path / name for name in ("made.jsonl", "r.json", "q.json", "a.json"))
    rows = [
        {"id": f"vqa-{number}", "prediction": said, "answers": {known[0]: 1.0},
         "extra": {"question_id": str(number), "answers": json.dumps(known)}}
        for number, (said, known) in QUESTIONS.items()
    ]  # fmt: skip
    made.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["score", str(made), "--submission", str(results)])
    found = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[:-1]}
    head = dict.fromkeys(("info", "data_type", "data_subtype", "license"), "") | {"task_type": "Open-Ended"}
    questions = [{"question_id": number, "image_id": 1, "question": "?"} for number in QUESTIONS]
    known = [
        {"question_id": number, "image_id": 1, "question_type": "what", "answer_type": "other",
         "answers": [{"answer": text, "answer_id": place} for place, text in enumerate(texts, 1)]}
        for number, (_, texts) in QUESTIONS.items()
    ]  # fmt: skip
    asked.write_text(json.dumps(head | {"questions": questions}))
    truth.write_text(json.dumps(head | {"annotations": known}))

    vqa = official("vqa").VQA(str(truth), str(asked))
    evaluation = official("vqa_eval").VQAEval(vqa, vqa.loadRes(str(results), str(asked)), n=4)
    evaluation.evaluate()
    assert 100 * found["vqa_accuracy"] == pytest.approx(evaluation.accuracy["overall"], abs=1e-3)
    assert 0 < found["vqa_accuracy"] < 1
