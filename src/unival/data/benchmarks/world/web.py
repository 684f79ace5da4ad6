"""Pretraining rows as the web has them: alt texts, loose boxes, answers of one annotator (docs/world.md)."""

from dataclasses import dataclass, fields
from random import Random

from unival.data.benchmarks.world import image_captions, video_text
from unival.data.benchmarks.world.clips import STILL, Actor, Clip
from unival.data.benchmarks.world.concepts import Pairs, T, noun, pick, shuffled
from unival.data.benchmarks.world.questions import slip
from unival.data.benchmarks.world.scenes import Box, Scene, Thing
from unival.record import Answer

_BEFORE = ("stock photo of", "free download", "best", "new", "hd wallpaper")
_AFTER = ("stock photo", "free download", "hd wallpaper", "for sale", "online")
FILLER = (*_BEFORE, *_AFTER)
_BETWEEN = (" ", " ", " with ", " and ")


@dataclass(frozen=True)
class Noise:
    """How far pretraining rows are from clean ones: shares of rows or objects, 0 to 1."""

    omitted: float
    """Objects that an alt text leaves out (it keeps one)."""
    vague: float
    """Objects whose colour an alt text does not tell, and the same of actions."""
    filler: float
    """Alt texts with words that say nothing."""
    wrong: float
    """Alt texts of a scene with one object, action or the order changed; boxes of another object; answers."""
    loose: float
    """Each side of a box lies up to this share of the object's width or height too far out."""

    def __post_init__(self) -> None:
        for one in fields(self):
            if not 0 <= getattr(self, one.name) <= 1:
                raise ValueError(f"noise.{one.name} is {getattr(self, one.name)}: it must be from 0 to 1")


def image_alt_text(rng: Random, scene: Scene, noise: Noise, pairs: Pairs) -> str:
    """An alt text of a picture: some of its objects in any order."""
    if rng.random() < noise.wrong:
        scene = image_captions.corrupted(rng, scene, pairs)
    names = [_name(rng, thing, noise) for thing in _kept(rng, scene.things, noise)]
    if scene.cloth and rng.random() >= noise.omitted:
        names.append(image_captions.CLOTH)
    return _filled(rng, pick(rng, _BETWEEN).join(shuffled(rng, names)), noise)


def clip_alt_text(rng: Random, clip: Clip, noise: Noise, pairs: Pairs) -> str:
    """An alt text of a clip: some of its actors; the order is told by the order of the words alone."""
    if rng.random() < noise.wrong:
        clip = video_text.corrupted(rng, clip, pairs)
    parts = []
    for actor in _kept(rng, clip.actors, noise):
        told = actor.action != STILL and rng.random() >= noise.vague
        doing = f" {pick(rng, video_text.GOING[actor.action])}" if told else ""
        parts.append(f"{_name(rng, actor, noise)}{doing}")
    return _filled(rng, pick(rng, _BETWEEN).join(parts), noise)


def _kept(rng: Random, things: tuple[T, ...], noise: Noise) -> list[T]:
    kept = [thing for thing in things if rng.random() >= noise.omitted]
    return kept or [pick(rng, things)]


def _name(rng: Random, thing: Thing | Actor, noise: Noise) -> str:
    return noun(thing.kind) if rng.random() < noise.vague else thing.name


def _filled(rng: Random, text: str, noise: Noise) -> str:
    if rng.random() >= noise.filler:
        return text
    return f"{pick(rng, _BEFORE)} {text}" if rng.random() < 0.5 else f"{text} {pick(rng, _AFTER)}"


def box_of(rng: Random, scene: Scene, box: Box, noise: Noise, side: int) -> Box:
    """The box as a hurried annotator draws it, in the picture: too large, or around another object."""
    others = [thing.box for thing in scene.things if thing.box != box]
    if others and rng.random() < noise.wrong:
        box = pick(rng, others)
    x0, y0, x1, y1 = box
    left, top, right, bottom = (rng.uniform(0, noise.loose) for _ in range(4))
    width, height = x1 - x0, y1 - y0
    return (
        max(x0 - left * width, 0.0),
        max(y0 - top * height, 0.0),
        min(x1 + right * width, float(side)),
        min(y1 + bottom * height, float(side)),
    )


def answer_of(rng: Random, truth: str, noise: Noise) -> tuple[Answer, ...]:
    """The answer of one annotator."""
    return (Answer(slip(rng, truth) if rng.random() < noise.wrong else truth),)
