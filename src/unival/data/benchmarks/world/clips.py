"""Short clips: one or two objects that move, grow, shrink, appear or vanish, together or in turn."""

import json
from dataclasses import asdict, dataclass, field
from itertools import count
from random import Random

import numpy as np

from unival.data.benchmarks.world import drawing
from unival.data.benchmarks.world.concepts import (
    ALLOWED_PAIRS,
    DIRECTIONS,
    HELD_OUT_PAIRS,
    is_digit,
    noun,
    pick,
)
from unival.data.benchmarks.world.digits import DigitBank

MOTIONS = DIRECTIONS
ACTIONS = (*MOTIONS, "grow", "shrink", "appear", "vanish")
STILL = "still"
TRAVEL = (12, 18)
"""Pixels that a moving object covers during its event."""
SHAPE_PIXELS = (12, 15)
DIGIT_PIXELS = (14, 16)
GROWN = 1.3
"""Final size of a growing object, as a multiple of its usual size; it starts at half."""
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True, slots=True)
class Actor:
    """One object and what it does."""

    color: str
    kind: str
    action: str
    """One of ACTIONS, or `still`."""
    order: int
    """0: acts first or all the time; 1: acts after the other."""

    @property
    def name(self) -> str:
        """`red circle`, `red digit three`."""
        return f"{self.color} {noun(self.kind)}"


