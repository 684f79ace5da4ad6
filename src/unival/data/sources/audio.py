"""Captions and classes of sounds: AudioCaps, Clotho, ESC-50 (and ESC-10), VGGSound."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unival.data.source import BadItem
from unival.data.sources.media_folder import MediaFolder
from unival.data.sources.reader import Item, Made, each, read_csv, reader, require, split_of
from unival.errors import UserError
from unival.record import Answer, Record

CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
ESC_SPLITS = {"4": "val", "5": "test"}
"""ESC-50 is for cross-validation over five folds; this is one of its divisions."""
QUESTION = "which sound is it?"


@reader(
    "audiocaps",
    expects="{train,val,test}.csv (audiocap_id,youtube_id,start_time,caption), sounds by either id",
    licence="AudioCaps: academic use; sounds belong to their owners",
    counts={"train/audio_caption": 49_838, "val/audio_caption": 495, "test/audio_caption": 975},
)
def read_audiocaps(root: Path) -> Iterator[Item]:
    """One row per clip with its captions (one in training, five elsewhere)."""
    media = MediaFolder(root)
    for path in require(root, "train.csv", "val.csv", "test.csv", "*/train.csv", "*/val.csv", "*/test.csv"):
        split = split_of(path.stem)
        clips: dict[tuple[str, str], tuple[str, str, list[str]]] = {}
        for item in read_csv(path, ("audiocap_id", "youtube_id", "start_time", "caption")):
            if isinstance(item, BadItem):
                yield item
                continue
            line, row = item
            clip = (row["youtube_id"], row["start_time"])
            clips.setdefault(clip, (line, row["audiocap_id"], []))[2].append(row["caption"].strip())

        def convert(row: Any, split: str = split) -> Iterator[Made]:
            (youtube, start), (_, number, captions) = row
            names = (
                number,
                youtube,
                f"Y{youtube}",
                f"{youtube}_{start}",
                f"{youtube}_{start}000",
            )
            name = next((media.name_of(stem) for stem in names if media.name_of(stem)), f"{youtube}.wav")
            key = f"{youtube}_{start}"
            yield from media.item(split, key, name or "")
            yield split, "audio_caption", Record(key, audio=key, references=tuple(captions))

        yield from each(path, ((clip[0], (key, clip)) for key, clip in clips.items()), convert)


@reader(
    "clotho",
    expects="clotho_captions_*.csv (file_name,caption_1..caption_5), and the sounds",
    licence="Clotho: Tampere University licence, non-commercial; sounds as at Freesound",
    counts={"train/audio_caption": 3_839, "val/audio_caption": 1_045, "test/audio_caption": 1_045},
)
def read_clotho(root: Path) -> Iterator[Item]:
    """One row per sound with its five captions."""
    media = MediaFolder(root)
    for path in require(root, "*captions*.csv", "*/*captions*.csv"):
        split = split_of(path.stem)

        def convert(row: Any, split: str = split) -> Iterator[Made]:
            name = row["file_name"].strip()
            if not name:
                raise UserError("field 'file_name' is empty")
            yield from media.item(split, Path(name).stem, name)
            references = tuple(row[caption].strip() for caption in CAPTIONS)
            record = Record(Path(name).stem, audio=Path(name).stem, references=references)
            yield split, "audio_caption", record

        yield from each(path, read_csv(path, ("file_name", *CAPTIONS)), convert)


def sound_captions(category: str) -> tuple[str, ...]:
    """Templated captions of a class of sounds."""
    name = category.replace("_", " ")
    return (f"the sound of {name}", f"{name} can be heard", f"a recording of {name}")


@reader(
    "esc50",
    expects="meta/esc50.csv or meta/esc10.csv (filename,fold,target,category), and audio/",
    licence="ESC-50: CC-BY-NC 3.0; ESC-10: CC-BY 3.0; each clip its own CC licence",
    counts={"train/audio_qa": 1_200, "val/audio_qa": 400, "test/audio_qa": 400},
)
def read_esc(root: Path) -> Iterator[Item]:
    """Captions (those of a captions CSV beside the table, else templates) and a question per sound."""
    media = MediaFolder(root)
    captions: dict[str, tuple[str, ...]] = {}
    for path in sorted(root.glob("meta/*captions*.csv")):
        for item in read_csv(path, ("file_name", *CAPTIONS)):
            if isinstance(item, BadItem):
                yield item
            else:
                captions[item[1]["file_name"]] = tuple(item[1][name] for name in CAPTIONS)

    def convert(row: Any) -> Iterator[Made]:
        name, fold, category = row["filename"], row["fold"], row["category"].replace("_", " ")
        if not fold.isdecimal() or not category:
            raise UserError(f"fold '{fold}' or category '{category}' is missing or wrong")
        split, key = ESC_SPLITS.get(fold, "train"), Path(name).stem
        extra = {"fold": fold, "category": row["category"]}
        yield from media.item(split, key, name)
        references = captions.get(name, sound_captions(category))
        objects = (category,)
        yield (
            split,
            "audio_caption",
            Record(key, audio=key, references=references, objects=objects, extra=extra),
        )
        answers = (Answer(category),)
        yield (
            split,
            "audio_qa",
            Record(
                key, audio=key, text=QUESTION, answers=answers, objects=objects, form="class", extra=extra
            ),
        )

    path = require(root, "meta/esc50.csv", "meta/esc10.csv", "esc50.csv")[0]
    yield from each(path, read_csv(path, ("filename", "fold", "category")), convert)


@reader(
    "vggsound",
    expects="vggsound.csv (youtube id, start second, label, split; no header), {id}_{start:06d} sounds",
    licence="VGGSound: CC-BY 4.0; sounds belong to their owners",
    counts={"train/audio_qa": 183_730, "test/audio_qa": 15_446},
)
def read_vggsound(root: Path) -> Iterator[Item]:
    """A question per sound, whose answer is the class."""
    media = MediaFolder(root)
    path = require(root, "vggsound.csv")[0]

    def convert(row: Any) -> Iterator[Made]:
        split, start = split_of(row["split"]), row["start"].strip()
        if not start.isdecimal():
            raise UserError(f"start second '{start}' is no number")
        key = f"{row['id']}_{int(start):06d}"
        yield from media.item(split, key, key if media.name_of(key) else f"{key}.wav")
        answers = (Answer(row["label"].strip()),)
        yield split, "audio_qa", Record(key, audio=key, text=QUESTION, answers=answers, form="class")

    yield from each(path, read_csv(path, (), names=["id", "start", "label", "split"]), convert)
