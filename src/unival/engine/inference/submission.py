"""Results files, in the form that each data set's evaluation server reads.

A reader keeps the official id of a row in `extra`, under the name that it has in the results file.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from unival.errors import UserError
from unival.record import Record

_WHOLE = re.compile("0|[1-9][0-9]{0,17}")


class Form(NamedTuple):
    """An entry of a results file, and which data sets have it."""

    row: str
    """Name of the row's official id."""
    text: str
    """Name of the predicted text."""
    numbers: bool
    """Whether official ids are numbers; text otherwise, as it is: 01827492 is not 1827492."""


VQA = Form("question_id", "answer", numbers=True)
"""VQAv2, OK-VQA (visualqa.org, "Results Format")."""
GQA = Form("questionId", "prediction", numbers=False)
"""GQA (its `eval.py`)."""
VIZWIZ = Form("image", "answer", numbers=False)
"""VizWiz-VQA (vizwiz.org, "Submission"): the photo's file name."""
COCO = Form("image_id", "caption", numbers=True)
"""COCO captions (cocodataset.org, "Results Format"), NoCaps."""
ANSWERS, CAPTIONS = (VQA, GQA, VIZWIZ), (COCO,)
FORMS = ANSWERS + CAPTIONS


def results(rows: Sequence[tuple[str, Record, str]], forms: Sequence[Form]) -> list[dict[str, Any]]:
    """The entries of (place, row, predicted text), in the first form whose id rows have in `extra`.

    Where none has, in the first of all, with the rows' own ids: numbers if every one is written as one.

    Raises:
        UserError: two rows with one id (the message names both), or one without the id that others have.
    """
    own = next((form for form in forms for _, record, _ in rows if form.row in record.extra), None)
    form = own or forms[0]
    places: dict[str, str] = {}
    for place, record, _ in rows:
        if own and form.row not in record.extra:
            raise UserError(f"{place}: no {form.row} in extra, which other rows have: submit them apart")
        identity = record.extra.get(form.row, record.id)
        if places.setdefault(identity, place) != place:
            raise UserError(f"{place}: {form.row} '{identity}' appears twice, first in {places[identity]}")
    numbers = form.numbers and (own is not None or all(map(_WHOLE.fullmatch, places)))
    return [
        {form.row: int(identity) if numbers and _WHOLE.fullmatch(identity) else identity, form.text: text}
        for identity, (_, _, text) in zip(places, rows, strict=True)
    ]
