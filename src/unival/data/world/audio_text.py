"""What is said about a sound: captions and questions."""

from collections.abc import Callable
from random import Random

from unival.data.world.answers import soft_answers
from unival.data.world.concepts import NUMBERS, pick, shuffled
from unival.data.world.image_questions import Question
from unival.data.world.sounds import Event, Sound

_EVENTS: dict[str, tuple[str, ...]] = {
    "tone": ("a {pitch} tone", "a steady {pitch} tone", "a {pitch} steady tone"),
    "sweep": ("a {direction} sweep", "a {direction} tone", "a sweep that is {direction}"),
    "beeps": ("{count} {pitch} beeps", "{count} {pitch} beeps", "{count} beeps that are {pitch}"),
    "dial": ("a phone dialing {digits}", "dialed {digits}", "the {digits} being dialed"),
    "noise": ("noise", "a burst of noise", "hissing noise"),
}
_ONE = ("{a}", "the sound of {a}", "we hear {a}", "you can hear {a}", "a recording of {a}")
_TWO = (
    "{a} then {b}",
    "{a} followed by {b}",
    "first {a} then {b}",
    "{a} before {b}",
    "{b} after {a}",
)


def describe(rng: Random, event: Event) -> str:
    """A noun phrase for one event, with all that is true of it."""
    word = "digit" if len(event.digits) == 1 else "digits"
    return pick(rng, _EVENTS[event.kind]).format(
        pitch=event.pitch,
        direction=event.direction,
        count=NUMBERS[event.count],
        digits=f"{word} {' '.join(event.digits)}",
    )


def captions(rng: Random, sound: Sound, count: int = 5) -> tuple[str, ...]:
    """Different reference captions; each names all events in their order."""
    found: dict[str, None] = {}
    queue: list[str] = []
    for _ in range(60):
        queue = queue or shuffled(rng, _ONE if len(sound.events) == 1 else _TWO)
        text = queue.pop().format(a=describe(rng, sound.events[0]), b=describe(rng, sound.events[-1]))
        found.setdefault(text)
        if len(found) == count:
            break
    return tuple(found)


_QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "count": {
        "usual": ("how many beeps are there?", "how many beeps do you hear?", "what is the number of beeps?"),
        "unseen": ("count the beeps", "the sound has how many beeps?"),
    },
    "direction": {
        "usual": ("is the sweep rising or falling?", "does the sweep rise or fall?"),
        "unseen": ("the sweep goes which way, rising or falling?",),
    },
    "digit": {
        "usual": ("which digit is dialed?", "what digit is dialed?", "what digit do you hear?"),
        "unseen": ("name the digit", "the digit is what?"),
    },
    "first_digit": {
        "usual": ("which digit is dialed first?", "what is the first digit?"),
        "unseen": ("name the first digit",),
    },
    "last_digit": {
        "usual": ("which digit is dialed last?", "what is the last digit?"),
        "unseen": ("name the last digit",),
    },
    "pitch": {
        "usual": ("is the pitch of the {0} high or low?", "what is the pitch of the {0}?"),
        "unseen": ("the pitch of the {0}, high or low?",),
    },
    "before": {
        "usual": ("what comes before the {0}?", "what do you hear before the {0}?"),
        "unseen": ("name the sound before the {0}",),
    },
    "after": {
        "usual": ("what comes after the {0}?", "what do you hear after the {0}?"),
        "unseen": ("name the sound after the {0}",),
    },
    "exist": {
        "usual": ("is there {0}?", "do you hear {0}?"),
        "unseen": ("{0} can be heard, yes or no?",),
    },
    "kind": {
        "usual": ("what do you hear?", "what sound is there?"),
        "unseen": ("name the sound",),
    },
}
NAMES = {"tone": "tone", "sweep": "sweep", "beeps": "beeps", "dial": "dialing", "noise": "noise"}
_SOME = {"tone": "a tone", "sweep": "a sweep", "beeps": "a beep", "dial": "a dialed digit", "noise": "noise"}


def _ask(rng: Random, form: str, phrasing: str, answer: str, *parts: str) -> Question:
    text = pick(rng, _QUESTIONS[form][phrasing]).format(*parts)
    return Question(form, text, soft_answers(rng, answer))


def _of_kind(sound: Sound, *kinds: str) -> list[Event]:
    return [event for event in sound.events if event.kind in kinds]


def _count(rng: Random, sound: Sound, phrasing: str) -> Question | None:
    beeps = _of_kind(sound, "beeps")
    return _ask(rng, "count", phrasing, NUMBERS[beeps[0].count]) if beeps else None


def _direction(rng: Random, sound: Sound, phrasing: str) -> Question | None:
    sweeps = _of_kind(sound, "sweep")
    return _ask(rng, "direction", phrasing, sweeps[0].direction) if sweeps else None


def _digit(rng: Random, sound: Sound, phrasing: str) -> Question | None:
    dials = _of_kind(sound, "dial")
    if not dials:
        return None
    digits = dials[0].digits
    if len(digits) == 1:
        return _ask(rng, "digit", phrasing, digits[0])
    form, digit = pick(rng, (("first_digit", digits[0]), ("last_digit", digits[-1])))
    return _ask(rng, form, phrasing, digit)


def _pitch(rng: Random, sound: Sound, phrasing: str) -> Question | None:
    pitched = _of_kind(sound, "tone", "beeps")
    if not pitched:
        return None
    event = pick(rng, pitched)
    return _ask(rng, "pitch", phrasing, event.pitch, NAMES[event.kind])


def _neighbor(rng: Random, sound: Sound, phrasing: str) -> Question | None:
    if len(sound.events) < 2:
        return None
    first, second = (NAMES[event.kind] for event in sound.events)
    form, answer, asked = pick(rng, (("before", first, second), ("after", second, first)))
    return _ask(rng, form, phrasing, answer, asked)


def _exist(rng: Random, sound: Sound, phrasing: str) -> Question | None:
    present = [event.kind for event in sound.events]
    true = rng.random() < 0.5
    kind = pick(rng, present if true else [kind for kind in _SOME if kind not in present])
    return _ask(rng, "exist", phrasing, "yes" if true else "no", _SOME[kind])


def _kind(rng: Random, sound: Sound, phrasing: str) -> Question | None:
    return _ask(rng, "kind", phrasing, NAMES[sound.events[0].kind]) if len(sound.events) == 1 else None


_ASKERS: dict[str, Callable[[Random, Sound, str], Question | None]] = {
    "count": _count,
    "direction": _direction,
    "digit": _digit,
    "pitch": _pitch,
    "neighbor": _neighbor,
    "exist": _exist,
    "kind": _kind,
}
_FORM_WEIGHTS = (
    "count",
    "count",
    "digit",
    "digit",
    "digit",
    "neighbor",
    "neighbor",
    "direction",
    "pitch",
    "exist",
    "kind",
)


def questions(rng: Random, sound: Sound, count: int, phrasing: str = "usual") -> list[Question]:
    """Up to `count` questions of different forms."""
    found: dict[str, Question] = {}
    for form in shuffled(rng, _FORM_WEIGHTS):
        if form not in found:
            question = _ASKERS[form](rng, sound, phrasing)
            if question is not None:
                found[form] = question
        if len(found) == count:
            break
    return list(found.values())
