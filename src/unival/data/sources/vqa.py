"""VQAv2 and the sets in its form (OK-VQA), VizWiz, GQA, easy-VQA."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unival.data.source import BadItem
from unival.data.sources.coco import image_key
from unival.data.sources.media_folder import MediaFolder
from unival.data.sources.reader import (
    Item,
    Made,
    each,
    numbered,
    read_json,
    reader,
    require,
    rows_of,
    split_of,
    value,
)
from unival.errors import UserError
from unival.record import Answer, Record


def soft_answers(given: list[str]) -> tuple[Answer, ...]:
    """Distinct answers, most frequent first, with the VQA score of giving them.

    The score is min(1, count / 3) averaged over the subsets that leave one annotator out: for ten annotators
    0.3, 0.6, 0.9, 1 (reference, section 8).
    """
    number, counts = len(given), Counter(answer.strip().lower() for answer in given)
    if not counts or "" in counts:
        raise UserError("an empty answer" if given else "no answers")
    if number == 1:
        return (Answer(next(iter(counts))),)
    scores = {
        text: (count * min(1, (count - 1) / 3) + (number - count) * min(1, count / 3)) / number
        for text, count in counts.items()
    }
    return tuple(Answer(text, round(scores[text], 4)) for text, _ in counts.most_common() if scores[text] > 0)


def _texts(row: Any, key: str = "answers") -> list[str]:
    return [value(answer, "answer") for answer in value(row, key, list)]


def _pairs(root: Path) -> Iterator[tuple[Path, Path | None]]:
    """Question files with the annotation file of the same name, None where it is missing."""
    for path in require(root, "*questions*.json", "*/*questions*.json"):
        name = path.name.replace("OpenEnded_", "").replace("questions", "annotations")
        beside = [path.with_name(path.name.replace("questions", "annotations")), path.with_name(name)]
        yield path, next((other for other in beside if other.is_file()), None)


def _vqa_form(root: Path) -> Iterator[Item]:
    media = MediaFolder(root)
    for path, annotations_path in _pairs(root):
        if annotations_path is None:
            yield BadItem(
                str(path), "file", "answers", "no annotations file beside it: its questions are left out"
            )
            continue
        split = split_of(path.stem)
        yield from _annotated(path, annotations_path, media, split)


def _annotated(path: Path, annotations_path: Path, media: MediaFolder, split: str) -> Iterator[Item]:
    annotations = {}
    for row in rows_of(read_json(annotations_path, dict), "annotations", annotations_path):
        if isinstance(row, Mapping):
            annotations[row.get("question_id")] = row

    def convert(row: Any) -> Iterator[Made]:
        question_id, image_id = value(row, "question_id", int), value(row, "image_id", int)
        if question_id not in annotations:
            raise UserError(f"question {question_id} is not in {annotations_path.name}")
        annotation = annotations[question_id]
        given = _texts(annotation)
        name = f"COCO_{split}2014_{image_id:012d}.jpg"
        yield from media.item(
            split, image_key(image_id), name if media.name_of(name[:-4]) else f"{image_id:012d}"
        )
        extra = {"answers": json.dumps(given), "answer_type": str(annotation.get("answer_type", ""))}
        yield (
            split,
            "vqa",
            Record(
                str(question_id),
                image=image_key(image_id),
                text=value(row, "question").strip(),
                answers=soft_answers(given),
                form=str(annotation.get("question_type", "")),
                extra=extra,
            ),
        )

    yield from each(path, numbered(rows_of(read_json(path, dict), "questions", path), "question"), convert)


@reader(
    "vqav2",
    expects="*questions*.json with *annotations*.json beside it, and the COCO photos",
    licence="VQA annotations: CC-BY 4.0; photos as COCO",
    counts={"train/vqa": 443_757, "val/vqa": 214_354},
)
def read(root: Path) -> Iterator[Item]:
    """One row per question with the soft scores of its answers; the ten answers are in `extra`."""
    yield from _vqa_form(root)


@reader(
    "okvqa",
    expects="OpenEnded_mscoco_*_questions.json with mscoco_*_annotations.json beside it, and the COCO photos",
    licence="OK-VQA annotations: CC-BY 4.0; photos as COCO",
    counts={"train/vqa": 9_009, "val/vqa": 5_046},
)
def read_okvqa(root: Path) -> Iterator[Item]:
    """As VQAv2."""
    yield from _vqa_form(root)


@reader(
    "vizwiz",
    expects="{train,val}.json, in the folder or under Annotations, and the photos",
    licence="VizWiz: CC-BY 4.0",
    counts={"train/vqa": 20_523, "val/vqa": 4_319},
)
def read_vizwiz(root: Path) -> Iterator[Item]:
    """One row per photo and question; whether it can be answered is in `extra`."""
    media = MediaFolder(root)
    for path in require(root, "train.json", "val.json", "*/train.json", "*/val.json"):
        split = split_of(path.stem)

        def convert(row: Any, split: str = split) -> Iterator[Made]:
            name, given = value(row, "image"), _texts(row)
            key = Path(name).stem
            yield from media.item(split, key, name)
            extra = {"answers": json.dumps(given), "answerable": str(row.get("answerable", ""))}
            question, form = value(row, "question").strip(), str(row.get("answer_type", ""))
            answers = soft_answers(given)
            yield split, "vqa", Record(key, image=key, text=question, answers=answers, form=form, extra=extra)

        yield from each(path, numbered(read_json(path, list)), convert)


@reader(
    "gqa",
    expects="{train,val,testdev}_balanced_questions.json (question id -> question), and images/",
    licence="GQA: CC-BY 4.0; photos of Visual Genome: CC-BY 4.0",
    counts={"train/vqa": 943_000, "val/vqa": 132_062, "test/vqa": 12_578},
)
def read_gqa(root: Path) -> Iterator[Item]:
    """One row per question, one answer each."""
    media = MediaFolder(root)
    for path in require(root, "*_questions.json", "*/*_questions.json"):
        split = "test" if "test" in path.stem else split_of(path.stem)

        def convert(item: tuple[str, Any], split: str = split) -> Iterator[Made]:
            question_id, row = item
            image = value(row, "imageId")
            yield from media.item(split, image, image)
            answers = (Answer(value(row, "answer").strip()),)
            text = value(row, "question").strip()
            yield split, "vqa", Record(question_id, image=image, text=text, answers=answers)

        yield from each(path, numbered(read_json(path, dict).items(), "question"), convert)


@reader(
    "easy_vqa",
    expects="{train,test}/questions.json ([question, answer, image id]) with images.zip or images/ beside it",
    licence="MIT",
    counts={"train/vqa": 38_575, "test/vqa": 9_673},
)
def read_easy(root: Path) -> Iterator[Item]:
    """One row per question."""
    for path in require(root, "*/questions.json"):
        split, media = split_of(path.parent.name), MediaFolder(path.parent)

        def convert(row: Any, split: str = split, media: MediaFolder = media) -> Iterator[Made]:
            number, content = row
            if not isinstance(content, list) or list(map(type, content)) != [str, str, int]:
                raise UserError(f"expected [question, answer, image id], found {str(content)[:60]}")
            question, answer, image = content
            key = f"easy-{image}"
            yield from media.item(split, key, f"{image}.png")
            yield split, "vqa", Record(str(number), image=key, text=question, answers=(Answer(answer),))

        yield from each(path, numbered(enumerate(read_json(path, list))), convert)
