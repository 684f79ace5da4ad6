"""The benchmark `photos`: real photos, clips and sounds with what people wrote of them, in all seven tasks.

COCO and Flickr8k photos with captions, COCO boxes with derived expressions and questions, human entailment
pairs, ESC-10 sounds, and the few real clips. Too small to learn from scratch: it shows that the pipeline
takes real data, and gives numbers near the baselines. The readers of the official formats read everything; it
is made smaller and split anew **by medium**, so that no photo, clip or recording is in two splits. No shift
of its own: corruptions are applied at evaluation.

Read from the folder UNIVAL_DATA: coco/, flickr8k_1000/, esc10/, weizmann_actions/, demo_videos/.
"""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from unival import config
from unival.data.benchmarks import shrink
from unival.data.source import SOURCES, BadItem, MediaItem, RowItem, Source
from unival.data.sources.reader import READERS, Item, data_folder
from unival.errors import UserError
from unival.record import Answer, Modality, Record

LICENCE = (
    "Research use, not to be passed on: COCO annotations CC-BY 4.0, photos by their own; Flickr8k "
    "and SNLI-VE research use; ESC-10 CC-BY 3.0; Weizmann (mocogan) CC BY-NC-ND 4.0; other clips: their index"
)
PARTS = (
    ("coco", "coco_captions"),
    ("coco", "vqav2"),
    ("coco", "refcoco"),
    ("flickr8k_1000", "flickr8k"),
    ("flickr8k_1000", "snli_ve"),
    ("weizmann_actions", "msrvtt"),
    ("demo_videos", "msrvtt"),
    ("demo_videos", "msrvtt_qa"),
    ("esc10", "esc50"),
)
"""Folder and the reader for it."""
PERSON_SPLITS = {"p4": "val", "p5": "test"}
"""Persons of the Weizmann actions; p5 is the one that its source keeps for validation."""
FOLD_SPLITS = {"1": "train", "2": "train", "3": "val", "4": "test"}
"""Folds of ESC-10: clips of one recording are never in two."""
ACTIONS = {
    "wave1": "waving one hand",
    "wave2": "waving both hands",
    "jack": "doing jumping jacks",
    "bend": "bending down",
}
ACTION = re.compile(rf"p[0-9]_({'|'.join(ACTIONS)})_")
CLIP_RATE = 8
MATCHING = {"caption": "matching", "video_caption": "video_matching"}


@dataclass(frozen=True)
class PhotosOptions:
    """Options of the source `photos`."""

    seed: int
    size: str
    """One of `sizes`."""
    sizes: dict[str, dict[str, int | None]]
    """Media that each split takes of one kind and data set at most (null: all): train, val, test."""
    image_size: int
    """Longer side of a stored photo in pixels; boxes follow."""
    video_size: int
    """Longer side of a stored frame in pixels."""
    video_frames: int
    """Frames of a stored clip, evenly spread."""
    sampling_rate: int
    """Samples per second of a stored sound."""
    audio_seconds: float
    """Length of a stored sound: the first seconds of the clip."""
    root: str | None = None
    """Folder with the data sets; the one that UNIVAL_DATA names where null."""

    def __post_init__(self) -> None:
        if self.size not in self.sizes:
            raise ValueError(f"size '{self.size}' is not one of {', '.join(self.sizes)}")
        if sorted(self.sizes[self.size]) != ["test", "train", "val"]:
            raise ValueError(f"sizes: {self.size}: needs train, val and test")


@SOURCES.register("photos")
def source(options: Mapping[str, Any], where: str) -> Source:
    """The stream of all parts."""
    chosen = config.build(PhotosOptions, options, where)
    root = data_folder(chosen.root, *(name for name, _ in PARTS))
    names = ("seed", "image_size", "video_size", "video_frames", "sampling_rate", "audio_seconds")
    return Source(_items(chosen, root), LICENCE, {name: getattr(chosen, name) for name in names})


def _items(options: PhotosOptions, root: Path) -> Iterator[Item]:
    state = _State(options)
    for name, reader in PARTS:
        for item in READERS[reader].read(root / name):
            if isinstance(item, MediaItem):
                yield from state.medium(item, name)
            elif isinstance(item, RowItem) and isinstance(item.row, Record):
                yield from state.rows(item, item.row)
            else:
                yield item


