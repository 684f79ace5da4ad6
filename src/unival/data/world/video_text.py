"""What is said about a clip: captions and questions."""

from collections.abc import Callable
from random import Random

from unival.data.world.answers import soft_answers
from unival.data.world.clips import MOTIONS, STILL, Actor, Clip
from unival.data.world.concepts import Pairs, article, is_digit, mend_articles, noun, pick, shuffled
from unival.data.world.image_questions import Question

GOING: dict[str, tuple[str, ...]] = {
    "left": ("moving left", "going left"),
    "right": ("moving right", "going right"),
    "up": ("rising", "moving up"),
    "down": ("falling", "moving down"),
    "grow": ("growing",),
    "shrink": ("shrinking",),
    "appear": ("appearing",),
    "vanish": ("vanishing",),
    STILL: ("staying still",),
}
"""What an object is doing; rising and falling are also said of sounds."""
DOES: dict[str, tuple[str, ...]] = {
    "left": ("moves left", "goes left"),
    "right": ("moves right", "goes right"),
    "up": ("rises", "moves up"),
    "down": ("falls", "moves down"),
    "grow": ("grows",),
    "shrink": ("shrinks",),
    "appear": ("appears",),
    "vanish": ("vanishes",),
    STILL: ("stays still",),
}
_ONE = (
    "{a} {is_doing}",
    "{a} {does}",
    "{a} is {is_doing}",
    "a clip of {a} {is_doing}",
    "{a} that is {is_doing}",
)
_BOTH = (
    "{a} {does} and {b} {b_does}",
    "{a} is {is_doing} while {b} {b_does}",
    "{a} {is_doing} and {b} {b_doing}",
    "{a} {does} while {b} {b_does}",
    "a clip of {a} {is_doing} and {b} {b_doing}",
)
_ORDERED = (
    "{a} {does} then {b} {b_does}",
    "first {a} {does} then {b} {b_does}",
    "{a} {does} before {b} {b_does}",
    "{b} {b_does} after {a} {does}",
    "after {a} {does} {b} {b_does}",
)


def captions(rng: Random, clip: Clip, count: int = 5) -> tuple[str, ...]:
    """Different reference captions; each names every object, what it does, and the order."""
    found: dict[str, None] = {}
    templates = _ONE if len(clip.actors) == 1 else (_ORDERED if clip.ordered else _BOTH)
    queue: list[str] = []
    for _ in range(40):
        queue = queue or shuffled(rng, templates)
        found.setdefault(_filled(rng, queue.pop(), clip))
        if len(found) == count:
            break
    return tuple(found)


def _filled(rng: Random, template: str, clip: Clip) -> str:
    a, b = clip.actors[0], clip.actors[-1]
    return template.format(
        a=article(a.name),
        b=article(b.name),
        is_doing=pick(rng, GOING[a.action]),
        does=pick(rng, DOES[a.action]),
        b_doing=pick(rng, GOING[b.action]),
        b_does=pick(rng, DOES[b.action]),
    )


_QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "direction": {
        "usual": (
            "which way does the {0} move?",
            "in which direction does the {0} move?",
            "where does the {0} go?",
        ),
        "unseen": ("the {0} travels in which direction?", "name the direction of the {0}"),
    },
    "actor": {
        "usual": ("what {0}?", "which object {0}?"),
        "unseen": ("name the object that {0}", "the thing that {0} is what?"),
    },
    "color": {
        "usual": ("what color is the {0}?", "which color is the {0}?", "what is the color of the {0}?"),
        "unseen": ("the {0} has which color?", "name the color of the {0}"),
    },
    "digit": {
        "usual": ("which digit is shown?", "what digit is there?", "what digit do you see?"),
        "unseen": ("name the digit", "the digit is what?"),
    },
    "order": {
        "usual": ("does the {0} {1} before the {2} {3}?", "does the {0} {1} after the {2} {3}?"),
        "unseen": ("{5} the {2} {4}, does the {0} {1}?",),
    },
    "change": {
        "usual": ("does the {0} grow or shrink?", "is the {0} growing or shrinking?"),
        "unseen": ("the {0}, is it one that grows or shrinks?",),
    },
    "count": {
        "usual": (
            "how many objects are there?",
            "how many objects do you see?",
            "what is the number of objects?",
        ),
        "unseen": ("count the objects", "the clip shows how many objects?"),
    },
    "first": {
        "usual": ("what {0} first?", "which object {0} first?"),
        "unseen": ("name the object that {0} first",),
    },
}
BARE = {
    "left": "move left",
    "right": "move right",
    "up": "rise",
    "down": "fall",
    "grow": "grow",
    "shrink": "shrink",
    "appear": "appear",
    "vanish": "vanish",
}


