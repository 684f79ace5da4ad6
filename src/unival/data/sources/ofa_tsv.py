"""The TSV files of OFA and UnIVAL, both ways: the 8-column pretraining form and the forms of the tasks.

No header; several references or answers are joined by `&&`, an answer is `confidence|!+text`, a box is
`x0,y0,x1,y1` in pixels; an image is base64 (the URL-safe alphabet or the usual one) or a path (reference 2.3
and section 3). The form of a row is known by its columns.
"""

import argparse
import base64
import binascii
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unival.data.manifest import read_records
from unival.data.media import SUFFIXES
from unival.data.source import MediaItem
from unival.data.sources.entailment import LABELS
from unival.data.sources.formats import line_rows
from unival.data.sources.reader import ANSWERING, CAPTIONING, File, Made, rows
from unival.data.store import MediaStore
from unival.errors import UserError, nearest
from unival.files import atomic
from unival.record import Answer, Medium, Record

JOIN, MARK = "&&", "|!+"
BREAKS = re.compile(r"[\t\n\r]+")
MAGIC = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp", b"GIF8": ".gif"}
LABEL_NAMES = {label: name for name, label in LABELS.items()}
KINDS: dict[str, tuple[str, Medium]] = {
    "caption": ("caption", "image"),
    "qa": ("vqa", "image"),
    "visual_grounding": ("grounding", "image"),
    "video_caption": ("video_caption", "video"),
    "video_qa": ("video_qa", "video"),
    "audio_caption": ("audio_caption", "audio"),
}
"""Column `type` of the pretraining form -> task and medium."""


@rows("ofa_tsv", "*.tsv", load=line_rows)
def _row(line: str, file: File) -> Iterator[Made]:
    """One row per line; the split is in the file's name."""
    task, source, record = _parsed(line.split("\t"))
    medium, key = record.media()[0]
    if _is_path(source):
        yield from file.media.item(file.split, medium, key, source)
    elif file.media.once(file.split, key):
        yield _inline(file.split, key, source)
    yield file.split, task, record
    if task == "grounding":
        yield file.split, "grounded_caption", record


def _is_path(source: str) -> bool:
    return len(source) < 512 and Path(source).suffix.lower() in SUFFIXES


def _medium_of(source: str) -> Medium:
    return SUFFIXES[Path(source).suffix.lower()] if _is_path(source) else "image"


def _parsed(columns: list[str]) -> tuple[str, str, Record]:
    """Task, base64 or path of the medium, and the row."""
    if len(columns) == 8:
        return _pretraining(columns)
    if len(columns) == 5 and _is_box(columns[3]):
        row_id, image, text, box, source = columns
        made = Record(row_id, image=image, text=text, references=(text,), box=_box(box))
        return "grounding", source, made
    if len(columns) == 5:
        row_id, image, captions, objects, source = columns
        medium = _medium_of(source)
        return CAPTIONING[medium], source, _captioned(row_id, medium, image, captions, objects)
    if len(columns) == 6 and columns[5] in LABELS:
        row_id, image, source, text, premise, label = columns
        answers = (Answer(LABELS[label]),)
        record = Record(row_id, image=image, text=text, answers=answers, extra={"premise": premise})
        return "entailment", source, record
    if len(columns) == 6 and MARK in columns[3]:
        row_id, image, question, answer, objects, source = columns
        medium = _medium_of(source)
        return ANSWERING[medium], source, _asked(row_id, medium, image, question, answer, objects)
    raise UserError(f"{len(columns)} columns of no known form (8, 5: caption or box, 6: VQA or SNLI-VE)")


def _pretraining(columns: list[str]) -> tuple[str, str, Record]:
    row_id, source, captions, question, answer, objects, dataset, kind = columns
    if kind not in KINDS:
        raise UserError(f"type '{kind}' is unknown: {nearest(kind, KINDS)}")
    task, medium = KINDS[kind]
    key = source if len(source) < 512 else row_id
    if task == "grounding":
        record = Record(row_id, image=key, text=captions, references=(captions,), box=_box(answer))
    elif task.endswith("qa"):
        record = _asked(row_id, medium, key, question, answer, objects)
    else:
        record = _captioned(row_id, medium, key, captions, objects)
    record.extra["dataset"] = dataset
    return task, source, record


