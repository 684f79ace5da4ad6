"""Questions on photos: VQAv2 and the sets in its form (OK-VQA), VizWiz, GQA, easy-VQA."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unival.answers import soft_answers
from unival.data.source import BadItem
from unival.data.sources.captions import image_key
from unival.data.sources.formats import Row, by_id, changed, json_pairs, json_rows, value
from unival.data.sources.reader import File, Item, rows
from unival.errors import UserError

COCO_FOLDERS = {"train": "train2014", "val": "val2014", "test": "test2015"}
"""Folders of the photos that VQAv2 asks about; their names begin with it."""


def _given(row: Any) -> list[str]:
    return [value(answer, "answer") for answer in value(row, "answers", list)]


def _annotated(path: Path) -> Iterator[Row]:
    """(question, annotation) of a question file and the annotation file of the same name beside it."""
    name = path.name.replace("questions", "annotations")
    beside = [path.with_name(name), path.with_name(name.replace("OpenEnded_", ""))]
    other = next((file for file in beside if file.is_file()), None)
    if other is None:
        yield BadItem(
            str(path), "file", "answers", "no annotations file beside it: its questions are left out"
        )
        return
    find = by_id(other, {"annotations": "question_id"})

    def pair(row: Any) -> tuple[Any, Any]:
        annotation = find("annotations", value(row, "question_id", int))
        if annotation is None:
            raise UserError(f"question {row['question_id']} is not in {other.name}")
        return row, annotation

    yield from changed(path, json_rows("question {}", "questions")(path), pair)


def _official(row: tuple[Any, Any], file: File) -> Iterator[Item]:
    question, annotation = row
    image_id, given = value(question, "image_id", int), _given(annotation)
    folder = COCO_FOLDERS.get(file.split, "")
    name = file.media.first("image", f"COCO_{folder}_{image_id:012d}.jpg", f"{image_id:012d}.jpg")
    question_id, answer_type = str(question["question_id"]), str(annotation.get("answer_type", ""))
    extra = {"answers": json.dumps(given), "answer_type": answer_type, "question_id": question_id}
    yield from file.question(
        "image", image_key(image_id), question_id, value(question, "question"),
        soft_answers(given), name, form=str(annotation.get("question_type", "")), extra=extra,
    )  # fmt: skip


rows("vqav2", "*questions*.json", load=_annotated)(_official)
rows("okvqa", "*questions*.json", load=_annotated)(_official)


@rows("vizwiz", "train.json", "val.json", load=json_rows())
def _vizwiz(row: Any, file: File) -> Iterator[Item]:
    """One row per photo and question; whether it can be answered is in `extra`."""
    name, given = value(row, "image"), _given(row)
    extra = {"answers": json.dumps(given), "answerable": str(row.get("answerable", "")), "image": name}
    yield from file.question(
        "image", Path(name).stem, Path(name).stem, value(row, "question"), soft_answers(given), name,
        form=str(row.get("answer_type", "")), extra=extra,
    )  # fmt: skip


@rows("gqa", "*_questions.json", load=json_pairs)
def _gqa(item: tuple[str, Any], file: File) -> Iterator[Item]:
    """One row per question, one answer each."""
    question_id, row = item
    image, question = value(row, "imageId"), value(row, "question")
    yield from file.question(
        "image", image, question_id, question, value(row, "answer"), f"{image}.jpg",
        extra={"questionId": question_id},
    )  # fmt: skip


@rows("easy_vqa", "questions.json", load=json_rows(), beside=True)
def _easy(content: Any, file: File) -> Iterator[Item]:
    """One row per question."""
    if not isinstance(content, list) or list(map(type, content)) != [str, str, int]:
        raise UserError(f"expected [question, answer, image id], found {str(content)[:60]}")
    question, answer, image = content
    yield from file.question("image", f"easy-{image}", str(file.number), question, answer, f"{image}.png")
