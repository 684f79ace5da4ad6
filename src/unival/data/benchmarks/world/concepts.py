"""The words of the world, shared by all media, and which combinations are kept out of training."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from unival.record import NUMBERS

T = TypeVar("T")
Pairs = tuple[tuple[str, str], ...]
"""Combinations of colour and kind."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (212, 40, 48),
    "blue": (38, 92, 220),
    "green": (28, 148, 66),
    "yellow": (232, 196, 18),
    "purple": (142, 58, 180),
    "orange": (242, 126, 22),
}
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")
DIRECTIONS = ("left", "right", "up", "down")
PLURALS = {shape: f"{shape}s" for shape in SHAPES}
SYNONYMS = {
    "purple": "violet",
    "square": "box",
    "large": "big",
    "small": "little",
    "up": "upward",
    "down": "downward",
    "yes": "yeah",
    "rising": "ascending",
    "falling": "descending",
    "noise": "hiss",
    **{word: str(value) for value, word in enumerate(NUMBERS)},
}
"""What some annotators write instead of the usual answer."""

_COLOR_NAMES = tuple(COLORS)
_HELD_OUT = frozenset(
    [(_COLOR_NAMES[(index + 2) % 6], shape) for index, shape in enumerate(SHAPES)]
    + [(_COLOR_NAMES[index % 6], digit) for index, digit in enumerate(NUMBERS)]
)


HELD_OUT_PAIRS = tuple(sorted(_HELD_OUT))
"""Never shown or mentioned outside `ood-composition`."""
ALLOWED_PAIRS = tuple(
    (color, kind) for color in COLORS for kind in (*SHAPES, *NUMBERS) if (color, kind) not in _HELD_OUT
)


def is_digit(kind: str) -> bool:
    """Whether a kind of object is a handwritten digit rather than a shape."""
    return kind in NUMBERS


def noun(kind: str, count: int = 1) -> str:
    """`circle`, `circles`, `digit three`."""
    if is_digit(kind):
        return f"digit {kind}"
    return kind if count == 1 else PLURALS[kind]


def article(phrase: str) -> str:
    """`a` or `an` before the phrase."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def mend_articles(text: str) -> str:
    """`a` becomes `an` before the one colour that starts with a vowel."""
    return f" {text}".replace(" a orange", " an orange")[1:]


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of the options, evenly."""
    return options[int(rng.random() * len(options))]


def any_of(rng: Random, options: Sequence[T]) -> T | None:
    """One of the options, None where there is none."""
    return pick(rng, options) if options else None


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    """A shuffled copy."""
    result = list(items)
    rng.shuffle(result)
    return result


def joined(phrases: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
