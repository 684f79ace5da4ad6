"""Statements about a still scene: yes, no, or maybe where a cloth may hide what is not seen (entailment)."""

from dataclasses import dataclass
from random import Random

from unival.data.benchmarks.world.concepts import ALLOWED_PAIRS, Pairs, any_of, is_digit, noun, pick
from unival.data.benchmarks.world.questions import Templates, Voice
from unival.data.benchmarks.world.scenes import OPPOSITE, RELATIONS, Scene, Thing, absent_pair, holds
from unival.record import NUMBERS

_TEMPLATES: Templates = {
    "usual": {
        "exist": ("there is a {0}", "a {0} is in the image", "the image has a {0}"),
        "count": ("there are exactly {0} {1}", "the image has exactly {0} {1}"),
        "relation": ("a {0} is {1} the {2}", "there is a {0} {1} the {2}"),
        "under": ("a {0} is under the cloth", "there is a {0} under the cloth"),
    },
    "unseen": {
        "exist": ("one of the objects is a {0}", "somewhere there is a {0}"),
        "count": ("the number of {1} is {0}", "exactly {0} {1} are in it"),
        "relation": ("{1} the {2} is a {0}", "one finds a {0} {1} the {2}"),
        "under": ("the cloth covers a {0}", "under the cloth is a {0}"),
    },
}


@dataclass(frozen=True, slots=True)
class Statement:
    """A hypothesis about the picture and its label: yes, no or maybe."""

    form: str
    text: str
    label: str


def _exist(voice: Voice, scene: Scene, label: str) -> str | None:
    """Seen: yes. Not seen: no, but maybe where a cloth may hide it."""
    if label == "no" and scene.cloth:
        return None
    if label == "yes":
        return voice.say("exist", pick(voice.rng, scene.things).name)
    return voice.say("exist", _absent(voice, scene))


def _absent(voice: Voice, scene: Scene) -> str:
    color, kind = absent_pair(voice.rng, scene, voice.pairs)
    return f"{color} {noun(kind)}"


def _count(voice: Voice, scene: Scene, label: str) -> str | None:
    """A cloth may hide one more: then the number seen, or one more, is only possible."""
    kinds = sorted({t.kind for t in scene.things if not is_digit(t.kind)})
    if kinds and voice.rng.random() < 0.8:
        kind, color = pick(voice.rng, kinds), None
    else:
        kind, color = None, pick(voice.rng, sorted({t.color for t in scene.things}))
    seen = len(scene.named(color, kind))
    if scene.cloth is None:
        numbers = [n for n in (1, 2, 3, 4) if (n == seen) == (label == "yes")]
    elif label == "maybe":
        numbers = [seen, seen, seen + 1]
    else:
        numbers = [n for n in (1, 2, 3, 4) if n < seen or n > seen + 1] if label == "no" else []
    number = any_of(voice.rng, numbers)
    if number is None:
        return None
    named = noun(kind, number) if kind else f"{color} {'object' if number == 1 else 'objects'}"
    text = voice.say("count", NUMBERS[number], named)
    return text.replace("there are exactly one", "there is exactly one")


def _relation(voice: Voice, scene: Scene, label: str) -> str | None:
    """About two visible objects yes or no; about an unseen one maybe, if the cloth lies on that side."""
    cloth = Thing("gray", "cloth", "", scene.cloth) if scene.cloth else None
    if label == "maybe":
        sides = [(r, b) for b in scene.unique() for r in RELATIONS if cloth and holds(r, cloth, b)]
        side = any_of(voice.rng, sides)
        return voice.say("relation", _absent(voice, scene), side[0], side[1].name) if side else None
    related = any_of(voice.rng, scene.relations())
    if related is None:
        return None
    a, relation, b = related
    if label == "no":
        if cloth and not holds(relation, cloth, b):
            return None  # a second such object could lie under the cloth, on the stated side
        relation = OPPOSITE[relation]
    return voice.say("relation", a.name, relation, b.name)


def _under(voice: Voice, scene: Scene, label: str) -> str | None:
    """With a cloth nobody can tell what is under it; without one nothing is under it."""
    if label == "yes" or (label == "maybe") != (scene.cloth is not None):
        return None
    color, kind = pick(voice.rng, voice.pairs)
    return voice.say("under", f"{color} {noun(kind)}")


_WRITERS = {"exist": _exist, "count": _count, "relation": _relation, "under": _under}
_FORMS = ("exist",) * 9 + ("count",) * 5 + ("relation",) * 4 + ("under",) * 2


def statements(
    rng: Random, scene: Scene, phrasing: str = "usual", pairs: Pairs = ALLOWED_PAIRS
) -> list[Statement]:
    """One statement, or two where there is a cloth; over many scenes the three labels are even.

    Scenes with a cloth (40 %) give two statements: four sevenths of all, of which `maybe` is 7/12.
    """
    voice, chosen = Voice(rng, _TEMPLATES[phrasing], pairs), dict[str, Statement]()
    for _ in range(2 if scene.cloth else 1):
        label = pick(rng, ("maybe",) * 14 + ("yes",) * 5 + ("no",) * 5 if scene.cloth else ("yes", "no"))
        for _ in range(12):
            form = pick(rng, _FORMS)
            text = _WRITERS[form](voice, scene, label)
            if text is not None and text not in chosen:
                chosen[text] = Statement(form, text, label)
                break
    return list(chosen.values())