def _ask(rng: Random, form: str, phrasing: str, answer: str, *parts: str) -> Question:
    text = pick(rng, _QUESTIONS[form][phrasing]).format(*parts)
    return Question(form, mend_articles(text), soft_answers(rng, answer))


def _direction(rng: Random, clip: Clip, phrasing: str) -> Question | None:
    movers = [a for a in clip.actors if a.action in MOTIONS]
    if not movers:
        return None
    actor = pick(rng, movers)
    return _ask(rng, "direction", phrasing, actor.action, pick(rng, (noun(actor.kind), actor.name)))


def _actor(rng: Random, clip: Clip, phrasing: str) -> Question | None:
    """Asked of clips with two objects, so that seeing one is not enough."""
    if len(clip.actors) < 2:
        return None
    actor = pick(rng, clip.actors)
    return _ask(rng, "actor", phrasing, actor.kind, pick(rng, DOES[actor.action]))


def _color(rng: Random, clip: Clip, phrasing: str) -> Question | None:
    actor = pick(rng, clip.actors)
    doing = pick(rng, GOING[actor.action]).removeprefix("staying ")
    return _ask(rng, "color", phrasing, actor.color, pick(rng, (noun(actor.kind), f"{doing} object")))


def _digit(rng: Random, clip: Clip, phrasing: str) -> Question | None:
    digits = [a for a in clip.actors if is_digit(a.kind)]
    return _ask(rng, "digit", phrasing, digits[0].kind) if len(digits) == 1 else None


def _order(rng: Random, clip: Clip, phrasing: str) -> Question | None:
    """`does the a rise before the b falls`: half are true, for `before` and for `after`."""
    if not clip.ordered:
        return None
    a, b = shuffled(rng, clip.actors)
    parts = (
        a.name,
        BARE[a.action],
        b.name,
        DOES[b.action][0],
        DOES[b.action][0],
        pick(rng, ("before", "after")),
    )
    text = pick(rng, _QUESTIONS["order"][phrasing]).format(*parts)
    before = "before" in text.split() or text.startswith("before")
    truth = "yes" if before == (a.order < b.order) else "no"
    return Question("order", mend_articles(text), soft_answers(rng, truth))


def _change(rng: Random, clip: Clip, phrasing: str) -> Question | None:
    options = [a for a in clip.actors if a.action in ("grow", "shrink")]
    if not options:
        return None
    actor = pick(rng, options)
    return _ask(rng, "change", phrasing, actor.action, noun(actor.kind))


def _count(rng: Random, clip: Clip, phrasing: str) -> Question | None:
    if len(clip.actors) == 2 and rng.random() < 0.72:  # one object is rarer: keeps the answers even
        return None
    return _ask(rng, "count", phrasing, "one" if len(clip.actors) == 1 else "two")


def _first(rng: Random, clip: Clip, phrasing: str) -> Question | None:
    if not clip.ordered or any(a.action not in MOTIONS for a in clip.actors):
        return None
    actor = clip.actors[0]
    return _ask(rng, "first", phrasing, actor.kind, "moves")


_ASKERS: dict[str, Callable[[Random, Clip, str], Question | None]] = {
    "direction": _direction,
    "actor": _actor,
    "color": _color,
    "digit": _digit,
    "order": _order,
    "change": _change,
    "count": _count,
    "first": _first,
}
_FORM_WEIGHTS = ("direction",) * 3 + ("actor",) * 3 + ("color",) * 2 + ("digit",) * 2 + (
    "order", "change", "count", "first")  # fmt: skip


def questions(rng: Random, clip: Clip, count: int, phrasing: str = "usual") -> list[Question]:
    """Up to `count` questions of different forms."""
    found: dict[str, Question] = {}
    for form in shuffled(rng, _FORM_WEIGHTS):
        if form not in found:
            question = _ASKERS[form](rng, clip, phrasing)
            if question is not None:
                found[form] = question
        if len(found) == count:
            break
    return list(found.values())


def corrupted(rng: Random, clip: Clip, pairs: Pairs) -> Clip:
    """A clip like this one in which one object, its action or the order is another: its caption is false."""
    actors = list(clip.actors)
    choice = rng.random()
    if clip.ordered and choice < 0.34:
        first, second = actors
        return Clip(
            (
                Actor(second.color, second.kind, second.action, 0),
                Actor(first.color, first.kind, first.action, 1),
            ),
            True,
        )
    index = rng.randrange(len(actors))
    old = actors[index]
    if choice < 0.67 and old.action != STILL:
        others = [action for action in BARE if action != old.action]
        actors[index] = Actor(old.color, old.kind, pick(rng, others), old.order)
    else:
        near = [p for p in pairs if (p[0] == old.color) != (p[1] == old.kind)]
        color, kind = pick(rng, near)
        actors[index] = Actor(color, kind, old.action, old.order)
    return Clip(tuple(actors), clip.ordered)
