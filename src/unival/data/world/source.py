"""The source `world`: every split's items in order, each from its own seed."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from unival import config
from unival.data import media
from unival.data.source import HANDWRITING, SOURCES, MediaItem, RowItem, Source
from unival.data.world import (
    audio_text,
    clips,
    image_captions,
    image_questions,
    image_regions,
    image_statements,
    scenes,
    sounds,
    video_text,
)
from unival.data.world import digits as handwriting
from unival.data.world.digits import DigitBank
from unival.data.world.image_questions import Question
from unival.data.world.splits import (
    AUDIO_TASKS,
    IMAGE_TASKS,
    VIDEO_TASKS,
    Split,
    WorldOptions,
    handwriting_split,
    plan,
)
from unival.record import Answer, Medium, Record

LICENCE = (
    "Generated. The handwritten digits are scikit-learn's copy of the UCI optdigits test set (CC BY 4.0)."
)
Items = Iterator[MediaItem | RowItem]


@SOURCES.register("world")
def world(options: Mapping[str, Any], where: str) -> Source:
    """The embedded benchmark."""
    return make_source(config.build(WorldOptions, options, where))


def make_source(options: WorldOptions) -> Source:
    """The source for typed options."""
    banks = {split.name: handwriting.bundled_bank(split.portion) for split in plan(options)}
    splits = plan(options)
    other = _other_handwriting(options)
    if other is not None:
        splits.append(handwriting_split(options))
        banks["ood-handwriting"] = other
    info = {
        "seed": options.seed,
        "image_size": options.image_size,
        "video_size": options.video_size,
        "video_frames": options.video_frames,
        "sampling_rate": sounds.RATE,
        "audio_seconds": sounds.SECONDS,
        "handwriting": {name: bank.origin for name, bank in banks.items()},
    }
    return Source(
        (item for split in splits for item in items(options, split, banks[split.name])), LICENCE, info
    )


def _other_handwriting(options: WorldOptions) -> DigitBank | None:
    folder = os.environ.get("UNIVAL_DATA")
    for name in options.handwriting if folder else ():
        found = HANDWRITING[name](Path(folder)) if folder else None
        if found is not None:
            return handwriting.bank_from_arrays(*found, name)
    return None


def items(options: WorldOptions, split: Split, bank: DigitBank) -> Items:
    """All media and rows of one split."""
    makers = (
        (IMAGE_TASKS, "images", _image),
        (VIDEO_TASKS, "videos", _video),
        (AUDIO_TASKS, "sounds", _sound),
    )
    for tasks, amount, maker in makers:
        if any(task in split.tasks for task in tasks):
            for index in range(getattr(split.amount, amount)):
                for item in maker(options, split, bank, index):
                    if isinstance(item, MediaItem) or item.task in split.tasks:
                        yield item


def _randoms(options: WorldOptions, split: Split, kind: str, index: int) -> tuple[Random, Random]:
    """Generators of an item's medium and of its texts. Seeding by text is the same on every machine."""
    stream = split.stream or split.name
    return Random(f"{options.seed}/{stream}/{kind}/{index}"), Random(
        f"{options.seed}/{split.name}/{kind}/{index}/text"
    )


def _row(split: Split, task: str, record: Record) -> RowItem:
    return RowItem(split.name, task, record, f"world/{split.name}/{task}", record.id)


def _yes_no(label: str) -> tuple[Answer, ...]:
    return (Answer(label),)


def _image(options: WorldOptions, split: Split, bank: DigitBank, index: int) -> Items:
    pixels, text = _randoms(options, split, "image", index)
    scene, image = scenes.make_scene(pixels, split.scenes, bank, options.image_size)
    key = f"image-{index:06d}"
    yield MediaItem(split.name, key, media.encode_image(image), ".png", f"world/{split.name}", key)
    names = tuple(t.name for t in scene.things)
    captions = image_captions.captions(text, scene)
    yield _row(
        split, "caption", Record(key, image=key, references=captions, objects=names, facts=scene.facts())
    )
    asked = image_questions.questions(
        text, scene, split.rows.get("questions", 1), split.phrasing, split.pairs
    )
    yield from _question_rows(split, "vqa", "image", key, asked)
    for number, region in enumerate(
        image_regions.regions(text, scene, split.rows.get("regions", 1), split.phrasing)
    ):
        record = Record(
            f"{key}-{number}",
            image=key,
            text=region.phrase,
            box=region.box,
            references=region.names,
            objects=names,
            form=region.form,
        )
        yield _row(split, "grounding", record)
        if region.names:
            yield _row(split, "grounded_caption", record)
    for number, statement in enumerate(image_statements.statements(text, scene, split.phrasing, split.pairs)):
        record = Record(
            f"{key}-{number}",
            image=key,
            text=statement.text,
            answers=_yes_no(statement.label),
            objects=names,
            form=statement.form,
        )
        yield _row(split, "entailment", record)
    true = text.random() < 0.5
    shown = scene if true else image_captions.corrupted(text, scene, split.pairs)
    claim = image_captions.captions(text, shown, 1)[0]
    answers = _yes_no("yes" if true else "no")
    yield _row(
        split, "matching", Record(key, image=key, text=claim, answers=answers, objects=names, form="match")
    )


def _question_rows(
    split: Split, task: str, kind: Medium, key: str, asked: list[Question]
) -> Iterator[RowItem]:
    for number, question in enumerate(asked):
        record = Record(
            f"{key}-{number}",
            image=key if kind == "image" else None,
            video=key if kind == "video" else None,
            audio=key if kind == "audio" else None,
            text=question.text,
            answers=question.answers,
            form=question.form,
        )
        yield _row(split, task, record)


def _video(options: WorldOptions, split: Split, bank: DigitBank, index: int) -> Items:
    pixels, text = _randoms(options, split, "video", index)
    rules = split.clips[index % len(split.clips)]
    clip, frames = clips.make_clip(pixels, rules, bank, options.video_size, options.video_frames)
    key = f"video-{index:06d}"
    yield MediaItem(split.name, key, media.encode_video(frames), ".mp4", f"world/{split.name}", key)
    names = tuple(actor.name for actor in clip.actors)
    captions = video_text.captions(text, clip)
    record = Record(key, video=key, references=captions, objects=names, facts=clip.facts())
    yield _row(split, "video_caption", record)
    asked = video_text.questions(text, clip, split.rows.get("questions", 1), split.phrasing)
    yield from _question_rows(split, "video_qa", "video", key, asked)
    true = text.random() < 0.5
    claim = video_text.captions(text, clip if true else video_text.corrupted(text, clip, split.pairs), 1)[0]
    answers = _yes_no("yes" if true else "no")
    record = Record(key, video=key, text=claim, answers=answers, objects=names, form="match")
    yield _row(split, "video_matching", record)


def _sound(options: WorldOptions, split: Split, bank: DigitBank, index: int) -> Items:
    samples, text = _randoms(options, split, "sound", index)
    sound, wave = sounds.make_sound(samples)
    key = f"sound-{index:06d}"
    yield MediaItem(split.name, key, media.encode_wav(wave, sounds.RATE), ".wav", f"world/{split.name}", key)
    names = tuple(event.kind for event in sound.events)
    captions = audio_text.captions(text, sound)
    record = Record(key, audio=key, references=captions, objects=names, facts=sound.facts())
    yield _row(split, "audio_caption", record)
    asked = audio_text.questions(text, sound, split.rows.get("questions", 1), split.phrasing)
    yield from _question_rows(split, "audio_qa", "audio", key, asked)
