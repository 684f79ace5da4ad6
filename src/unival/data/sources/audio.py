"""Captions and classes of sounds: AudioCaps, Clotho, ESC-50 (and ESC-10), VGGSound."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unival.data.source import BadItem
from unival.data.sources.formats import Row, changed, csv_rows, grouped
from unival.data.sources.reader import File, Item, rows
from unival.data.sources.splits import said_split
from unival.errors import UserError

CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
ESC_SPLITS = {"4": "val", "5": "test"}
"""ESC-50 is for cross-validation over five folds; this is one of its divisions."""
QUESTION = "which sound is it?"


@rows(
    "audiocaps",
    "train.csv",
    "val.csv",
    "test.csv",
    load=grouped(
        csv_rows("audiocap_id", "youtube_id", "start_time", "caption"),
        key=lambda row: (row["youtube_id"], row["start_time"]),
        text=lambda row: row["caption"],
    ),
)
def _audiocaps(item: tuple[dict[str, str], list[str]], file: File) -> Iterator[Item]:
    """One row per clip with its captions (one in training, five elsewhere)."""
    row, captions = item
    youtube, key = row["youtube_id"], f"{row['youtube_id']}_{row['start_time']}"
    name = file.media.first("audio", youtube, row["audiocap_id"], f"Y{youtube}", key, f"{key}000")
    yield from file.captions("audio", key, captions, name)


@rows("clotho", "*captions*.csv", load=csv_rows("file_name", *CAPTIONS))
def _clotho(row: dict[str, str], file: File) -> Iterator[Item]:
    """One row per sound with its five captions."""
    name = row["file_name"].strip()
    if not name:
        raise UserError("field 'file_name' is empty")
    yield from file.captions("audio", Path(name).stem, [row[caption] for caption in CAPTIONS], name)


def sound_captions(category: str) -> list[str]:
    """Templated captions of a class of sounds."""
    return [f"the sound of {category}", f"{category} can be heard", f"a recording of {category}"]


def _esc_lines(path: Path) -> Iterator[Row]:
    """(row, captions): those of a captions CSV beside the table, else templates."""
    captions = dict[str, list[str]]()
    for other in sorted(path.parent.glob("*captions*.csv")):
        for item in csv_rows("file_name", *CAPTIONS)(other):
            if isinstance(item, BadItem):
                yield item
            else:
                captions[item[1]["file_name"]] = [item[1][name] for name in CAPTIONS]
    table = csv_rows("filename", "fold", "category")(path)
    yield from changed(path, table, lambda row: (row, captions.get(row["filename"])))


@rows("esc50", "esc50.csv", "esc10.csv", load=_esc_lines)
def _esc(item: tuple[dict[str, str], list[str] | None], file: File) -> Iterator[Item]:
    """Captions and a question per sound."""
    row, captions = item
    name, fold, category = row["filename"], row["fold"], row["category"].replace("_", " ")
    if not fold.isdecimal() or not category:
        raise UserError(f"fold '{fold}' or category '{category}' is missing or wrong")
    key = Path(name).stem
    fields: dict[str, Any] = {
        "split": ESC_SPLITS.get(fold, "train"),
        "objects": (category,),
        "extra": {"fold": fold, "category": row["category"]},
    }
    yield from file.captions("audio", key, captions or sound_captions(category), name, **fields)
    yield from file.question("audio", key, key, QUESTION, category, name, form="class", **fields)


@rows("vggsound", "vggsound.csv", load=csv_rows(names=("id", "start", "label", "split")))
def _vggsound(row: dict[str, str], file: File) -> Iterator[Item]:
    """A question per sound, whose answer is the class."""
    start = row["start"].strip()
    if not start.isdecimal():
        raise UserError(f"start second '{start}' is not a number")
    key, split = f"{row['id']}_{int(start):06d}", said_split(row["split"])
    yield from file.question("audio", key, key, QUESTION, row["label"], form="class", split=split)
