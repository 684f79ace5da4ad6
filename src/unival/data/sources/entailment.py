"""Visual entailment: SNLI-VE and e-SNLI-VE on Flickr30k photos, and NLVR's true / false sentences."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unival.data.sources.media_folder import MediaFolder
from unival.data.sources.reader import (
    Item,
    Made,
    each,
    read_csv,
    read_jsonl,
    reader,
    require,
    split_of,
    value,
)
from unival.errors import UserError
from unival.record import Answer, Record

LABELS = {"entailment": "yes", "contradiction": "no", "neutral": "maybe"}
SNLI_LICENCE = "SNLI text: CC-BY-SA 4.0; SNLI-VE: BSD-3; e-SNLI-VE: research use; Flickr photos: research use"


def _label(name: str, labels: dict[str, str]) -> tuple[Answer, ...]:
    if name not in labels:
        raise UserError(f"label '{name}' is none of {', '.join(labels)}")
    return (Answer(labels[name]),)


@reader(
    "snli_ve",
    expects="snli_ve_{train,dev,test}.jsonl or esnlive_*.csv, and the Flickr photos",
    licence=SNLI_LICENCE,
    counts={"train/entailment": 529_527, "val/entailment": 17_858, "test/entailment": 17_901},
)
def read(root: Path) -> Iterator[Item]:
    """One row per hypothesis; the premise (SNLI-VE) or the explanation (e-SNLI-VE) is in `extra`."""
    media = MediaFolder(root)
    for path in require(root, "snli_ve_*.jsonl", "*/snli_ve_*.jsonl", "esnlive*.csv", "*/esnlive*.csv"):
        split = split_of(path.stem, "")

        def convert(row: Any, split: str = split) -> Iterator[Made]:
            split = split or split_of(value(row, "original_split"))
            if "Flickr30kID" in row:  # e-SNLI-VE; `image` where the photos have other names
                name, hypothesis = row.get("image") or value(row, "Flickr30kID"), value(row, "hypothesis")
                extra = {"explanation": row.get("explanation", "")}
            else:
                name = str(row.get("Flikr30kID") or row.get("Flickr30K_ID") or value(row, "Flickr30K_ID"))
                hypothesis, extra = value(row, "sentence2"), {"premise": value(row, "sentence1")}
            key = Path(name).stem
            yield from media.item(split, key, name if "." in name else f"{name}.jpg")
            answers = _label(value(row, "gold_label"), LABELS)
            record = Record(
                value(row, "pairID"), image=key, text=hypothesis.strip(), answers=answers, extra=extra
            )
            yield split, "entailment", record

        columns = ("pairID", "Flickr30kID", "hypothesis", "gold_label")
        rows = read_jsonl(path) if path.suffix == ".jsonl" else read_csv(path, columns)
        yield from each(path, rows, convert)


@reader(
    "nlvr",
    expects="{train,dev,test}/{train,dev,test}.json (JSON lines) and images.zip or images/ beside it",
    licence="NLVR: CC-BY 4.0",
    counts={"train/entailment": 74_460, "val/entailment": 5_940, "test/entailment": 5_934},
)
def read_nlvr(root: Path) -> Iterator[Item]:
    """One row per sentence and picture (the box orders that are there): true is yes, false is no."""
    for path in require(root, "*/train.json", "*/dev.json", "*/test.json"):
        split, media = split_of(path.stem), MediaFolder(path.parent)

        def convert(
            row: Any, split: str = split, media: MediaFolder = media, path: Path = path
        ) -> Iterator[Made]:
            identifier = value(row, "identifier")
            answers = _label(value(row, "label"), {"true": "yes", "false": "no"})
            names = [f"{path.stem}-{identifier}-{order}" for order in range(6)]
            for stem in [name for name in names if media.name_of(name)] or names[:1]:
                yield from media.item(split, stem, f"{stem}.png")
                record = Record(stem, image=stem, text=value(row, "sentence").strip(), answers=answers)
                yield split, "entailment", record

        yield from each(path, read_jsonl(path), convert)
