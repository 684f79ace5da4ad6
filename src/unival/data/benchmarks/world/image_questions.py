"""Questions about a still scene."""

from random import Random

from unival.data.benchmarks.world.concepts import (
    ALLOWED_PAIRS,
    COLORS,
    PLURALS,
    SHAPES,
    Pairs,
    any_of,
    is_digit,
    noun,
    pick,
)
from unival.data.benchmarks.world.questions import Question, Templates, Voice, ask
from unival.data.benchmarks.world.scenes import OPPOSITE, RELATIONS, Scene, absent_pair, holds
from unival.record import NUMBERS

_TEMPLATES: Templates = {
    "usual": {
        "color": ("what color is the {0}?", "which color is the {0}?", "what is the color of the {0}?"),
        "shape": ("what shape is {0}?", "what is the shape of the {0} object?", "which shape is {0}?"),
        "digit": ("which digit is {0}?", "what digit is {0}?", "what is the {0} digit?"),
        "count": ("how many {0} are there?", "how many {0} do you see?", "what is the number of {0}?"),
        "exist": ("is there a {0}?", "do you see a {0}?", "can you see a {0} in the image?"),
        "size": ("is the {0} small or large?", "what size is the {0}?", "which size is the {0}?"),
        "relation": ("is the {0} {1} the {2}?", "is the {0} found {1} the {2}?"),
        "neighbor": ("what is {0} the {1}?", "which object is {0} the {1}?"),
    },
    "web": {
        "color": ("{0} color", "color of {0}"),
        "shape": ("{0} shape", "shape in {0}"),
        "digit": ("{0} number", "number in {0}"),
        "count": ("number of {0}", "{0} count"),
    },
    "unseen": {
        "color": ("the {0} has which color?", "name the color of the {0}"),
        "shape": ("name the shape that is {0}", "the {0} object has which shape?"),
        "digit": ("name the digit that is {0}", "the digit in {0} is what?"),
        "count": ("count the {0}", "the image shows how many {0}?"),
        "exist": ("does the image show a {0}?", "a {0} is there, yes or no?"),
        "size": ("the {0} has what size?", "name the size of the {0}"),
        "relation": ("{1} the {2}, is that the {0}?", "the {0} is {1} the {2}, yes or no?"),
        "neighbor": ("{0} the {1} there is what?", "name the object {0} the {1}"),
    },
}


def _color(voice: Voice, scene: Scene) -> Question | None:
    thing = any_of(voice.rng, [t for t in scene.things if len(scene.named(kind=t.kind)) == 1])
    return voice.ask("color", thing.color, noun(thing.kind)) if thing else None


def _shape(voice: Voice, scene: Scene) -> Question | None:
    shapes = [t for t in scene.things if not is_digit(t.kind) and len(scene.named(color=t.color)) == 1]
    thing = any_of(voice.rng, shapes)
    return voice.ask("shape", thing.kind, thing.color) if thing else None


def _digit(voice: Voice, scene: Scene) -> Question | None:
    digits = [t for t in scene.things if is_digit(t.kind)]
    thing = any_of(voice.rng, [t for t in digits if [d.color for d in digits].count(t.color) == 1])
    return voice.ask("digit", thing.kind, thing.color) if thing else None


def _count(voice: Voice, scene: Scene) -> Question | None:
    """The answer is drawn first, so that no number wins without looking."""
    queries = {"objects": len(scene.things)}
    queries |= {f"{color} objects": len(scene.named(color=color)) for color in COLORS}
    queries |= {PLURALS[shape]: len(scene.named(kind=shape)) for shape in SHAPES}
    queries["digits"] = sum(is_digit(t.kind) for t in scene.things)
    wanted = pick(voice.rng, (0, 1, 1, 2, 2, 3, 3, 4, 5, 6))
    query = any_of(voice.rng, [text for text, number in queries.items() if number == wanted])
    return voice.ask("count", NUMBERS[wanted], query) if query else None


def _exist(voice: Voice, scene: Scene) -> Question | None:
    if voice.rng.random() < 0.5:
        return voice.ask("exist", "yes", pick(voice.rng, scene.things).name)
    color, kind = absent_pair(voice.rng, scene, voice.pairs)
    return voice.ask("exist", "no", f"{color} {noun(kind)}")


def _size(voice: Voice, scene: Scene) -> Question | None:
    thing = any_of(voice.rng, [t for t in scene.unique() if t.size])
    return voice.ask("size", thing.size, thing.name) if thing else None


def _relation(voice: Voice, scene: Scene) -> Question | None:
    related = any_of(voice.rng, scene.relations())
    if related is None:
        return None
    a, relation, b = related
    if voice.rng.random() < 0.5:
        return voice.ask("relation", "yes", a.name, relation, b.name)
    return voice.ask("relation", "no", a.name, OPPOSITE[relation], b.name)


def _neighbor(voice: Voice, scene: Scene) -> Question | None:
    """Asked only where exactly one object is on that side, and clearly."""
    options = []
    for b in scene.unique():
        for relation in RELATIONS:
            near = [a for a in scene.things if a is not b and holds(relation, a, b, 1.0)]
            if len(near) == 1 and holds(relation, near[0], b):
                options.append((near[0].kind, relation, b.name))
    chosen = any_of(voice.rng, options)
    return voice.ask("neighbor", *chosen) if chosen else None


_ASKERS = (_color, _shape, _digit, _count) * 2 + (_color, _shape) + (_exist, _size, _relation, _neighbor)
"""Each is tried in turn after a shuffle: forms whose answer can be guessed are the rarer ones."""


def questions(
    rng: Random, scene: Scene, count: int, phrasing: str = "usual", pairs: Pairs = ALLOWED_PAIRS
) -> list[Question]:
    """Up to `count` questions of different forms; absent objects are drawn from `pairs`."""
    return ask(Voice(rng, _TEMPLATES[phrasing], pairs), scene, _ASKERS, count)
