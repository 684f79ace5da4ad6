"""Questions about a still scene, with the soft answers of annotators.

`phrasing` is "usual" or "unseen", here and for regions, statements, clips and sounds; "unseen" are the
templates of `ood-phrasing`, which occur in no other split.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from unival.data.world.answers import soft_answers
from unival.data.world.concepts import (
    ALLOWED_PAIRS,
    COLORS,
    NUMBERS,
    PLURALS,
    SHAPES,
    Pairs,
    is_digit,
    mend_articles,
    noun,
    pick,
    shuffled,
)
from unival.data.world.scenes import OPPOSITE, RELATIONS, Scene, absent_pair, holds
from unival.record import Answer


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its annotators' answers."""

    form: str
    text: str
    answers: tuple[Answer, ...]


_QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "color": {
        "usual": ("what color is the {0}?", "which color is the {0}?", "what is the color of the {0}?"),
        "unseen": ("the {0} has which color?", "name the color of the {0}"),
    },
    "shape": {
        "usual": ("what shape is {0}?", "what is the shape of the {0} object?", "which shape is {0}?"),
        "unseen": ("name the shape that is {0}", "the {0} object has which shape?"),
    },
    "digit": {
        "usual": ("which digit is {0}?", "what digit is {0}?", "what is the {0} digit?"),
        "unseen": ("name the digit that is {0}", "the digit in {0} is what?"),
    },
    "count": {
        "usual": ("how many {0} are there?", "how many {0} do you see?", "what is the number of {0}?"),
        "unseen": ("count the {0}", "the image shows how many {0}?"),
    },
    "exist": {
        "usual": ("is there a {0}?", "do you see a {0}?", "can you see a {0} in the image?"),
        "unseen": ("does the image show a {0}?", "a {0} is there, yes or no?"),
    },
    "size": {
        "usual": ("is the {0} small or large?", "what size is the {0}?", "which size is the {0}?"),
        "unseen": ("the {0} has what size?", "name the size of the {0}"),
    },
    "relation": {
        "usual": ("is the {0} {1} the {2}?", "is the {0} found {1} the {2}?"),
        "unseen": ("{1} the {2}, is that the {0}?", "the {0} is {1} the {2}, yes or no?"),
    },
    "neighbor": {
        "usual": ("what is {1} the {2}?", "which object is {1} the {2}?"),
        "unseen": ("{1} the {2} there is what?", "name the object {1} the {2}"),
    },
}


def _ask(rng: Random, form: str, phrasing: str, answer: str, *parts: str) -> Question:
    text = pick(rng, _QUESTIONS[form][phrasing]).format(*parts)
    return Question(form, mend_articles(text), soft_answers(rng, answer))


def _color(rng: Random, scene: Scene, phrasing: str, pairs: Pairs) -> Question | None:
    options = [t for t in scene.things if len(scene.named(kind=t.kind)) == 1]
    if not options:
        return None
    thing = pick(rng, options)
    return _ask(rng, "color", phrasing, thing.color, noun(thing.kind))


def _shape(rng: Random, scene: Scene, phrasing: str, pairs: Pairs) -> Question | None:
    options = [t for t in scene.things if not is_digit(t.kind) and len(scene.named(color=t.color)) == 1]
    if not options:
        return None
    thing = pick(rng, options)
    return _ask(rng, "shape", phrasing, thing.kind, thing.color)


def _digit(rng: Random, scene: Scene, phrasing: str, pairs: Pairs) -> Question | None:
    digits = [t for t in scene.things if is_digit(t.kind)]
    options = [t for t in digits if [d.color for d in digits].count(t.color) == 1]
    if not options:
        return None
    thing = pick(rng, options)
    return _ask(rng, "digit", phrasing, thing.kind, thing.color)


def _count(rng: Random, scene: Scene, phrasing: str, pairs: Pairs) -> Question | None:
    """The answer is drawn first, so that no number wins without looking."""
    queries = {"objects": len(scene.things)}
    queries |= {f"{color} objects": len(scene.named(color=color)) for color in COLORS}
    queries |= {PLURALS[shape]: len(scene.named(kind=shape)) for shape in SHAPES}
    queries["digits"] = sum(is_digit(t.kind) for t in scene.things)
    wanted = pick(rng, (0, 1, 1, 2, 2, 3, 3, 4, 5, 6))
    options = [text for text, number in queries.items() if number == wanted]
    if not options:
        return None
    return _ask(rng, "count", phrasing, NUMBERS[wanted], pick(rng, options))


def _exist(rng: Random, scene: Scene, phrasing: str, pairs: Pairs) -> Question | None:
    if rng.random() < 0.5:
        thing = pick(rng, scene.things)
        return _ask(rng, "exist", phrasing, "yes", thing.name)
    color, kind = absent_pair(rng, scene, pairs)
    return _ask(rng, "exist", phrasing, "no", f"{color} {noun(kind)}")


def _size(rng: Random, scene: Scene, phrasing: str, pairs: Pairs) -> Question | None:
    options = [t for t in scene.unique() if t.size]
    if not options:
        return None
    thing = pick(rng, options)
    return _ask(rng, "size", phrasing, thing.size, thing.name)


def _relation(rng: Random, scene: Scene, phrasing: str, pairs: Pairs) -> Question | None:
    singles = scene.unique()
    options = [(a, r, b) for a in singles for b in singles if a is not b for r in RELATIONS if holds(r, a, b)]
    if not options:
        return None
    a, relation, b = pick(rng, options)
    true = rng.random() < 0.5
    shown = relation if true else OPPOSITE[relation]
    return _ask(rng, "relation", phrasing, "yes" if true else "no", a.name, shown, b.name)


def _neighbor(rng: Random, scene: Scene, phrasing: str, pairs: Pairs) -> Question | None:
    """Asked only where exactly one object is on that side, and clearly."""
    options = []
    for b in scene.unique():
        for relation in RELATIONS:
            near = [a for a in scene.things if a is not b and holds(relation, a, b, 1.0)]
            if len(near) == 1 and holds(relation, near[0], b):
                options.append((near[0], relation, b))
    if not options:
        return None
    a, relation, b = pick(rng, options)
    return _ask(rng, "neighbor", phrasing, a.kind, "", relation, b.name)


_ASKERS: dict[str, Callable[[Random, Scene, str, Pairs], Question | None]] = {
    "color": _color,
    "shape": _shape,
    "digit": _digit,
    "count": _count,
    "exist": _exist,
    "size": _size,
    "relation": _relation,
    "neighbor": _neighbor,
}
_FORM_WEIGHTS = (
    ("color", "shape", "digit", "count") * 2 + ("color", "shape") + ("exist", "size", "relation", "neighbor")
)
"""Each is tried in turn after a shuffle: forms whose answer can be guessed are the rarer ones."""


def questions(
    rng: Random, scene: Scene, count: int, phrasing: str = "usual", pairs: Pairs = ALLOWED_PAIRS
) -> list[Question]:
    """Up to `count` questions of different forms; absent objects are drawn from `pairs`."""
    found: dict[str, Question] = {}
    for form in shuffled(rng, _FORM_WEIGHTS):
        if form not in found:
            question = _ASKERS[form](rng, scene, phrasing, pairs)
            if question is not None:
                found[form] = question
        if len(found) == count:
            break
    return list(found.values())
