"""Free Spoken Digit Dataset: `{digit}_{speaker}_{index}.wav`, 8 kHz."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unival.data.source import BadItem, MediaItem, RowItem
from unival.data.sources.mnist import NUMBERS
from unival.data.sources.reader import Item, reader, require
from unival.record import Answer, Record

NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)\.wav")
TEST_INDICES = 5
"""The data set's own rule: recordings 0-4 of each digit and speaker are the test set."""


@dataclass(frozen=True)
class Recording:
    """One spoken digit."""

    path: Path
    digit: int
    speaker: str
    index: int


def recordings(root: Path) -> Iterator[Recording | BadItem]:
    """All recordings, sorted by name; a wav file with another name is a BadItem."""
    for path in require(root, "recordings/*.wav", "*.wav"):
        match = NAME.fullmatch(path.name)
        if match is None:
            yield BadItem(str(path), path.name, "name", "not {digit}_{speaker}_{index}.wav")
        else:
            yield Recording(path, int(match[1]), match[2], int(match[3]))


def captions(word: str) -> tuple[str, ...]:
    """Five templated captions of a spoken digit."""
    return (
        f"a person says {word}",
        f"someone says the digit {word}",
        f"a voice says {word}",
        f"the number {word} is spoken",
        f"a speaker says the number {word}",
    )


@reader(
    "fsdd",
    expects="recordings/{digit}_{speaker}_{index}.wav (or the wav files themselves)",
    licence="CC-BY-SA 4.0",
    counts={"train/audio_caption": 2_700, "test/audio_caption": 300},
)
def read(root: Path) -> Iterator[Item]:
    """Each recording with captions and a question; indices 0-4 are the test split, as the data set says."""
    for item in recordings(root):
        if isinstance(item, BadItem):
            yield item
            continue
        key, word = item.path.stem, NUMBERS[item.digit]
        split = "test" if item.index < TEST_INDICES else "train"
        extra = {"speaker": item.speaker}
        yield MediaItem(split, key, item.path)
        caption = Record(key, audio=key, references=captions(word), objects=(word,), extra=extra)
        yield RowItem(split, "audio_caption", caption, str(item.path), key)
        question = "which digit is said?"
        qa = Record(key, audio=key, text=question, answers=(Answer(word),), form="digit", extra=extra)
        yield RowItem(split, "audio_qa", qa, str(item.path), key)
