"""What is said about a clip: captions and questions."""

from dataclasses import replace
from itertools import islice
from random import Random

from unival.data.benchmarks.world.clips import MOTIONS, STILL, Clip
from unival.data.benchmarks.world.concepts import (
    NUMBERS,
    Pairs,
    any_of,
    article,
    is_digit,
    noun,
    pick,
    shuffled,
)  # fmt: skip
from unival.data.benchmarks.world.questions import (
    Question,
    Templates,
    Voice,
    ask,
    different,
    in_turn,
    soft_answers,
)

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
    templates = _ONE if len(clip.actors) == 1 else (_ORDERED if clip.ordered else _BOTH)
    return different((_filled(rng, text, clip) for text in islice(in_turn(rng, templates), 40)), count)


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


_TEMPLATES: Templates = {
    "usual": {
        "direction": (
            "which way does the {0} move?", "in which direction does the {0} move?", "where does the {0} go?",
        ),
        "actor": ("what {0}?", "which object {0}?"),
        "color": ("what color is the {0}?", "which color is the {0}?", "what is the color of the {0}?"),
        "digit": ("which digit is shown?", "what digit is there?", "what digit do you see?"),
        "order": ("does the {0} {1} before the {2} {3}?", "does the {0} {1} after the {2} {3}?"),
        "change": ("does the {0} grow or shrink?", "is the {0} growing or shrinking?"),
        "count": (
            "how many objects are there?", "how many objects do you see?", "what is the number of objects?",
        ),
        "first": ("what {0} first?", "which object {0} first?"),
    },
    "web": {
        "direction": ("{0} direction", "direction of {0}"),
        "actor": ("thing that {0}", "{0} which"),
        "color": ("{0} color", "color of {0}"),
        "digit": ("number", "number shown"),
    },
    "unseen": {
        "direction": ("the {0} travels in which direction?", "name the direction of the {0}"),
        "actor": ("name the object that {0}", "the thing that {0} is what?"),
        "color": ("the {0} has which color?", "name the color of the {0}"),
        "digit": ("name the digit", "the digit is what?"),
        "order": ("{4} the {2} {3}, does the {0} {1}?",),
        "change": ("the {0}, is it one that grows or shrinks?",),
        "count": ("count the objects", "the clip shows how many objects?"),
        "first": ("name the object that {0} first",),
    },
}  # fmt: skip
BARE = {
    "left": "move left", "right": "move right", "up": "rise", "down": "fall",
    "grow": "grow", "shrink": "shrink", "appear": "appear", "vanish": "vanish",
}  # fmt: skip


def _direction(voice: Voice, clip: Clip) -> Question | None:
    actor = any_of(voice.rng, [a for a in clip.actors if a.action in MOTIONS])
    if actor is None:
        return None
    return voice.ask("direction", actor.action, pick(voice.rng, (noun(actor.kind), actor.name)))


def _actor(voice: Voice, clip: Clip) -> Question | None:
    """Asked of clips with two objects, so that seeing one is not enough."""
    if len(clip.actors) < 2:
        return None
    actor = pick(voice.rng, clip.actors)
    return voice.ask("actor", actor.kind, pick(voice.rng, DOES[actor.action]))


def _color(voice: Voice, clip: Clip) -> Question | None:
    actor = pick(voice.rng, clip.actors)
    doing = pick(voice.rng, GOING[actor.action]).removeprefix("staying ")
    return voice.ask("color", actor.color, pick(voice.rng, (noun(actor.kind), f"{doing} object")))


def _digit(voice: Voice, clip: Clip) -> Question | None:
    digits = [a for a in clip.actors if is_digit(a.kind)]
    return voice.ask("digit", digits[0].kind) if len(digits) == 1 else None


def _order(voice: Voice, clip: Clip) -> Question | None:
    """`does the a rise before the b falls`: half are true, for `before` and for `after`."""
    if not clip.ordered or "order" not in voice.templates:
        return None
    a, b = shuffled(voice.rng, clip.actors)
    word = pick(voice.rng, ("before", "after"))
    text = voice.say("order", a.name, BARE[a.action], b.name, DOES[b.action][0], word)
    truth = "yes" if ("before" in text.split()) == (a.order < b.order) else "no"
    return Question("order", text, soft_answers(voice.rng, truth))


def _change(voice: Voice, clip: Clip) -> Question | None:
    actor = any_of(voice.rng, [a for a in clip.actors if a.action in ("grow", "shrink")])
    return voice.ask("change", actor.action, noun(actor.kind)) if actor else None


def _count(voice: Voice, clip: Clip) -> Question | None:
    if len(clip.actors) == 2 and voice.rng.random() < 0.72:  # one object is rarer: keeps the answers even
        return None
    return voice.ask("count", NUMBERS[len(clip.actors)])


def _first(voice: Voice, clip: Clip) -> Question | None:
    if not clip.ordered or any(a.action not in MOTIONS for a in clip.actors):
        return None
    return voice.ask("first", clip.actors[0].kind, "moves")


_ASKERS = (
    (_direction,) * 3 + (_actor,) * 3 + (_color,) * 2 + (_digit,) * 2 + (_order, _change, _count, _first)
)  # fmt: skip


def questions(rng: Random, clip: Clip, count: int, phrasing: str = "usual") -> list[Question]:
    """Up to `count` questions of different forms."""
    return ask(Voice(rng, _TEMPLATES[phrasing]), clip, _ASKERS, count)


def corrupted(rng: Random, clip: Clip, pairs: Pairs) -> Clip:
    """A clip like this one in which one object, its action or the order is another: its caption is false."""
    actors = list(clip.actors)
    choice = rng.random()
    if clip.ordered and choice < 0.34:
        first, second = actors
        return Clip((replace(second, order=0), replace(first, order=1)), True)
    index = rng.randrange(len(actors))
    old = actors[index]
    if choice < 0.67 and old.action != STILL:
        others = [action for action in BARE if action != old.action]
        actors[index] = replace(old, action=pick(rng, others))
    else:
        color, kind = pick(rng, [p for p in pairs if (p[0] == old.color) != (p[1] == old.kind)])
        actors[index] = replace(old, color=color, kind=kind)
    return Clip(tuple(actors), clip.ordered)
