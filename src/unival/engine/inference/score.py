"""Official metrics of predictions, their results file for a server, and predictions made by a model."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unival import config
from unival.data.manifest import manifest_path, read_records
from unival.data.store import MediaStore
from unival.engine.batches.rows import Rows, as_list
from unival.engine.inference import submission
from unival.engine.inference.evaluate import media_of, score_cell
from unival.engine.inference.predict import Prediction, predict
from unival.engine.inference.predictions import Predicted, write_predictions
from unival.engine.inference.predictor import Predictor
from unival.engine.machine import runtime
from unival.engine.machine.distributed import World, world
from unival.errors import UserError, nearest
from unival.metrics import boxes, caption, java, vqa
from unival.metrics.bootstrap import Interval, interval, statistic
from unival.metrics.calibration import brier, expected_calibration_error
from unival.metrics.chair import chair, instance, mentioned
from unival.record import LABELS, Answer, Record
from unival.tasks import TaskConfig, build
from unival.tasks.base import likeliest
from unival.tasks.folder import carried, conf_folder

Read = Sequence[Predicted]
Score = tuple[str, Interval | float, int]
"""Name, value (with its interval where rows can be drawn), number of rows."""


def scores(rows: Read, objects: Mapping[str, str] | None = None) -> Iterator[Score]:
    """The metrics of rows of one kind. `objects`: word -> object it names, for CHAIR.

    Raises:
        UserError: there is nothing to compare with, or a prediction is of another kind than its reference.
    """
    match rows[0].kind:
        case "answers":
            yield from _answers(rows)
        case "captions":
            yield from _captions(rows)
            if objects:
                yield from _hallucination(rows, objects)
        case "boxes":
            yield from _boxes(rows)
        case _:
            raise UserError(
                f"{rows[0].place}: neither references nor answers nor box to compare with: give --split and "
                "--task of the rows that have them, or write the --submission of a test split"
            )


def _answers(rows: Read) -> Iterator[Score]:
    media = media_of([row.record for row in rows])
    weights = [{answer.text: answer.weight for answer in row.record.answers} for row in rows]
    right_N = np.array(
        [
            vqa.accuracy(row.text, answers, vqa.annotators(row.record.extra))
            for row, answers in zip(rows, weights, strict=True)
        ]
    )
    yield "vqa_accuracy", interval(right_N, groups=media), len(rows)
    exact = [row.text == likeliest(row.record.answers).text for row in rows]
    yield "accuracy", interval(np.array(exact, dtype=np.float64), groups=media), len(rows)
    confidence = [row.probability for row in rows if row.probability is not None]
    if len(confidence) == len(rows):
        confidence_N = np.array(confidence)
        yield "ece", expected_calibration_error(confidence_N, right_N), len(rows)
        yield "brier", interval(brier(confidence_N, right_N), groups=media), len(rows)


def _captions(rows: Read) -> Iterator[Score]:
    candidates, references = [row.text for row in rows], [row.record.references for row in rows]
    media = media_of([row.record for row in rows])
    for name, score_N in caption.row_scores(candidates, references).items():
        yield name, interval(score_N, groups=media), len(rows)
    statistics_NS = caption.bleu_statistics(candidates, references)
    for order in range(1, caption.ORDERS + 1):
        yield f"bleu_{order}", statistic(statistics_NS, caption.bleu_of(order), groups=media), len(rows)
    if java.available():
        official = java.scores(candidates, references)
        for name, value in official.corpus.items():
            is_mean = name in official.rows and name != "meteor_ptb"
            score = interval(official.rows[name], groups=media) if is_mean else value
            yield name, score, len(rows)


def _hallucination(rows: Read, objects: Mapping[str, str]) -> Iterator[Score]:
    """What an image holds: its labels, and what its reference captions name."""
    present = [
        {
            *row.record.objects,
            *(name for text in row.record.references for name in mentioned(text, objects)),
        }
        for row in rows
    ]
    hallucination = chair([row.text for row in rows], present, objects)
    media = media_of([row.record for row in rows])
    yield "chair_s", interval(hallucination.sentence_N, groups=media), len(rows)
    yield "chair_i", statistic(hallucination.counts_N2, instance, groups=media), len(rows)


def _boxes(rows: Read) -> Iterator[Score]:
    truth_N4 = np.array([row.record.box for row in rows], dtype=np.float64)
    guess_N4 = np.array([row.box for row in rows], dtype=np.float64)
    iou_N = boxes.iou(guess_N4, truth_N4)
    media = media_of([row.record for row in rows])
    yield "iou", interval(iou_N, groups=media), len(rows)
    classes = {"": np.ones(len(rows), bool)} | {
        f"/{name}": mask_N for name, mask_N in boxes.size_classes(truth_N4).items()
    }
    for name, mask_N in classes.items():
        chosen = [medium for medium, kept in zip(media, mask_N, strict=True) if kept]
        for threshold in (0.5, 0.7, 0.9) if chosen else ():
            right_N = boxes.accuracy(iou_N[mask_N], threshold)
            yield f"acc@{threshold}{name}", interval(right_N, groups=chosen), len(chosen)


def submitted(rows: Read) -> list[dict[str, Any]]:
    """The entries of the data set's results file.

    Raises:
        UserError: a prediction is no text.
    """
    if any(isinstance(row.value, tuple) for row in rows):
        raise UserError(f"{rows[0].place}: no server takes boxes: leave --submission out")
    asked = rows[0].kind == "answers" or (rows[0].kind == "nothing" and bool(rows[0].record.text))
    forms = submission.ANSWERS if asked else submission.CAPTIONS
    return submission.results([(row.place, row.record, row.text) for row in rows], forms)


def read_objects(path: Path) -> dict[str, str]:
    """CHAIR's list of synonyms: a line for each object, its words separated by commas, its name first.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").lower().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the objects: {error}") from error
    words = [[word.strip() for word in line.split(",") if word.strip()] for line in lines]
    return {word: line[0] for line in words for word in line}


