"""Prediction files in the formats that official evaluation servers read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unival import files
from unival.engine.predict import Prediction
from unival.errors import UserError
from unival.record import Record


def coco_captions(records: Sequence[Record], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """COCO caption results: `[{image_id, caption}]`, with `extra.image_id`, else the row's id."""
    return [
        {"image_id": _number(record.extra.get("image_id", record.id)), "caption": str(prediction.value)}
        for record, prediction in _pairs(records, predictions)
    ]


def vqa_answers(records: Sequence[Record], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """EvalAI's VQA results: `[{question_id, answer}]`, with `extra.question_id`, else the row's id."""
    return [
        {"question_id": _number(record.extra.get("question_id", record.id)), "answer": str(prediction.value)}
        for record, prediction in _pairs(records, predictions)
    ]


FORMATS = {"coco": coco_captions, "evalai_vqa": vqa_answers}


def write(path: Path | str, name: str, records: Sequence[Record], predictions: Sequence[Prediction]) -> None:
    """Write the file of format `name`.

    Raises:
        UserError: the predictions are of other rows.
    """
    files.write_json(path, FORMATS[name](records, predictions))


def _pairs(records: Sequence[Record], predictions: Sequence[Prediction]) -> list[tuple[Record, Prediction]]:
    if [record.id for record in records] != [prediction.id for prediction in predictions]:
        raise UserError("submission: the predictions are of other rows")
    return list(zip(records, predictions, strict=True))


def _number(identity: str) -> int | str:
    """Official ids are numbers; others stay as they are."""
    return int(identity) if identity.isdigit() else identity
