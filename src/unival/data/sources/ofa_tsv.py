"""The TSV files of OFA and UnIVAL, both ways: the 8-column pretraining form and the forms of the tasks.

No header; several references or answers are joined by `&&`, an answer is `confidence|!+text`, a box is
`x0,y0,x1,y1` in pixels; an image is base64 (the URL-safe alphabet or the usual one) or a path
(docs/reference.md 2.3, 3.2, 3.3, 3.4, 3.5). The form of a row is known by its columns.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unival.data.manifest import read_records
from unival.data.media import SUFFIXES, plain_image
from unival.data.source import MediaItem
from unival.data.sources.entailment import LABELS
from unival.data.sources.formats import line_rows
from unival.data.sources.reader import ANSWERING, CAPTIONING, File, Item, rows
from unival.data.store import MediaStore
from unival.errors import UserError, nearest
from unival.files import atomic
from unival.record import Answer, Modality, Record

JOIN, MARK = "&&", "|!+"
BREAKS = re.compile(r"[\t\n\r]+")
MAGIC = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp", b"GIF8": ".gif"}
LABEL_NAMES = {label: name for name, label in LABELS.items()}
KINDS: dict[str, tuple[str, Modality]] = {
    "caption": ("caption", "image"),
    "qa": ("vqa", "image"),
    "visual_grounding": ("grounding", "image"),
    "video_caption": ("video_caption", "video"),
    "video_qa": ("video_qa", "video"),
    "audio_caption": ("audio_caption", "audio"),
}
"""Column `type` of the pretraining form -> task and modality."""


@rows("ofa_tsv", "*.tsv", load=line_rows)
def _row(line: str, file: File) -> Iterator[Item]:
    """One row per line; the split is in the file's name."""
    task, source, record = _parsed(line.split("\t"))
    modality, key = record.media()[0]
    if _is_path(source):
        yield from file.medium(file.split, modality, key, source)
    elif file.media.once(file.split, key):
        yield _inline(file.split, key, source)
    yield file.item(file.split, task, record)
    if task == "grounding":
        yield file.item(file.split, "grounded_caption", record)


def _is_path(source: str) -> bool:
    return len(source) < 512 and Path(source).suffix.lower() in SUFFIXES


def _parsed(columns: list[str]) -> tuple[str, str, Record]:
    """Task, base64 or path of the medium, and the row."""
    modality: Modality = "image"
    match columns:
        case [row_id, key, text, box, source] if corners := _box(box):
            task, fields = "grounding", _pointed(text, corners)
        case [row_id, key, captions, objects, source]:
            modality = _modality_of(source)
            task, fields = CAPTIONING[modality], _captioned(captions, objects)
        case [row_id, key, source, text, premise, label] if label in LABELS:
            task = "entailment"
            fields = {"text": text, "answers": (Answer(LABELS[label]),), "extra": {"premise": premise}}
        case [row_id, key, question, answers, objects, source] if MARK in answers:
            modality = _modality_of(source)
            task, fields = ANSWERING[modality], _asked(question, answers, objects)
        case [row_id, source, captions, question, answer, objects, dataset, kind]:
            if kind not in KINDS:
                raise UserError(f"type '{kind}' is unknown: {nearest(kind, KINDS)}")
            (task, modality), key = KINDS[kind], source if len(source) < 512 else row_id
            if task == "grounding":
                fields = _pointed(captions, _box(answer))
            elif task in ANSWERING.values():
                fields = _asked(question, answer, objects)
            else:
                fields = _captioned(captions, objects)
            fields["extra"] = {"dataset": dataset}
        case _:
            raise UserError(
                f"{len(columns)} columns of no known form (8, 5: caption or box, 6: VQA or SNLI-VE)"
            )
    return task, source, Record.about(modality, key, row_id, **fields)


def _modality_of(source: str) -> Modality:
    return SUFFIXES[Path(source).suffix.lower()] if _is_path(source) else "image"


def _pointed(text: str, box: tuple[float, ...] | None) -> dict[str, Any]:
    if box is None:
        raise UserError("the box is not x0,y0,x1,y1")
    return {"text": text, "references": (text,), "box": box}


def _captioned(captions: str, objects: str) -> dict[str, Any]:
    references = tuple(text.strip() for text in captions.split(JOIN))
    return {"references": references, "objects": _objects(objects)}


def _asked(question: str, answers: str, objects: str) -> dict[str, Any]:
    parsed = []
    for item in answers.split(JOIN):
        confidence, mark, text = item.partition(MARK)
        try:
            parsed.append(Answer(text.strip(), float(confidence if mark else "")))
        except ValueError as error:
            raise UserError(f"answer '{item[:60]}' is not confidence{MARK}text") from error
    return {"text": question, "answers": tuple(parsed), "objects": _objects(objects)}


def _objects(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(JOIN) if name.strip())


def _box(text: str) -> tuple[float, ...] | None:
    """Four numbers; None where it is something else."""
    try:
        numbers = tuple(map(float, text.split(",")))
    except ValueError:
        return None
    return numbers if len(numbers) == 4 else None


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

    Tabs and line breaks in a text (a few COCO captions have them) become spaces. Pictures that EXIF turns,
    and deep grey ones, become PNG as shown: the original heeds neither, and boxes are of what is shown.

    Raises:
        UserError: the task has no such form, a row has no answers, or `path` cannot be written.
    """
    if task not in WRITERS:
        raise UserError(f"task '{task}' has no TSV form: {nearest(task, WRITERS)}")
    records, store = read_records(split_dir, task), MediaStore(split_dir)
    with atomic(path) as part, part.open("w", encoding="utf-8", newline="\n") as handle:
        for record in records:
            if not record.labelled:
                raise UserError(
                    f"{split_dir}: row '{record.id}' of '{task}' has no answers, and the form no place for "
                    "such rows: give a split that has them"
                )
            key = record.media()[0][1]
            image = base64.urlsafe_b64encode(plain_image(store.bytes(key), key)).decode()
            columns = WRITERS[task](record, key, image)
            handle.write("\t".join(BREAKS.sub(" ", column) for column in columns) + "\n")
    return len(records)
