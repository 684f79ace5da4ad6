"""Statements about a still scene: yes, no, or maybe where a cloth may hide what is not seen (entailment)."""

from dataclasses import dataclass
from random import Random

from unival.data.world.concepts import ALLOWED_PAIRS, NUMBERS, Pairs, is_digit, mend_articles, noun, pick
from unival.data.world.scenes import OPPOSITE, RELATIONS, Scene, Thing, absent_pair, holds


@dataclass(frozen=True, slots=True)
class Statement:
    """A hypothesis about the picture and its label: yes, no or maybe."""

    form: str
    text: str
    label: str


_STATEMENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "exist": {
        "usual": ("there is a {0}", "a {0} is in the image", "the image has a {0}"),
        "unseen": ("one of the objects is a {0}", "somewhere there is a {0}"),
    },
    "count": {
        "usual": ("there are exactly {0} {1}", "the image has exactly {0} {1}"),
        "unseen": ("the number of {1} is {0}", "exactly {0} {1} are in it"),
    },
    "relation": {
        "usual": ("a {0} is {1} the {2}", "there is a {0} {1} the {2}"),
        "unseen": ("{1} the {2} is a {0}", "one finds a {0} {1} the {2}"),
    },
    "under": {
        "usual": ("a {0} is under the cloth", "there is a {0} under the cloth"),
        "unseen": ("the cloth covers a {0}", "under the cloth is a {0}"),
    },
}


def _say(rng: Random, form: str, phrasing: str, label: str, *parts: str) -> Statement:
    text = pick(rng, _STATEMENTS[form][phrasing]).format(*parts)
    return Statement(
        form, mend_articles(text).replace("there are exactly one", "there is exactly one"), label
    )


def _state_exist(rng: Random, scene: Scene, phrasing: str, pairs: Pairs, label: str) -> Statement | None:
    """Seen: yes. Not seen: no, but maybe where a cloth may hide it."""
    if label == "yes":
        return _say(rng, "exist", phrasing, label, pick(rng, scene.things).name)
    color, kind = absent_pair(rng, scene, pairs)
    return _say(rng, "exist", phrasing, label, f"{color} {noun(kind)}")


def _state_count(rng: Random, scene: Scene, phrasing: str, pairs: Pairs, label: str) -> Statement | None:
    """A cloth may hide one more: then the number seen, or one more, is only possible."""
    kinds = sorted({t.kind for t in scene.things if not is_digit(t.kind)})
    if kinds and rng.random() < 0.8:
        kind, color = pick(rng, kinds), None
    else:
        kind, color = None, pick(rng, sorted({t.color for t in scene.things}))
    seen = len(scene.named(color, kind))
    if scene.cloth is None:
        numbers = [n for n in (1, 2, 3, 4) if (n == seen) == (label == "yes")]
    elif label == "maybe":
        numbers = [seen, seen, seen + 1]
    else:
        numbers = [n for n in (1, 2, 3, 4) if n < seen or n > seen + 1] if label == "no" else []
    if not numbers:
        return None
    number = pick(rng, numbers)
    named = noun(kind, number) if kind else f"{color} {'object' if number == 1 else 'objects'}"
    return _say(rng, "count", phrasing, label, NUMBERS[number], named)


def _state_relation(rng: Random, scene: Scene, phrasing: str, pairs: Pairs, label: str) -> Statement | None:
    """About two visible objects yes or no; about an unseen one maybe, if the cloth lies on that side."""
    singles = scene.unique()
    if label == "maybe":
        if scene.cloth is None:
            return None
        cloth = Thing("gray", "cloth", "", scene.cloth)
        options = [(r, b) for b in singles for r in RELATIONS if holds(r, cloth, b)]
        if not options:
            return None
        relation, b = pick(rng, options)
        color, kind = absent_pair(rng, scene, pairs)
        return _say(rng, "relation", phrasing, label, f"{color} {noun(kind)}", relation, b.name)
    options_ab = [
        (a, r, b) for a in singles for b in singles if a is not b for r in RELATIONS if holds(r, a, b)
    ]
    if not options_ab:
        return None
    a, relation, b = pick(rng, options_ab)
    if label == "no":
        if scene.cloth is not None and not holds(relation, Thing("gray", "cloth", "", scene.cloth), b):
            return None  # a second such object could lie under the cloth, on the stated side
        relation = OPPOSITE[relation]
    return _say(rng, "relation", phrasing, label, a.name, relation, b.name)


def _state_under(rng: Random, scene: Scene, phrasing: str, pairs: Pairs, label: str) -> Statement | None:
    """With a cloth nobody can tell what is under it; without one nothing is under it."""
    if label == "yes" or (label == "maybe") != (scene.cloth is not None):
        return None
    color, kind = pick(rng, pairs)
    return _say(rng, "under", phrasing, label, f"{color} {noun(kind)}")


_STATERS = {"exist": _state_exist, "count": _state_count, "relation": _state_relation, "under": _state_under}
_STATEMENT_FORMS = ("exist",) * 9 + ("count",) * 5 + ("relation",) * 4 + ("under",) * 2


def statements(
    rng: Random, scene: Scene, phrasing: str = "usual", pairs: Pairs = ALLOWED_PAIRS
) -> list[Statement]:
    """One statement, or two where there is a cloth; over many scenes the three labels are even.

    Scenes with a cloth (40 %) give two statements: four sevenths of all, of which `maybe` is 7/12.
    """
    found: dict[str, Statement] = {}
    for _ in range(2 if scene.cloth else 1):
        label = pick(rng, ("maybe",) * 14 + ("yes",) * 5 + ("no",) * 5 if scene.cloth else ("yes", "no"))
        for _ in range(12):
            form = pick(rng, _STATEMENT_FORMS)
            if form == "exist" and label == "no" and scene.cloth:
                continue
            statement = _STATERS[form](rng, scene, phrasing, pairs, label)
            if statement is not None and statement.text not in found:
                found[statement.text] = statement
                break
    return list(found.values())
