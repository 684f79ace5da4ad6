"""The benchmark `digits`: real handwriting and real speech, in the tasks of the embedded benchmark.

Pictures of one to three MNIST digits, clips of a moving MNIST digit (the ready-made ones and more of the same
kind), spoken digits of FSDD. Each handwriting sample and each recording is in one split only. Two shifts:
`ood-handwriting` (USPS instead of MNIST, in pictures and clips) and `ood-speakers` (a speaker held out).

Read from the folder UNIVAL_DATA: mnist/, usps/, moving_digits/, fsdd/.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from unival import config
from unival.data import media
from unival.data.benchmarks import shrink
from unival.data.benchmarks.digits import text
from unival.data.benchmarks.digits.scenes import DigitScene, Hand, make_clip, make_scene
from unival.data.benchmarks.world.splits import Amount
from unival.data.source import SOURCES, BadItem, MediaItem, RowItem, Source, rows_about
from unival.data.sources import digit_sets
from unival.data.sources.formats import csv_rows
from unival.data.sources.reader import Item, data_folder, require
from unival.errors import UserError
from unival.files import inside, read_bytes
from unival.record import NUMBERS, Answer, Modality

HANDWRITING, SPEAKERS = "ood-handwriting", "ood-speakers"
DIGITS_PER_PICTURE = (1, 1, 1, 1, 1, 2, 2, 2, 3, 3)
PATCH_SHARE = 0.4
CLIP_RATE = 8
READY_CLIPS = {"train": (0, 8), "val": (8, 9), "test": (9, 12)}
"""Of the twelve ready-made clips of each digit and motion, which are in which split."""
LICENCE = "MNIST and moving digits: CC-BY-SA 3.0 (by custom); USPS: research use; FSDD: CC-BY-SA 4.0"


@dataclass(frozen=True)
class DigitsOptions:
    """Options of the source `digits`."""

    seed: int
    size: str
    """One of `sizes`."""
    sizes: dict[str, dict[str, Amount]]
    """Media per split: train, val, test, and `shift` for each `ood-*` split. Of sounds, which are what the
    speakers recorded, at most so many."""
    image_size: int
    """Width and height of an image in pixels."""
    video_size: int
    """Width and height of a frame in pixels, even."""
    video_frames: int
    """Frames of a clip."""
    sampling_rate: int
    """Samples per second."""
    audio_seconds: float
    """Length of every sound; longer recordings are cut."""
    copies: int
    """How often each training recording is stored: at other speeds, places and loudness."""
    held_out_speaker: str
    """Whose recordings are the split `ood-speakers`."""
    root: str | None = None
    """Folder with the data sets; the one that UNIVAL_DATA names where null."""

    def __post_init__(self) -> None:
        if self.size not in self.sizes:
            raise ValueError(f"size '{self.size}' is not one of {', '.join(self.sizes)}")
        if sorted(self.sizes[self.size]) != ["shift", "test", "train", "val"]:
            raise ValueError(f"sizes: {self.size}: needs train, val, test and shift")
        if self.image_size < 40 or self.video_size < 32 or self.video_size % 2:
            raise ValueError("images need at least 40 pixels, frames 32 and an even number")

    def amount(self, split: str) -> Amount:
        """What a split holds."""
        amounts = self.sizes[self.size]
        return amounts["shift"] if split.startswith("ood-") else amounts[split]


@SOURCES.register("digits")
def source(options: Mapping[str, Any], where: str) -> Source:
    """The stream of all splits."""
    chosen = config.build(DigitsOptions, options, where)
    root = data_folder(chosen.root, "mnist", "usps", "moving_digits", "fsdd")
    names = ("seed", "image_size", "video_size", "video_frames", "sampling_rate", "audio_seconds")
    return Source(_items(chosen, root), LICENCE, {name: getattr(chosen, name) for name in names})


def _items(options: DigitsOptions, root: Path) -> Iterator[Item]:
    ready = list(_ready_clips(root / "moving_digits"))
    yield from (clip for clip in ready if isinstance(clip, BadItem))
    clips = [clip for clip in ready if isinstance(clip, ReadyClip)]
    for split, hand in _hands(options, root, {clip.sample for clip in clips}).items():
        yield from _pictures(options, split, hand)
        yield from _clips(options, split, hand, [clip for clip in clips if clip.split == split])
    yield from _speech(options, root / "fsdd")


def _hands(options: DigitsOptions, root: Path, taken: set[int]) -> dict[str, Hand]:
    """Handwriting of each split; MNIST samples that a ready-made clip shows are in none of them."""
    images_NHW, labels_N = digit_sets.read_part(root / "mnist", "train")
    order = np.random.default_rng(options.seed).permutation(len(images_NHW)).tolist()
    free = [row for row in order if row not in taken]
    edges = {"train": (0.0, 0.8), "val": (0.8, 0.87), "test": (0.87, 1.0)}
    hands = {
        split: Hand(images_NHW, labels_N, free[int(first * len(free)) : int(last * len(free))], "mnist")
        for split, (first, last) in edges.items()
    }
    images_NHW, labels_N = digit_sets.read_groups(require(root / "usps", "*.h5")[0]).popitem()[1]
    order = np.random.default_rng(options.seed).permutation(len(images_NHW)).tolist()
    return {**hands, HANDWRITING: Hand(images_NHW, labels_N, order, "usps")}


def _facts(modality: Modality, digits: Sequence[str], **more: Any) -> str:
    return json.dumps({"medium": modality, "digits": list(digits), **more}, separators=(",", ":"))


# ---------------------------------------------------------------------------------------------- pictures


def _pictures(options: DigitsOptions, split: str, hand: Hand) -> Iterator[Item]:
    position = 0
    for index in range(options.amount(split).images):
        rng = Random(f"{options.seed}/{split}/picture/{index}")
        count = rng.choice(DIGITS_PER_PICTURE)
        samples = [hand.take(position + offset)[0] for offset in range(count)]
        position += count
        scene, pixels = make_scene(rng, hand, samples, options.image_size, rng.random() < PATCH_SHARE)
        key = f"{split}-picture-{index:05d}"
        yield MediaItem(split, key, media.encode_image(pixels), ".png")
        yield from _picture_rows(rng, split, key, scene)


def _asked(row: Callable[..., RowItem], task: str, questions: Sequence[text.Question]) -> Iterator[RowItem]:
    """Rows of the first two questions."""
    for form, question, answer in questions[:2]:
        yield row(task, f"-{form}", text=question, answers=(Answer(answer),), form=form)


def _picture_rows(rng: Random, split: str, key: str, scene: DigitScene) -> Iterator[RowItem]:
    boxes = [thing.box for thing in scene.things]
    facts = _facts("image", scene.words, boxes=boxes, patch=scene.patch)
    extra = {"samples": " ".join(thing.sample for thing in scene.things)}
    row = rows_about(split, "image", key, objects=scene.words, facts=facts, extra=extra)
    yield row("caption", references=text.image_captions(scene.words), form=str(len(boxes)))
    yield from _asked(row, "vqa", text.image_questions(rng, scene))
    form, statement, label = text.statement(rng, scene)
    yield row("entailment", text=statement, answers=(Answer(label),), form=form)
    pointed = text.phrase(rng, scene)
    if pointed is not None:
        thing, phrases = pointed
        for task in ("grounding", "grounded_caption"):
            yield row(task, text=phrases[0], references=phrases, box=thing.box)
    true = rng.random() < 0.5
    words = scene.words if true else text.wrong_words(rng, scene.words)
    caption, label = rng.choice(text.image_captions(words)), "yes" if true else "no"
    yield row("matching", text=caption, answers=(Answer(label),), form="caption")


# ------------------------------------------------------------------------------------------------- clips


@dataclass(frozen=True)
class ReadyClip:
    """A clip of the moving-digits data set."""

    path: Path
    digit: str
    motion: str
    sample: int
    """Row of its digit in MNIST."""
    split: str


def _ready_clips(root: Path) -> Iterator[ReadyClip | BadItem]:
    """The ready-made clips, split by sample within each digit and motion."""
    path = require(root, "labels_*train.csv")[0]
    seen: dict[tuple[str, str], int] = {}
    for item in csv_rows("file", "word", "motion", "source_index")(path):
        if isinstance(item, BadItem):
            yield item
            continue
        line, row = item
        word, motion = row["word"], row["motion"]
        try:
            clip = inside(root, row["file"])
        except UserError as error:
            yield BadItem(str(path), line, "file", str(error))
            continue
        if word not in NUMBERS or motion not in text.MOVES or not row["source_index"].isdecimal():
            yield BadItem(str(path), line, "row", f"no digit, motion or sample: {word!r}, {motion!r}")
            continue
        rank = seen[word, motion] = seen.get((word, motion), -1) + 1
        for split, (first, last) in READY_CLIPS.items():
            if first <= rank < last:
                yield ReadyClip(clip, word, motion, int(row["source_index"]), split)


def _clips(options: DigitsOptions, split: str, hand: Hand, ready: Sequence[ReadyClip]) -> Iterator[Item]:
    number = options.amount(split).videos
    own = Random(f"{options.seed}/{split}/clips").sample(ready, min(number, len(ready)))
    size, frames = options.video_size, options.video_frames
    for index in range(number):
        rng = Random(f"{options.seed}/{split}/clip/{index}")
        key = f"{split}-clip-{index:05d}"
        if index < len(own):
            clip = own[index]
            try:
                frames_THWC = media.decode_video(read_bytes(clip.path), str(clip.path), frames)
            except UserError as error:
                yield BadItem(str(clip.path), "", "video", str(error))
                continue
            frames_THWC = shrink.frames(frames_THWC, size, size)
            word, motion, sample = clip.digit, clip.motion, f"mnist:{clip.sample}"
        else:  # from the end of the split's samples, which the pictures take from the front
            row, word = hand.take(-1 - index)
            motion, sample = rng.choice(list(text.MOVES)), f"{hand.origin}:{row}"
            frames_THWC = make_clip(rng, hand.images[row], motion, size, frames)
        yield MediaItem(split, key, media.encode_video(frames_THWC, CLIP_RATE), ".mp4")
        yield from _clip_rows(rng, split, key, word, motion, sample)


def _clip_rows(rng: Random, split: str, key: str, word: str, motion: str, sample: str) -> Iterator[RowItem]:
    facts, extra = _facts("video", (word,), motion=motion), {"samples": sample}
    row = rows_about(split, "video", key, objects=(word,), facts=facts, extra=extra)
    yield row("video_caption", references=text.video_captions(word, motion))
    yield from _asked(row, "video_qa", text.video_questions(rng, word, motion))
    true = rng.random() < 0.5
    said = word if true else text.other(rng, (word,))
    caption, label = rng.choice(text.video_captions(said, motion)), "yes" if true else "no"
    yield row("video_matching", text=caption, answers=(Answer(label),), form="caption")


# ------------------------------------------------------------------------------------------------ speech


def _split_of(recording: digit_sets.Recording, held_out: str) -> str:
    """Of each digit and speaker 0-9 are for testing (0-4 by the data set's own rule), 10-12 for val."""
    if recording.speaker == held_out:
        return SPEAKERS
    return "test" if recording.index < 10 else "val" if recording.index < 13 else "train"


def _speech(options: DigitsOptions, root: Path) -> Iterator[Item]:
    by_split: dict[str, list[digit_sets.Recording]] = {}
    for item in digit_sets.recordings(root):
        if isinstance(item, BadItem):
            yield item
        else:
            by_split.setdefault(_split_of(item, options.held_out_speaker), []).append(item)
    if SPEAKERS not in by_split:
        raise UserError(f"digits: held_out_speaker: '{options.held_out_speaker}' is not in {root}")
    for split, recordings in by_split.items():
        number = min(options.amount(split).sounds, len(recordings))
        chosen = Random(f"{options.seed}/{split}/speech").sample(recordings, number)
        for recording in chosen:
            yield from _recording(options, split, recording)


def _recording(options: DigitsOptions, split: str, recording: digit_sets.Recording) -> Iterator[Item]:
    """The recording, in the train split at several speeds, and its rows."""
    file, word = str(recording.path), recording.word
    try:
        samples_S = media.decode_audio(read_bytes(recording.path), file, options.sampling_rate)
    except UserError as error:
        yield BadItem(file, recording.path.name, "audio", str(error))
        return
    facts, extra = _facts("audio", (word,)), {"samples": recording.path.stem, "speaker": recording.speaker}
    for copy in range(options.copies if split == "train" else 1):
        rng = Random(f"{options.seed}/{split}/{recording.path.name}/{copy}")
        key = f"{recording.path.stem}-{copy}"
        sound_S = _placed(rng, samples_S, round(options.audio_seconds * options.sampling_rate), copy > 0)
        yield MediaItem(split, key, media.encode_wav(sound_S, options.sampling_rate), ".wav", file)
        row = rows_about(split, "audio", key, file, objects=(word,), facts=facts, extra=extra)
        yield row("audio_caption", references=digit_sets.spoken_captions(word))
        yield from _asked(row, "audio_qa", text.audio_questions(rng, word))


def _placed(rng: Random, samples_S: np.ndarray, length: int, vary: bool) -> np.ndarray:
    """The recording in `length` samples of silence at equal loudness; in the middle, unless `vary`.

    `vary` plays it at another speed (pitch and length change alike), loudness and place.
    """
    if vary:
        speed = rng.uniform(0.85, 1.2)
        times = np.arange(0, len(samples_S) - 1, speed)
        samples_S = np.interp(times, np.arange(len(samples_S)), samples_S)
    samples_S = samples_S[:length]
    samples_S = samples_S * (0.5 / max(float(np.abs(samples_S).max()), 1e-4))
    room = length - len(samples_S)
    start = int(rng.random() * (room + 1)) if vary else room // 2
    sound_S = np.zeros(length, np.float32)
    sound_S[start : start + len(samples_S)] = samples_S * (rng.uniform(0.5, 1.5) if vary else 1.0)
    return sound_S
