"""Captions of a still scene, and scenes that a caption is false of.

Every function draws from a `random.Random`, so a row is a function of its seed.
"""

from collections import Counter
from collections.abc import Callable
from random import Random

from unival.data.world.concepts import NUMBERS, Pairs, article, is_digit, joined, noun, pick, shuffled
from unival.data.world.scenes import RELATIONS, Scene, Thing, absent_pair, holds

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
    found: dict[str, None] = {}
    plain = pick(rng, _OPENINGS)
    writers: list[Callable[[], str]] = [
        lambda: _opened(plain, _mentions(rng, scene, False)),
        lambda: _opened(pick(rng, _OPENINGS), _mentions(rng, scene, False)),
        lambda: _opened(pick(rng, _OPENINGS), _mentions(rng, scene, True)),
        lambda: _counted(rng, scene),
        lambda: _related(rng, scene),
        lambda: _opened(pick(rng, _OPENINGS), shuffled(rng, _mentions(rng, scene, False))),
    ]
    for attempt in range(60):
        found.setdefault(writers[attempt % len(writers)]())
        if len(found) == count:
            break
    return tuple(found)


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
    singles = scene.unique()
    options = [(a, r, b) for a in singles for b in singles if a is not b for r in RELATIONS if holds(r, a, b)]
    if not options:
        return joined(_mentions(rng, scene, False))
    a, relation, b = pick(rng, options)
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