@dataclass(frozen=True, slots=True)
class Clip:
    """Actors in the order of their events; `ordered` where the second acts after the first."""

    actors: tuple[Actor, ...]
    ordered: bool

    def facts(self) -> str:
        """JSON of what is true, for the caption checker."""
        return json.dumps({"medium": "video", **asdict(self)}, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class ClipRules:
    """What a split's clips look like."""

    held_out: bool = False
    need_digit: bool = False
    speed: float = 1.0
    """Events run this much faster: over sooner, or (below 1) cut short by the end of the clip."""


def _choose_actors(rng: Random, rules: ClipRules) -> tuple[list[tuple[str, str]], list[str], bool]:
    kind_of_clip = pick(
        rng, ("one", "one", "still", "still", "still", "ordered", "ordered", "ordered", "ordered")
    )
    options = HELD_OUT_PAIRS if rules.held_out else ALLOWED_PAIRS
    while True:
        pairs = [pick(rng, options), pick(rng, ALLOWED_PAIRS)][: 1 if kind_of_clip == "one" else 2]
        digits = [is_digit(kind) for _, kind in pairs]
        if any(digit and rng.random() < 0.4 for digit in digits) or (rules.need_digit and not any(digits)):
            continue
        if len({kind for _, kind in pairs}) == len({color for color, _ in pairs}) == len(pairs):
            break
    first, second = pick(rng, ACTIONS), pick(rng, ACTIONS)
    while second == first:
        second = pick(rng, ACTIONS)
    actions = {"one": [first], "still": [first, STILL], "ordered": [first, second]}[kind_of_clip]
    return pairs, actions, kind_of_clip == "ordered"


@dataclass(frozen=True, slots=True)
class _Look:
    """What an object looks like."""

    kind: str
    size: int
    angle: int = 0
    strokes: np.ndarray | None = None
    """Of a digit."""
    masks: dict[int, np.ndarray] = field(default_factory=dict)
    """Of a digit by height: most keep theirs for the whole clip."""

    def mask(self, scale: float = 1.0) -> np.ndarray:
        """Its coverage at a multiple of its size."""
        height = max(round(self.size * scale), 5)
        if self.strokes is None:
            return drawing.shape_mask(self.kind, height, self.angle)
        if height not in self.masks:
            self.masks[height] = drawing.digit_mask(self.strokes, height)
        return self.masks[height]


def _look(rng: Random, kind: str, bank: DigitBank) -> _Look:
    if is_digit(kind):
        sample = bank.choose(rng, kind)
        return _Look(kind, rng.randint(*DIGIT_PIXELS), strokes=bank.strokes[sample])
    return _Look(kind, rng.randint(*SHAPE_PIXELS), pick(rng, drawing.ANGLES))


def _start(rng: Random, action: str, side: int, size: int, travel: int) -> tuple[int, int]:
    """Where the object's centre starts, so that it stays in the picture."""
    half = size // 2 + 1
    low_x, high_x, low_y, high_y = half, side - half, half, side - half
    if action in STEPS:
        dx, dy = STEPS[action]
        low_x, high_x = low_x + travel * (dx < 0), high_x - travel * (dx > 0)
        low_y, high_y = low_y + travel * (dy < 0), high_y - travel * (dy > 0)
    return rng.randint(low_x, max(low_x, high_x)), rng.randint(low_y, max(low_y, high_y))


def progress(frame: int, frames: int, window: tuple[float, float], speed: float) -> float:
    """How far an event has come at a frame, 0 to 1; its window is in parts of the clip."""
    time = frame / (frames - 1)
    start, end = window
    return min(max((time - start) / (end - start) * speed, 0.0), 1.0)


def _lay_out(
    rng: Random, pairs: list[tuple[str, str]], actions: list[str], ordered: bool, side: int, bank: DigitBank
) -> tuple[list[_Look], list[tuple[int, int]], list[int]]:
    """Look, starting centre and travel of each object, so that the two never touch."""
    for attempt in count():
        if attempt % 20 == 0:  # two large looks may not fit together: draw others
            looks = [_look(rng, kind, bank) for _, kind in pairs]
            spans = [
                round(look.size * (GROWN if act == "grow" else 1))
                for look, act in zip(looks, actions, strict=True)
            ]
        travels = [rng.randint(*TRAVEL) for _ in pairs]
        starts = [
            _start(rng, act, side, span, go) for act, span, go in zip(actions, spans, travels, strict=True)
        ]
        ends = [_moved(start, act, go) for start, act, go in zip(starts, actions, travels, strict=True)]
        if len(pairs) == 1 or _apart(starts, ends, spans, ordered):
            return looks, starts, travels
    raise AssertionError("unreachable")


def _moved(start: tuple[int, int], action: str, travel: float) -> tuple[float, float]:
    dx, dy = STEPS.get(action, (0, 0))
    return start[0] + dx * travel, start[1] + dy * travel


def _apart(
    starts: list[tuple[int, int]], ends: list[tuple[float, float]], spans: list[int], ordered: bool
) -> bool:
    """Whether two objects keep clear of each other at all times."""
    reach = (spans[0] + spans[1]) / 2 + 1
    for step in range(13):
        first, second = (min(step / 6, 1.0), max(step / 6 - 1, 0.0)) if ordered else (step / 12, step / 12)
        ax, ay = _between(starts[0], ends[0], first)
        bx, by = _between(starts[1], ends[1], second)
        if max(abs(ax - bx), abs(ay - by)) < reach:
            return False
    return True


def _between(start: tuple[float, float], end: tuple[float, float], part: float) -> tuple[float, float]:
    return start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part


def make_clip(
    rng: Random, rules: ClipRules, bank: DigitBank, side: int, frames: int
) -> tuple[Clip, np.ndarray]:
    """A random clip and its frames, uint8 (frames, side, side, 3)."""
    pairs, actions, ordered = _choose_actors(rng, rules)
    windows = [(0.0, 0.45), (0.55, 1.0)] if ordered else [(0.0, 1.0)] * 2
    looks, starts, travels = _lay_out(rng, pairs, actions, ordered, side, bank)
    colors = [drawing.color_of(rng, color) for color, _ in pairs]
    paper = drawing.background(rng, side)
    result = np.empty((frames, side, side, 3), np.uint8)
    for frame in range(frames):
        canvas = paper.copy()
        for index, look in enumerate(looks):
            done = progress(frame, frames, windows[index], rules.speed)
            mask = _appearance(look, actions[index], done)
            if mask is not None:
                x, y = _moved(starts[index], actions[index], travels[index] * done)
                left, top = round(x - mask.shape[1] / 2), round(y - mask.shape[0] / 2)
                drawing.blend(canvas, mask, left, top, colors[index])
        result[frame] = drawing.finish(canvas)
    actors = tuple(
        Actor(color, kind, action, index if ordered else 0)
        for index, ((color, kind), action) in enumerate(zip(pairs, actions, strict=True))
    )
    return Clip(actors, ordered), result


def _appearance(look: _Look, action: str, done: float) -> np.ndarray | None:
    """The object's mask at a moment; None while it is not there."""
    if (action == "appear" and done <= 0.5) or (action == "vanish" and done >= 0.5):
        return None
    scales = {"grow": 0.5 + (GROWN - 0.5) * done, "shrink": 1.0 - 0.6 * done}
    return look.mask(scales.get(action, 1.0))