def split_of_medium(part: str, key: str, official: str, seed: int) -> str:
    """The split of a photo, clip or recording, from its own name alone."""
    if part == "weizmann_actions":
        return PERSON_SPLITS.get(key[:2], "train")
    if part == "esc10":
        return FOLD_SPLITS.get(key[:1], "train")
    if part == "coco" and official == "train":
        return "train"
    place = int(hashlib.sha256(f"{seed}/{part}/{key}".encode()).hexdigest()[:8], 16) / 2**32
    if part == "coco":
        return "val" if place < 0.4 else "test"
    return "train" if place < 0.6 else "val" if place < 0.75 else "test"


class _State:
    """Which media were taken, into which split, and how their boxes change."""

    def __init__(self, options: PhotosOptions) -> None:
        self.options = options
        self.splits: dict[str, str] = {}
        """Split of each medium that was taken."""
        self.seen: set[str] = set()
        self.views: dict[str, shrink.View] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.captions: dict[tuple[str, str], str] = {}
        """(split, task) -> caption of the row before: a false one for the next."""

    def medium(self, item: MediaItem, part: str) -> Iterator[MediaItem | BadItem]:
        """The medium, smaller, in its new split; nothing where it was given before or the split is full."""
        if item.key in self.seen:
            return
        self.seen.add(item.key)
        split = split_of_medium(part, item.key, item.split, self.options.seed)
        try:
            kind = item.modality
            limit = self.options.sizes[self.options.size][split]
            if limit is not None and self.counts[split, f"{part} {kind}"] >= limit:
                return
            data, suffix = self._smaller(kind, item.key, item.read(), item.origin)
        except UserError as error:
            yield BadItem(item.origin, item.row, "media", str(error).removeprefix(f"{item.origin}: "))
            return
        self.counts[split, f"{part} {kind}"] += 1
        self.splits[item.key] = split
        yield MediaItem(split, item.key, data, suffix, item.origin, item.row)

    def _smaller(self, kind: Modality, key: str, data: bytes, file: str) -> tuple[bytes, str]:
        options = self.options
        if kind == "image":
            smaller, self.views[key] = shrink.image(data, file, options.image_size)
            return smaller, ".jpg"
        if kind == "video":
            return shrink.video(data, file, options.video_size, options.video_frames, CLIP_RATE), ".mp4"
        return shrink.audio(data, file, options.sampling_rate, options.audio_seconds), ".wav"

    def rows(self, item: RowItem, record: Record) -> Iterator[RowItem | BadItem]:
        """The row in its medium's split, and the rows that follow from it."""
        key = record.media()[0][1]
        split = self.splits.get(key)
        if split is None:  # the medium is damaged, which is reported, or its split is full
            return
        if not record.labelled:  # of an official test split
            return
        if record.box is not None:
            try:
                box = self.views[key].box(record.box, item.size)
            except UserError as error:
                yield BadItem(item.file, item.number, "box", str(error))
                return
            record = dataclasses.replace(record, box=box)
        if item.task == "vqa":
            record = dataclasses.replace(record, id=f"{item.split}-{record.id}")
        yield RowItem(split, item.task, record, item.file, item.number)
        if item.task in MATCHING:
            yield from self._matching(split, item, record, key)
        if item.task == "video_caption" and ACTION.match(key):
            for question in _action_questions(Random(f"{self.options.seed}/{key}"), key):
                yield RowItem(split, "video_qa", question, item.file, item.number)

    def _matching(self, split: str, item: RowItem, record: Record, key: str) -> Iterator[RowItem]:
        """Whether a caption fits: its own, or that of the row before."""
        rng = Random(f"{self.options.seed}/matching/{key}")
        own = rng.choice(record.references)
        other = self.captions.get((split, item.task), own)
        self.captions[split, item.task] = own
        false = other not in record.references and rng.random() < 0.5
        answers = (Answer("no" if false else "yes"),)
        text = other if false else own
        matching = dataclasses.replace(record, references=(), text=text, answers=answers, form="caption")
        yield RowItem(split, MATCHING[item.task], matching, item.file, item.number)


def _action_questions(rng: Random, key: str) -> Iterator[Record]:
    """What the person of a Weizmann clip does, and whether it is a certain action."""
    action = key.split("_")[1]  # p0_bend_mirror
    answer = (Answer(ACTIONS[action]),)
    yield Record(f"{key}-what", video=key, text="what is the person doing?", answers=answer, form="what")
    asked = action if rng.random() < 0.5 else rng.choice([name for name in ACTIONS if name != action])
    answer = (Answer("yes" if asked == action else "no"),)
    yield Record(f"{key}-is", video=key, text=f"is the person {ACTIONS[asked]}?", answers=answer, form="is")
