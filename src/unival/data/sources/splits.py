"""The words for splits in official names: which split a file, a folder or a row belongs to."""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from unival.data.disk_map import DiskMap
from unival.data.source import BadItem
from unival.data.sources.formats import line_rows
from unival.errors import UserError

SPLIT_WORDS = {
    **dict.fromkeys(("pretrain", "pretraining"), "pretrain"),
    **dict.fromkeys(("train", "training", "trainval", "development"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "minival"), "val"),
    **dict.fromkeys(("test", "testing", "testdev", "testa", "testb", "eval", "evaluation"), "test"),
}
"""Official words for splits (Clotho's are development, validation, evaluation; GQA has testdev)."""


@lru_cache(maxsize=4096)  # asked of the folder of every medium
def split_of(name: str) -> str:
    """The split that an official name stands for, or ""; of a path, by its last part that says one."""
    for part in reversed(Path(name.lower()).parts):
        for word in re.findall("[a-z]+", part):  # whole words: `latest` is no test
            if (known := word.removesuffix("set")) in SPLIT_WORDS:
                return SPLIT_WORDS[known]
    return ""


def said_split(word: str) -> str:
    """The split that the word of a row stands for.

    Raises:
        UserError: it stands for none.
    """
    if not (split := split_of(word)):
        raise UserError(f"'{word}' is not a known split: {', '.join(SPLIT_WORDS)}")
    return split


def split_of_file(root: Path, path: Path) -> str:
    """The split that the name of a file, or of a folder between it and the root, says; "" where none does."""
    return split_of(path.stem if path == root else str(path.relative_to(root).with_suffix("")))


def listed(lists: Iterable[Path]) -> DiskMap | None:
    """Name -> split, of lists of names that each say their split in their own name; None where there is none.

    Raises:
        UserError: a list says no split, or a name is in two of them.
    """
    splits: DiskMap | None = None
    for path in lists:
        split = split_of(re.sub("([a-z])([A-Z])", r"\1 \2", path.stem))  # Flickr_8k.trainImages
        if not split:
            raise UserError(f"{path}: its name says no split: train, val (dev) or test")
        splits = splits or DiskMap()
        for item in line_rows(path):
            if isinstance(item, BadItem):
                raise UserError(f"{path}: {item.row}: {item.reason}")
            if not splits.add(name := item[1].strip(), split) and splits.get(name) != split:
                raise UserError(f"{path}: {item[0]}: '{name}' is in the split '{splits.get(name)}' too")
        if not path.stat().st_size:
            raise UserError(f"{path}: the file is empty: get it again")
    return splits


def listed_split(splits: DiskMap | None, name: str, lists: str) -> str:
    """The split of a name, "" where there are no lists.

    Args:
        lists: their files, for messages.

    Raises:
        UserError: they do not have it.
    """
    split = splits.get(name) if splits else ""
    if split is None:
        raise UserError(f"'{name}' is in no official split ({lists}): it is left out")
    return split
