"""Captions of a still scene, and scenes that a caption is false of.

Every function draws from a `random.Random`, so a row is a function of its seed.
"""

from collections import Counter
from collections.abc import Callable
from random import Random

from unival.data.benchmarks.world.concepts import (
    NUMBERS,
    Pairs,
    any_of,
    article,
    is_digit,
    joined,
    noun,
    pick,
    shuffled,
)  # fmt: skip
from unival.data.benchmarks.world.questions import different
from unival.data.benchmarks.world.scenes import Scene, Thing, absent_pair

CLOTH = "gray cloth"


def _mentions(rng: Random, scene: Scene, sized: bool) -> list[str]:
    """One phrase per group of equal objects, from left to right, and the cloth."""
    groups = Counter((t.color, t.kind) for t in scene.things)
    phrases = []
    for (color, kind), count in groups.items():
        members = scene.named(color, kind)
        size = (
            f"{members[0].size} " if sized and members[0].size and len({t.size for t in members}) == 1 else ""
        )
        text = f"{size}{color} {noun(kind, count)}"
        phrases.append(article(text) if count == 1 else f"{NUMBERS[count]} {text}")
    if scene.cloth:
        phrases.append(article(CLOTH))
    return phrases


_OPENINGS = ("{}", "{}", "there is {}", "an image of {}", "a picture with {}", "the image shows {}")


def captions(rng: Random, scene: Scene, count: int = 5) -> tuple[str, ...]:
    """Different reference captions; each names every object with its colour, and the numbers."""
    plain = pick(rng, _OPENINGS)
    writers: list[Callable[[], str]] = [
        lambda: _opened(plain, _mentions(rng, scene, False)),
        lambda: _opened(pick(rng, _OPENINGS), _mentions(rng, scene, False)),
        lambda: _opened(pick(rng, _OPENINGS), _mentions(rng, scene, True)),
        lambda: _counted(rng, scene),
        lambda: _related(rng, scene),
        lambda: _opened(pick(rng, _OPENINGS), shuffled(rng, _mentions(rng, scene, False))),
    ]
    return different((writer() for writer in writers * 10), count)


def _opened(opening: str, phrases: list[str]) -> str:
    plural = phrases[0].split()[0] in NUMBERS
    return opening.format(joined(phrases)).replace("there is", "there are" if plural else "there is")


def _counted(rng: Random, scene: Scene) -> str:
    number = len(scene.things)
    word = "object" if number == 1 else "objects"
    rest = joined(_mentions(rng, scene, False))
    return pick(rng, (f"{NUMBERS[number]} {word}: {rest}", f"a picture of {NUMBERS[number]} {word}: {rest}"))


def _related(rng: Random, scene: Scene) -> str:
    """Two single objects in relation, then the rest; a plain list where no relation is clear."""
    related = any_of(rng, scene.relations())
    if related is None:
        return joined(_mentions(rng, scene, False))
    a, relation, b = related
    ours = {article(a.name), article(b.name)}
    rest = [phrase for phrase in _mentions(rng, scene, False) if phrase not in ours]
    link = pick(rng, (relation, f"to the {relation}" if relation.endswith("of") else relation))
    head = f"{article(a.name)} {link} {article(b.name)}"
    return f"{head}, and {joined(rest)}" if rest else head


def corrupted(rng: Random, scene: Scene, pairs: Pairs) -> Scene:
    """The scene with one object exchanged for another that is not there: its caption is false."""
    index = rng.randrange(len(scene.things))
    color, kind = absent_pair(rng, scene, pairs)
    old = scene.things[index]
    size = "" if is_digit(kind) else old.size or "small"
    things = list(scene.things)
    things[index] = Thing(color, kind, size, old.box)
    return Scene(tuple(things), scene.cloth)
