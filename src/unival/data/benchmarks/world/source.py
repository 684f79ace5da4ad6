"""The source `world`: every split's items in order, each from its own seed."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from unival import config
from unival.data import media
from unival.data.benchmarks.world import (
    audio_text,
    clips,
    image_captions,
    image_questions,
    image_regions,
    image_statements,
    scenes,
    sounds,
    video_text,
    web,
)
from unival.data.benchmarks.world import digits as handwriting
from unival.data.benchmarks.world.digits import DigitBank
from unival.data.benchmarks.world.handwriting import other_handwriting
from unival.data.benchmarks.world.splits import (
    AUDIO_TASKS,
    IMAGE_TASKS,
    VIDEO_TASKS,
    SplitRules,
    WorldOptions,
    handwriting_split,
    plan,
)
from unival.data.source import SOURCES, MediaItem, RowItem, Source, rows_about
from unival.data.sources.reader import DATA_VARIABLE
from unival.record import Answer

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
    splits = plan(options)
    banks = {split.name: handwriting.bundled_bank(split.portion) for split in splits}
    other = _other_handwriting(options)
    if other is not None:
        splits.append(handwriting_split(options))
        banks["ood-handwriting"] = other
    info = {
        **{name: getattr(options, name) for name in ("seed", "image_size", "video_size", "video_frames")},
        "sampling_rate": sounds.RATE,
        "audio_seconds": sounds.SECONDS,
        "handwriting": {name: bank.origin for name, bank in banks.items()},
    }
    return Source((item for s in splits for item in items(options, s, banks[s.name])), LICENCE, info)


def _other_handwriting(options: WorldOptions) -> DigitBank | None:
    """The first of the wanted collections that UNIVAL_DATA holds, where it is set."""
    root = os.environ.get(DATA_VARIABLE)
    for name in options.handwriting if root else ():
        if (found := other_handwriting(Path(root or ""), name)) is not None:
            return handwriting.bank_from_arrays(*found, name)
    return None


def items(options: WorldOptions, split: SplitRules, bank: DigitBank) -> Items:
    """All media and rows of one split."""
    makers = (
        (IMAGE_TASKS, split.amount.images, _image),
        (VIDEO_TASKS, split.amount.videos, _video),
        (AUDIO_TASKS, split.amount.sounds, _sound),
    )
    for tasks, amount, make in makers:
        for index in range(amount if set(tasks) & set(split.tasks) else 0):
            for item in make(options, split, bank, index):
                if isinstance(item, MediaItem) or item.task in split.tasks:
                    yield item


def _randoms(options: WorldOptions, split: SplitRules, kind: str, index: int) -> tuple[Random, Random]:
    """Generators of an item's medium and of its texts. Seeding by text is the same on every machine."""
    seed, stream = options.seed, split.stream or split.name
    return Random(f"{seed}/{stream}/{kind}/{index}"), Random(f"{seed}/{split.name}/{kind}/{index}/text")


def _answer(true: bool) -> tuple[Answer, ...]:
    return (Answer("yes" if true else "no"),)


def _image(options: WorldOptions, split: SplitRules, bank: DigitBank, index: int) -> Items:
    pixels, rng = _randoms(options, split, "image", index)
    scene, image = scenes.make_scene(pixels, split.scenes, bank, options.image_size)
    key = f"image-{index:06d}"
    yield MediaItem(split.name, key, media.encode_image(image), ".png", f"world/{split.name}", key)
    row, names = rows_about(split.name, "image", key), tuple(t.name for t in scene.things)
    noise = split.noise
    captions = (
        (web.image_alt_text(rng, scene, noise, split.pairs),)
        if noise
        else image_captions.captions(rng, scene)
    )
    yield row("caption", references=captions, objects=names, facts=scene.facts())
    yield from _questions(row, "vqa", image_questions, rng, scene, split, split.pairs)
    regions = image_regions.regions(rng, scene, split.rows.get("regions", 1), split.phrasing)
    for number, region in enumerate(regions):
        box = web.box_of(rng, scene, region.box, noise, options.image_size) if noise else region.box
        for task in ("grounding", "grounded_caption"):
            yield row(
                task, f"-{number}", text=region.phrase, box=box, references=region.names,
                objects=names, form=region.form,
            )  # fmt: skip
    if noise:
        return  # nobody wrote statements about it
    for number, said in enumerate(image_statements.statements(rng, scene, split.phrasing, split.pairs)):
        answers = (Answer(said.label),)
        yield row("entailment", f"-{number}", text=said.text, answers=answers, objects=names, form=said.form)
    true = rng.random() < 0.5
    shown = scene if true else image_captions.corrupted(rng, scene, split.pairs)
    claim = image_captions.captions(rng, shown, 1)[0]
    yield row("matching", text=claim, answers=_answer(true), objects=names, form="match")


def _questions(
    row: Callable[..., RowItem],
    task: str,
    texts: Any,
    rng: Random,
    medium: Any,
    split: SplitRules,
    *more: Any,
) -> Iterator[RowItem]:
    """Rows of what the module `texts` asks about a medium."""
    asked = texts.questions(rng, medium, split.rows.get("questions", 1), split.phrasing, *more)
    for number, question in enumerate(asked):
        answers, noise = question.answers, split.noise
        if noise:
            answers = web.answer_of(rng, answers[0].text, noise)
        yield row(task, f"-{number}", text=question.text, answers=answers, form=question.form)


def _video(options: WorldOptions, split: SplitRules, bank: DigitBank, index: int) -> Items:
    pixels, rng = _randoms(options, split, "video", index)
    rules = split.clips[index % len(split.clips)]
    clip, frames = clips.make_clip(pixels, rules, bank, options.video_size, options.video_frames)
    key = f"video-{index:06d}"
    yield MediaItem(split.name, key, media.encode_video(frames), ".mp4", f"world/{split.name}", key)
    row, names = rows_about(split.name, "video", key), tuple(actor.name for actor in clip.actors)
    noise = split.noise
    captions = (
        (web.clip_alt_text(rng, clip, noise, split.pairs),) if noise else video_text.captions(rng, clip)
    )
    yield row("video_caption", references=captions, objects=names, facts=clip.facts())
    yield from _questions(row, "video_qa", video_text, rng, clip, split)
    true = rng.random() < 0.5
    shown = clip if true else video_text.corrupted(rng, clip, split.pairs)
    claim = video_text.captions(rng, shown, 1)[0]
    yield row("video_matching", text=claim, answers=_answer(true), objects=names, form="match")


def _sound(options: WorldOptions, split: SplitRules, bank: DigitBank, index: int) -> Items:
    samples, rng = _randoms(options, split, "sound", index)
    sound, wave = sounds.make_sound(samples)
    key = f"sound-{index:06d}"
    yield MediaItem(split.name, key, media.encode_wav(wave, sounds.RATE), ".wav", f"world/{split.name}", key)
    row, names = rows_about(split.name, "audio", key), tuple(event.kind for event in sound.events)
    captions = audio_text.captions(rng, sound)
    yield row("audio_caption", references=captions, objects=names, facts=sound.facts())
    yield from _questions(row, "audio_qa", audio_text, rng, sound, split)
