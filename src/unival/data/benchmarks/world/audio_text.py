"""What is said about a sound: captions and questions."""

from itertools import islice
from random import Random

from unival.data.benchmarks.world.concepts import any_of, pick
from unival.data.benchmarks.world.questions import Question, Templates, Voice, ask, different, in_turn
from unival.data.benchmarks.world.sounds import Event, Sound
from unival.record import NUMBERS

_EVENTS: dict[str, tuple[str, ...]] = {
    "tone": ("a {pitch} tone", "a steady {pitch} tone", "a {pitch} steady tone"),
    "sweep": ("a {direction} sweep", "a {direction} tone", "a sweep that is {direction}"),
    "beeps": ("{count} {pitch} beeps", "{count} {pitch} beeps", "{count} beeps that are {pitch}"),
    "dial": ("a phone dialing {digits}", "dialed {digits}", "the {digits} being dialed"),
    "noise": ("noise", "a burst of noise", "hissing noise"),
}
_ONE = ("{a}", "the sound of {a}", "we hear {a}", "you can hear {a}", "a recording of {a}")
_TWO = ("{a} then {b}", "{a} followed by {b}", "first {a} then {b}", "{a} before {b}", "{b} after {a}")


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
    templates = in_turn(rng, _ONE if len(sound.events) == 1 else _TWO)
    texts = (
        template.format(a=describe(rng, sound.events[0]), b=describe(rng, sound.events[-1]))
        for template in islice(templates, 60)
    )
    return different(texts, count)


_TEMPLATES: Templates = {
    "usual": {
        "count": (
            "how many beeps are there?", "how many beeps do you hear?", "what is the number of beeps?",
        ),
        "direction": ("is the sweep rising or falling?", "does the sweep rise or fall?"),
        "digit": ("which digit is dialed?", "what digit is dialed?", "what digit do you hear?"),
        "first_digit": ("which digit is dialed first?", "what is the first digit?"),
        "last_digit": ("which digit is dialed last?", "what is the last digit?"),
        "pitch": ("is the pitch of the {0} high or low?", "what is the pitch of the {0}?"),
        "before": ("what comes before the {0}?", "what do you hear before the {0}?"),
        "after": ("what comes after the {0}?", "what do you hear after the {0}?"),
        "exist": ("is there {0}?", "do you hear {0}?"),
        "kind": ("what do you hear?", "what sound is there?"),
    },
    "unseen": {
        "count": ("count the beeps", "the sound has how many beeps?"),
        "direction": ("the sweep goes which way, rising or falling?",),
        "digit": ("name the digit", "the digit is what?"),
        "first_digit": ("name the first digit",),
        "last_digit": ("name the last digit",),
        "pitch": ("the pitch of the {0}, high or low?",),
        "before": ("name the sound before the {0}",),
        "after": ("name the sound after the {0}",),
        "exist": ("{0} can be heard, yes or no?",),
        "kind": ("name the sound",),
    },
}  # fmt: skip
NAMES = {"tone": "tone", "sweep": "sweep", "beeps": "beeps", "dial": "dialing", "noise": "noise"}
_SOME = {"tone": "a tone", "sweep": "a sweep", "beeps": "a beep", "dial": "a dialed digit", "noise": "noise"}


def _of_kind(sound: Sound, *kinds: str) -> list[Event]:
    return [event for event in sound.events if event.kind in kinds]


def _count(voice: Voice, sound: Sound) -> Question | None:
    beeps = _of_kind(sound, "beeps")
    return voice.ask("count", NUMBERS[beeps[0].count]) if beeps else None


def _direction(voice: Voice, sound: Sound) -> Question | None:
    sweeps = _of_kind(sound, "sweep")
    return voice.ask("direction", sweeps[0].direction) if sweeps else None


def _digit(voice: Voice, sound: Sound) -> Question | None:
    dials = _of_kind(sound, "dial")
    if not dials:
        return None
    digits = dials[0].digits
    if len(digits) == 1:
        return voice.ask("digit", digits[0])
    return voice.ask(*pick(voice.rng, (("first_digit", digits[0]), ("last_digit", digits[-1]))))


def _pitch(voice: Voice, sound: Sound) -> Question | None:
    event = any_of(voice.rng, _of_kind(sound, "tone", "beeps"))
    return voice.ask("pitch", event.pitch, NAMES[event.kind]) if event else None


def _neighbor(voice: Voice, sound: Sound) -> Question | None:
    if len(sound.events) < 2:
        return None
    first, second = (NAMES[event.kind] for event in sound.events)
    return voice.ask(*pick(voice.rng, (("before", first, second), ("after", second, first))))


def _exist(voice: Voice, sound: Sound) -> Question | None:
    present = [event.kind for event in sound.events]
    true = voice.rng.random() < 0.5
    kind = pick(voice.rng, present if true else [kind for kind in _SOME if kind not in present])
    return voice.ask("exist", "yes" if true else "no", _SOME[kind])


def _kind(voice: Voice, sound: Sound) -> Question | None:
    return voice.ask("kind", NAMES[sound.events[0].kind]) if len(sound.events) == 1 else None


_ASKERS = (
    (_count,) * 2 + (_digit,) * 3 + (_neighbor,) * 2 + (_direction, _pitch, _exist, _kind)
)  # fmt: skip


def questions(rng: Random, sound: Sound, count: int, phrasing: str = "usual") -> list[Question]:
    """Up to `count` questions of different forms."""
    return ask(Voice(rng, _TEMPLATES[phrasing]), sound, _ASKERS, count)
