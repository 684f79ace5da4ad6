"""Predictions in a file: every row is checked where it is read, so that metrics meet no surprise.

A row is an object with `id`, `prediction` and what it is compared with (`PredictedRow`),
or an entry of a results file for a server (`submission.FORMS`). Rows stand one a line, or in one JSON list.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unival import config, files
from unival.data.manifest import check_number, check_row, check_text
from unival.engine.inference.submission import FORMS
from unival.errors import UserError
from unival.metrics import vqa
from unival.record import MODALITIES, Record
from unival.tasks import Value

if TYPE_CHECKING:
    from unival.engine.inference.predict import Prediction

Kind = Literal["answers", "captions", "boxes", "nothing"]
"""What predictions are compared with; `nothing`: rows of a test split whose answers are not published."""
_FIELDS = ("id", "text", "form", "references", "answers", "box", "objects", "extra")
_ABSENT: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True, slots=True)
class Predicted:
    """A row of a predictions file."""

    place: str
    """File and line, for messages."""
    record: Record
    """Its id, its media, and what it is compared with."""
    value: Value
    probability: float | None = None

    @property
    def kind(self) -> Kind:
        """What the prediction is compared with."""
        if self.record.answers:
            return "answers"
        boxed = self.record.box is not None and not isinstance(self.value, str)  # a box can have a caption
        if self.record.references and not boxed:
            return "captions"
        return "boxes" if self.record.box is not None else "nothing"

    @property
    def text(self) -> str:
        """The predicted text.

        Raises:
            UserError: it is a box, or null.
        """
        if not isinstance(self.value, str):
            value = "null" if self.value is None else "a box"
            raise UserError(f"{self.place}: prediction: expected a text ('' for none), found {value}")
        return self.value

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The predicted box, an empty one where none could be read.

        Raises:
            UserError: it is a text.
        """
        if isinstance(self.value, str):
            raise UserError(f"{self.place}: prediction: expected a box or null, found a text")
        return self.value or (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedRow:
    """A line of a predictions file as `evaluate` writes it; what is empty or None is left out."""

    id: str
    media: dict[str, str]
    """Modality -> its key in the store."""
    text: str
    """The question or phrase of the row; may be empty."""
    form: str = ""
    references: list[str] = field(default_factory=list)
    answers: dict[str, float] = field(default_factory=dict)
    """Answer -> weight."""
    box: tuple[float, float, float, float] | None = None
    """In pixels of the stored picture."""
    objects: list[str] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    output: str
    """What the model wrote."""
    prediction: str | tuple[float, float, float, float] | None
    """What was read from it: a text, a box, or nothing."""
    probability: float
    """Of the output."""
    scores: dict[str, float]
    """Metric -> its value for this row."""

    def to_json(self) -> str:
        """One line, without its end."""
        given = ("id", "media", "text", "output", "prediction", "probability", "scores")
        row = {name: value for name, value in asdict(self).items() if name in given or value not in _ABSENT}
        return json.dumps(row, ensure_ascii=False, allow_nan=False)


def write_predictions(
    path: Path | str,
    records: Iterable[Record],
    predictions: Iterable["Prediction"],
    scores: Mapping[str, np.ndarray],
) -> None:
    """Write a line for each row; `scores`: name -> score of every row, (n,)."""
    lines = [
        PredictedRow(
            id=record.id,
            media=dict(record.media()),
            text=record.text,
            form=record.form,
            references=list(record.references),
            answers={answer.text: answer.weight for answer in record.answers},
            box=record.box,
            objects=list(record.objects),
            extra=dict(record.extra),
            output=prediction.text,
            prediction=prediction.value,
            probability=round(prediction.score, 6),
            scores={name: round(float(score_N[place]), 6) for name, score_N in scores.items()},
        ).to_json()
        for place, (record, prediction) in enumerate(zip(records, predictions, strict=True))
    ]
    files.write_text(path, "".join(line + "\n" for line in lines))


def read_written(path: Path) -> list[PredictedRow]:
    """The rows of a file that `evaluate` wrote.

    Raises:
        UserError: a line is no such row; the message names file and line.
    """
    return [config.convert(PredictedRow, entry, place) for place, entry in entries(path)]


def read(path: Path, known: Sequence[Record] | None = None) -> list[Predicted]:
    """The rows of a predictions file, in its order.

    Args:
        known: the rows that were predicted, in the place of what the file says of them.

    Raises:
        UserError: no such file; a row of another form, one that comes twice, one of another kind than the
            first; a prediction of no known row, or a known row without. The message names file and line.
    """
    rows: dict[str, Predicted] = {}
    index: dict[str, Mapping[str, Record]] = {}
    for place, entry in entries(path):
        try:
            row, key = _row(entry, place)
        except (TypeError, ValueError) as error:
            raise UserError(f"{place}: {error}") from error
        if known is not None:
            if key not in index:
                index[key] = {record.extra.get(key, record.id): record for record in known}
            row = _joined(row, index[key])
        if row.record.id in rows:
            first = rows[row.record.id].place
            raise UserError(f"{place}: id '{row.record.id}' appears twice, first in {first}: leave one out")
        rows[row.record.id] = row
    if not rows:
        raise UserError(f"{path}: no rows")
    missing = [record.id for record in known or () if record.id not in rows]
    if missing:
        raise UserError(f"{path}: {len(missing)} rows have no prediction, first '{missing[0]}': add them")
    predictions = list(rows.values())
    for row in predictions:
        if row.kind != predictions[0].kind:
            raise UserError(
                f"{row.place}: is compared with {row.kind}, and {predictions[0].place} with "
                f"{predictions[0].kind}: give each kind of row a file of its own"
            )
    return predictions


def entries(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of every line of JSON that is not blank, or of every entry of one JSON list.

    Raises:
        UserError: it cannot be read, or is no JSON.
    """
    data = files.read_bytes(path)
    if data.lstrip().startswith(b"["):
        listed = _parsed(data, str(path))
        yield from ((f"{path}: entry {number}", entry) for number, entry in enumerate(listed, 1))
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield (place := f"{path}: line {number}"), _parsed(line, place)


def _parsed(data: bytes, place: str) -> Any:
    try:
        return json.loads(data.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON: {error}") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _row(entry: Any, place: str) -> tuple[Predicted, str]:
    """The row, and the name that its id has in `extra`; empty where it is that of the row itself.

    Raises:
        TypeError, ValueError: it has another form, and why.
    """
    if not isinstance(entry, dict):
        raise TypeError(f"expected an object with id and prediction, found {type(entry).__name__}")
    key = ""
    if "id" not in entry:
        form = next((form for form in FORMS if {form.row, form.text} <= set(entry)), None)
        if form is not None:
            key, entry = form.row, {"id": entry[form.row], "prediction": entry[form.text]}
    for name in ("id", "prediction"):
        if name not in entry:
            raise ValueError(f"no row of a predictions file: no field '{name}'")
    record, problems = check_row(_fields(entry))
    if record is None:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in problems))
    if "answers" in record.extra and not vqa.annotators(record.extra):
        raise ValueError('extra.answers: expected the annotators\' answers as JSON: \'["yes", "no"]\'')
    return Predicted(place, record, _value(entry["prediction"]), _probability(entry.get("probability"))), key


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record: ids may be numbers, answers are a mapping, media stand together."""
    fields = {name: entry[name] for name in _FIELDS if name in entry and entry[name] not in _ABSENT}
    if _is_whole(fields.get("id")):
        fields["id"] = str(fields["id"])
    if isinstance(fields.get("extra"), dict):
        fields["extra"] = {
            name: str(value) if _is_whole(value) else value for name, value in fields["extra"].items()
        }
    if "answers" in fields:
        if not isinstance(fields["answers"], dict):
            raise TypeError("answers: expected {answer: weight}")
        fields["answers"] = [{"text": text, "weight": weight} for text, weight in fields["answers"].items()]
    media = entry.get("media") or {}
    if not isinstance(media, dict) or not set(media) <= set(MODALITIES):
        raise TypeError(f"media: expected {{modality: key}}, media: {', '.join(MODALITIES)}")
    return {**fields, **media}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _value(value: Any) -> Value:
    try:
        if isinstance(value, list) and len(value) == 4:
            x0, y0, x1, y1 = map(check_number, value)
            return x0, y0, x1, y1
        return None if value is None else check_text(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"prediction: {error} (a text, a box [x0, y0, x1, y1], or null)") from error


def _probability(value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = check_number(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"probability: {error}") from error
    if not 0 <= number <= 1:
        raise ValueError(f"probability: {number} is outside [0, 1]")
    return number


def _joined(row: Predicted, known: Mapping[str, Record]) -> Predicted:
    record = known.get(row.record.id)
    if record is None:
        raise UserError(f"{row.place}: id '{row.record.id}' is not one of the split's rows")
    return Predicted(row.place, record, row.value, row.probability)