def _captioned(row_id: str, medium: Medium, key: str, captions: str, objects: str) -> Record:
    references = tuple(text.strip() for text in captions.split(JOIN))
    fields: dict[str, Any] = {medium: key}
    return Record(row_id, references=references, objects=_objects(objects), **fields)


def _asked(row_id: str, medium: Medium, key: str, question: str, answer: str, objects: str) -> Record:
    answers = []
    for item in answer.split(JOIN):
        confidence, mark, text = item.partition(MARK)
        try:
            answers.append(Answer(text.strip(), float(confidence)))
        except ValueError as error:
            raise UserError(f"answer '{item[:60]}' is not confidence{MARK}text") from error
        if not mark:
            raise UserError(f"answer '{item[:60]}' is not confidence{MARK}text")
    fields: dict[str, Any] = {medium: key}
    return Record(row_id, text=question, answers=tuple(answers), objects=_objects(objects), **fields)


def _objects(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(JOIN) if name.strip())


def _is_box(text: str) -> bool:
    try:
        return len(list(map(float, text.split(",")))) == 4
    except ValueError:
        return False


def _box(text: str) -> tuple[float, float, float, float]:
    if not _is_box(text):
        raise UserError(f"box '{text[:60]}' is not x0,y0,x1,y1")
    x0, y0, x1, y1 = map(float, text.split(","))
    return x0, y0, x1, y1


def _inline(split: str, key: str, source: str) -> MediaItem:
    try:
        data = base64.b64decode(source.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"the image is neither a path nor base64: {error}") from error
    suffix = next((suffix for magic, suffix in MAGIC.items() if data.startswith(magic)), None)
    if suffix is None:
        raise UserError("the base64 column holds no image that is known by its first bytes")
    return MediaItem(split, key, data, suffix)


# ----------------------------------------------------------------------------------------------- writing

Columns = Callable[[Record, str, str], list[str]]
"""(row, media key, base64) -> columns."""
WRITERS: dict[str, Columns] = {
    "caption": lambda row, key, image: [
        row.id, key, JOIN.join(row.references), JOIN.join(row.objects), image,
    ],
    "vqa": lambda row, key, image: [row.id, key, row.text, _answers(row), JOIN.join(row.objects), image],
    "grounding": lambda row, key, image: [row.id, key, row.text, ",".join(map(repr, row.box or ())), image],
    "entailment": lambda row, key, image: [
        row.id, key, image, row.text, row.extra.get("premise", ""), LABEL_NAMES[row.answers[0].text],
    ],
}  # fmt: skip


def _answers(row: Record) -> str:
    return JOIN.join(f"{answer.weight!r}{MARK}{answer.text}" for answer in row.answers)


def write_tsv(split_dir: Path | str, task: str, path: Path | str) -> int:
    """Write the rows of a task of a prepared split as OFA's TSV with base64 images; returns their number.

    Tabs and line breaks in a text (a few COCO captions have them) become spaces.

    Raises:
        UserError: the task has no such form, or `path` cannot be written.
    """
    if task not in WRITERS:
        raise UserError(f"task '{task}' has no TSV form: {nearest(task, WRITERS)}")
    records, store = read_records(split_dir, task), MediaStore(split_dir)
    with atomic(path) as part, part.open("w", encoding="utf-8", newline="\n") as handle:
        for record in records:
            key = record.media()[0][1]
            columns = WRITERS[task](record, key, base64.urlsafe_b64encode(store.bytes(key)).decode())
            handle.write("\t".join(BREAKS.sub(" ", column) for column in columns) + "\n")
    return len(records)


def main(arguments: list[str]) -> None:
    """`unival export`: rows of a prepared split as OFA's TSV."""
    parser = argparse.ArgumentParser(prog="unival export", description="Prepared rows as OFA's TSV.")
    parser.add_argument(
        "--split", type=Path, required=True, metavar="<folder>", help="as data/processed/x/val"
    )
    parser.add_argument("--task", choices=WRITERS, required=True, metavar="<task>", help=", ".join(WRITERS))
    parser.add_argument("--out", type=Path, required=True, metavar="<file>")
    options = parser.parse_args(arguments)
    print(f"{write_tsv(options.split, options.task, options.out)} rows in {options.out}")
