"""COCO's own evaluation reads our results file, and comes to the scores of `unival score`."""

import json
from pathlib import Path

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
