"""Prediction files in the formats that official evaluation servers read.

They are made of the rows of a predictions file (`unival.engine.inference.evaluate.prediction_rows`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]


def coco_captions(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """COCO caption results: `[{image_id, caption}]`, with `extra.image_id`, else the row's id."""
    return [{"image_id": _number(row, "image_id"), "caption": str(row["prediction"])} for row in rows]


def vqa_answers(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """EvalAI's VQA results: `[{question_id, answer}]`, with `extra.question_id`, else the row's id."""
    return [{"question_id": _number(row, "question_id"), "answer": str(row["prediction"])} for row in rows]


def _number(row: Row, name: str) -> int | str:
    """Official ids are numbers; others stay as they are."""
    identity = str(row.get("extra", {}).get(name, row["id"]))
    return int(identity) if identity.isdigit() else identity
