"""One folder per class: the sign-language digits."""

from collections.abc import Iterator
from pathlib import Path

from unival.data.media import SUFFIXES
from unival.data.source import MediaItem, RowItem
from unival.data.sources.mnist import NUMBERS, QUESTION
from unival.data.sources.reader import Item, reader, require
from unival.record import Answer, Record


@reader(
    "sign_digits",
    expects="folders 0 .. 9 of images",
    licence="Apache-2.0",
    counts={"train/caption": 2_062},
)
def read(root: Path) -> Iterator[Item]:
    """A caption and a question per image, all in one split."""
    for path in require(root, "[0-9]/*"):
        if SUFFIXES.get(path.suffix.lower()) != "image":
            continue
        word, key = NUMBERS[int(path.parent.name)], f"sign-{path.parent.name}-{path.stem}"
        file = str(path)
        yield MediaItem("train", key, path)
        captions = (f"a hand sign of the digit {word}", f"a hand shows the number {word}")
        caption = Record(key, image=key, references=captions, objects=(word,))
        yield RowItem("train", "caption", caption, file, key)
        vqa = Record(key, image=key, text=QUESTION, answers=(Answer(word),), objects=(word,), form="digit")
        yield RowItem("train", "vqa", vqa, file, key)
