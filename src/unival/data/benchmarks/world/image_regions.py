"""Objects of a still scene and phrases that only they answer to: grounding and grounded captioning."""

from dataclasses import dataclass
from random import Random

from unival.data.benchmarks.world.concepts import article, mend_articles, noun, pick, shuffled
from unival.data.benchmarks.world.image_captions import CLOTH
from unival.data.benchmarks.world.questions import Templates
from unival.data.benchmarks.world.scenes import RELATIONS, Box, Scene, Thing, holds


@dataclass(frozen=True, slots=True)
class Region:
    """A box and a phrase that only it answers to."""

    form: str
    phrase: str
    box: Box
    names: tuple[str, ...]
    """All plain names of the object: references of grounded captioning."""


_EXTREMES = {
    "leftmost": lambda t: t.center[0],
    "rightmost": lambda t: -t.center[0],
    "topmost": lambda t: t.center[1],
    "lowest": lambda t: -t.center[1],
}
_TEMPLATES: Templates = {
    "usual": {
        "name": ("{0}", "the {0}"),
        "relation": ("{0} {1} the {2}", "the {0} {1} the {2}"),
        "extreme": ("the {1} {0}", "{1} {0}"),
    },
    "web": {"name": ("{0}", "{0} here")},
    "unseen": {
        "name": ("find the {0}", "the thing that is a {0}"),
        "relation": ("{1} the {2}, a {0}",),
        "extreme": ("of all, the {1} {0}",),
    },
}


def _names(scene: Scene, thing: Thing) -> tuple[str, ...]:
    """Plain names that fit this object alone, the usual one first."""
    names = [thing.name] if len(scene.named(thing.color, thing.kind)) == 1 else []
    if thing.size and sum(t.size == thing.size for t in scene.named(thing.color, thing.kind)) == 1:
        names.append(f"{thing.size} {thing.name}")
    if names and len(scene.named(kind=thing.kind)) == 1:
        names.append(noun(thing.kind))
    return tuple(names)


def regions(rng: Random, scene: Scene, count: int, phrasing: str = "usual") -> list[Region]:
    """Up to `count` different objects (now and then the cloth) with a phrase each."""
    described = []
    for thing in shuffled(rng, [*scene.things, *([None] if scene.cloth and rng.random() < 0.3 else [])]):
        region = _region(rng, scene, thing, phrasing) if thing else _cloth(rng, scene.cloth, phrasing)
        if region is not None:
            described.append(region)
        if len(described) == count:
            break
    return described


def _cloth(rng: Random, box: Box | None, phrasing: str) -> Region | None:
    phrase = pick(rng, _TEMPLATES[phrasing]["name"]).format(CLOTH)
    return Region("cloth", phrase, box, (CLOTH, f"the {CLOTH}")) if box else None


def _region(rng: Random, scene: Scene, thing: Thing, phrasing: str) -> Region | None:
    names = _names(scene, thing)
    texts = [("name", text.format(name)) for name in names for text in _TEMPLATES[phrasing]["name"]]
    if not names or rng.random() < 0.1:
        texts = _relative_phrases(scene, thing, phrasing) or texts
    if not texts:
        return None
    form, phrase = pick(rng, texts)
    plain = names or (thing.name,)
    return Region(form, mend_articles(phrase), thing.box, (*plain, f"the {plain[0]}", article(plain[0])))


def _relative_phrases(scene: Scene, thing: Thing, phrasing: str) -> list[tuple[str, str]]:
    """Phrases by position among objects of the same kind, or relative to another object."""
    parts: list[tuple[str, ...]] = []
    kin = scene.named(kind=thing.kind)
    for word, key in _EXTREMES.items():
        ordered = sorted(kin, key=key)
        if len(kin) > 1 and ordered[0] is thing and key(ordered[1]) - key(thing) >= 4:
            parts.append(("extreme", noun(thing.kind), word))
    for other in scene.unique():
        for relation in RELATIONS:
            if other is thing or other.kind == thing.kind or not holds(relation, thing, other):
                continue
            if not any(t is not thing and holds(relation, t, other, -1.0) for t in kin):
                parts.append(("relation", noun(thing.kind), relation, other.name))
    return [
        (form, text.format(*rest)) for form, *rest in parts for text in _TEMPLATES[phrasing].get(form, ())
    ]
