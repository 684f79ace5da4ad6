"""Visual entailment: SNLI-VE and e-SNLI-VE on Flickr30k photos, and NLVR's true / false sentences."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unival.data.sources.formats import Row, csv_rows, jsonl_rows, value
from unival.data.sources.reader import File, Item, rows
from unival.data.sources.splits import said_split
from unival.errors import UserError
from unival.record import Answer

LABELS = {"entailment": "yes", "contradiction": "no", "neutral": "maybe"}


def label(name: str, labels: dict[str, str] = LABELS) -> tuple[Answer, ...]:
    """The answer that an official label stands for.

    Raises:
        UserError: no official label.
    """
    if name not in labels:
        raise UserError(f"label '{name}' is not one of {', '.join(labels)}")
    return (Answer(labels[name]),)


def _load(path: Path) -> Iterable[Row]:
    columns = ("pairID", "Flickr30kID", "hypothesis", "gold_label")
    return jsonl_rows(path) if path.suffix == ".jsonl" else csv_rows(*columns)(path)


@rows("snli_ve", "snli_ve_*.jsonl", "esnlive*.csv", load=_load)
def _snli_ve(row: Any, file: File) -> Iterator[Item]:
    """One row per hypothesis; the premise (SNLI-VE) or the explanation (e-SNLI-VE) is in `extra`."""
    split = said_split(row["original_split"]) if "original_split" in row else file.split
    if "Flickr30kID" in row:  # e-SNLI-VE; `image` where the photos have other names
        name, hypothesis = row.get("image") or row["Flickr30kID"], value(row, "hypothesis")
        extra = {"explanation": row.get("explanation", "")}
    else:
        name = str(row.get("Flikr30kID") or value(row, "Flickr30K_ID", (str, int)))
        hypothesis, extra = value(row, "sentence2"), {"premise": value(row, "sentence1")}
    name = name if Path(name).suffix else f"{name}.jpg"
    yield from file.row(
        "entailment", value(row, "pairID"), "image", Path(name).stem, name, split,
        text=hypothesis.strip(), answers=label(value(row, "gold_label")), extra=extra,
    )  # fmt: skip


@rows("nlvr", "train.json", "dev.json", "test.json", load=jsonl_rows, beside=True)
def _nlvr(row: Any, file: File) -> Iterator[Item]:
    """One row per sentence and picture (the box orders that are there): true is yes, false is no."""
    stem = f"{file.path.stem}-{value(row, 'identifier')}"
    answers = label(value(row, "label"), {"true": "yes", "false": "no"})
    names = [f"{stem}-{order}" for order in range(6)]
    for name in [name for name in names if file.media.has("image", f"{name}.png")] or names[:1]:
        text = value(row, "sentence").strip()
        yield from file.row("entailment", name, "image", name, f"{name}.png", text=text, answers=answers)