def settings(name: str, edition: str, model: Path | None = None) -> TaskConfig:
    """The task as a model folder carries it; without a model, or with an edition, that of `conf/task`.

    Raises:
        UserError: no such task or edition.
    """
    tasks = conf_folder()
    there = carried(model) if model is not None and not edition else {}
    if name in there:
        return there[name]
    place, edition_place = tasks / f"{name}.yaml", tasks.parent / "edition" / f"{edition}.yaml"
    if not place.is_file():
        raise UserError(
            f"unknown task '{name}': {nearest(name, [*there, *(path.stem for path in tasks.glob('*.yaml'))])}"
        )
    values = config.load(place)
    if edition:
        own = (config.load(edition_place).get("evaluate") or {}).get("tasks", {}).get(name, {})
        values = config.overlay(values, own)
    return config.build(TaskConfig, values, str(place))


def make(path: Path, model: Path, split: Path, name: str, edition: str) -> bool:
    """Write a model's predictions for the rows of a task in a prepared split; ranks of torchrun share them.

    The answers that decoding may yield are those of the folder's training split, where it has one.

    Returns whether this process is the one that wrote them.

    Raises:
        UserError: no such model, split or task; a task with answers of its own and no training split.
    """
    with world(runtime.load_anywhere().apply()) as ranks:
        rows, predictions = _predicted(model, split, name, edition, ranks)
        if ranks.is_main:
            records = as_list(rows.records)
            labelled = all(record.labelled for record in records)  # others are to be submitted
            write_predictions(
                path, records, predictions, score_cell(rows, predictions).scores if labelled else {}
            )
        return ranks.is_main


def _predicted(
    model: Path, split: Path, name: str, edition: str, ranks: World
) -> tuple[Rows, list[Prediction]]:
    predictor = Predictor.load(model, device=ranks.device)
    chosen = settings(name, edition, model)
    kind = chosen.rows or name
    records, store = as_list(read_records(split, kind)), MediaStore(split)
    if ranks.is_main:
        shown = {modality for record in records for modality, _ in record.media()}
        predictor.note_guesses(model, shown, [name])
    known: Sequence[Record] = [Record(label, answers=(Answer(label),)) for label in LABELS.get(kind, ())]
    if not known and manifest_path(split.parent / "train", kind).is_file():
        known = read_records(split.parent / "train", kind)
    task = build(name, chosen, predictor.processor, store, known)
    rows = Rows(task, records, store)
    return rows, predict(predictor.model, predictor.processor, rows, ranks=ranks)
