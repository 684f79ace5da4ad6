"""Questions on photos: VQAv2 and the sets in its form (OK-VQA), VizWiz, GQA, easy-VQA."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unival.data.source import BadItem
from unival.data.sources.captions import image_key
from unival.data.sources.formats import Row, by_id, changed, json_pairs, json_rows, value
from unival.data.sources.reader import File, Item, rows
from unival.data.sources.splits import split_of
from unival.errors import UserError
from unival.record import Answer
from unival.vqa_answers import soft_answers

COCO_FOLDERS = {"train": "train2014", "val": "val2014", "test": "test2015"}
"""Folders of the photos that VQAv2 asks about; their names begin with it."""


def _answers(row: Any, also: str) -> tuple[tuple[Answer, ...], dict[str, str]]:
    """The soft answers of a row, and its `extra`: the annotators' answers one by one, and another field."""
    given = [value(answer, "answer") for answer in value(row, "answers", list)]
    return soft_answers(given), {"answers": json.dumps(given), also: str(row.get(also, ""))}


def _annotated(path: Path) -> Iterator[Row]:
    """(question, annotation) of a question file and the annotation file of the same name beside it.

    A test split has none; its part `test-dev` is in the file of the whole.
    """
    name = path.name.replace("questions", "annotations")
    beside = [path.with_name(name), path.with_name(name.replace("OpenEnded_", ""))]
    other = next((file for file in beside if file.is_file()), None)
    if other is None and split_of(path.stem) == "test" and "test-dev" not in path.stem:
        yield from changed(path, json_rows("question {}", "questions")(path), lambda row: (row, None))
        return
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
    image_id = value(question, "image_id", int)
    folder = COCO_FOLDERS.get(file.split, "")
    name = file.media.first("image", f"COCO_{folder}_{image_id:012d}.jpg", f"{image_id:012d}.jpg")
    question_id = str(value(question, "question_id", int))
    answers, extra = _answers(annotation, "answer_type") if annotation else ((), {})
    yield from file.question(
        "image", image_key(image_id), question_id, value(question, "question"), answers, name,
        form=str(annotation.get("question_type", "")) if annotation else "",
        extra={**extra, "question_id": question_id},
    )  # fmt: skip


rows("vqav2", "*questions*.json", load=_annotated)(_official)
rows("okvqa", "*questions*.json", load=_annotated)(_official)


@rows("vizwiz", "train.json", "val.json", "test.json", load=json_rows())
def _vizwiz(row: Any, file: File) -> Iterator[Item]:
    """One row per photo and question; whether it can be answered is in `extra`."""
    name = value(row, "image")
    published = file.split != "test" or "answers" in row
    answers, extra = _answers(row, "answerable") if published else ((), {})
    yield from file.question(
        "image", Path(name).stem, Path(name).stem, value(row, "question"), answers, name,
        form=str(row.get("answer_type", "")), extra={**extra, "image": name},
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
