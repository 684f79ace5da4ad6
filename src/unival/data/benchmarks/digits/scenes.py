"""Pictures and clips of real handwritten digits: where each digit goes, and its pixels.

Axes: N samples, T frames, H height, W width, C channels. Strokes are bright on dark, uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from unival.data.benchmarks.strokes import ink, resized, shape_at
from unival.record import NUMBERS

Box = tuple[float, float, float, float]
MOTIONS = ("left", "right", "up", "down", "grow", "shrink")
GAP = 2
CLEAR = 6.0
"""Centres are at least this many pixels apart in x, so that left and right are never in doubt."""
HEIGHT_SHARE = (0.36, 0.46)
"""Height of a digit's ink, as a share of the picture's side."""
PATCH_SHARE = (0.30, 0.38)
CROWDED = 0.85
"""Three things or more are drawn smaller by this factor, so that they find room."""
PATCH_GREY = 110


@dataclass(frozen=True)
class Hand:
    """Samples of one collection that belong to one split."""

    images: np.ndarray
    """Grey levels (N, H, W)."""
    labels: np.ndarray
    """Digits (N,)."""
    indices: Sequence[int]
    """Rows that this split may use."""
    origin: str

    def take(self, position: int) -> tuple[int, str]:
        """(row, digit word) of the sample at a position, going round when there are too few."""
        row = int(self.indices[position % len(self.indices)])
        return row, NUMBERS[int(self.labels[row])]


@dataclass(frozen=True, slots=True)
class Digit:
    """One visible digit."""

    word: str
    box: Box
    sample: str
    """Where its handwriting comes from: `mnist:123`."""

    @property
    def center_x(self) -> float:
        """Centre of the box, from the left."""
        return (self.box[0] + self.box[2]) / 2


@dataclass(frozen=True, slots=True)
class DigitScene:
    """Digits from left to right, and whether a grey patch is there, which may hide one more."""

    things: tuple[Digit, ...]
    patch: bool

    @property
    def words(self) -> tuple[str, ...]:
        """The digits from left to right."""
        return tuple(thing.word for thing in self.things)

    def unique(self) -> list[Digit]:
        """Digits that occur once."""
        return [thing for thing in self.things if self.words.count(thing.word) == 1]


def _share(rng: Random, shares: tuple[float, float], side: float) -> int:
    """A number of pixels between two shares of the side."""
    return round((shares[0] + (shares[1] - shares[0]) * rng.random()) * side)


def as_rgb(image_HW: np.ndarray) -> np.ndarray:
    """Grey levels as RGB."""
    return np.repeat(image_HW[..., None], 3, axis=-1)


def make_scene(
    rng: Random, hand: Hand, samples: Sequence[int], side: int, patch: bool
) -> tuple[DigitScene, np.ndarray]:
    """A picture of the given rows of `hand` at random places; uint8 (side, side, 3)."""
    strokes = [ink(hand.images[row]) for row in samples]
    room = side * (CROWDED if len(samples) + patch > 2 else 1.0)
    while True:
        shapes = [shape_at(image_HW, _share(rng, HEIGHT_SHARE, room)) for image_HW in strokes]
        if patch:
            shapes.append((_share(rng, PATCH_SHARE, room), _share(rng, PATCH_SHARE, room)))
        corners = _place(rng, side, shapes)
        if corners is not None:
            break
    canvas_HW = np.full((side, side), rng.randint(0, 24), np.uint8)
    bright = rng.uniform(0.8, 1.0)
    things = []
    for row, image_HW, (height, width), (x, y) in zip(samples, strokes, shapes, corners, strict=False):
        region = canvas_HW[y : y + height, x : x + width]
        np.maximum(region, (resized(image_HW, height) * bright).astype(np.uint8), out=region)
        word = NUMBERS[int(hand.labels[row])]
        box = (float(x), float(y), float(x + width), float(y + height))
        things.append(Digit(word, box, f"{hand.origin}:{row}"))
    if patch:
        (height, width), (x, y) = shapes[-1], corners[-1]
        canvas_HW[y : y + height, x : x + width] = PATCH_GREY
    return DigitScene(tuple(sorted(things, key=lambda thing: thing.center_x)), patch), as_rgb(canvas_HW)


def _place(rng: Random, side: int, shapes: Sequence[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """Top-left corners without overlap and with clear order in x; None where stuck."""
    taken: list[tuple[int, int, int, int]] = []
    for height, width in shapes:
        for _ in range(30):
            x = 1 + int(rng.random() * (side - width - 1))
            y = 1 + int(rng.random() * (side - height - 1))
            if all(_apart((x, y, x + width, y + height), other) for other in taken):
                taken.append((x, y, x + width, y + height))
                break
        else:
            return None
    return [(x, y) for x, y, _, _ in taken]


def _apart(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    beside = a[0] - GAP >= b[2] or a[2] + GAP <= b[0]
    over = a[1] - GAP >= b[3] or a[3] + GAP <= b[1]
    return (beside or over) and abs((a[0] + a[2]) - (b[0] + b[2])) / 2 >= CLEAR


def make_clip(rng: Random, image_HW: np.ndarray, motion: str, side: int, frames: int) -> np.ndarray:
    """A digit that moves in a line, grows or shrinks: uint8 (frames, side, side, 3)."""
    strokes = ink(image_HW)
    plain, large, small = round(0.32 * side), round(0.44 * side), round(0.18 * side)
    heights = {"grow": (small, large), "shrink": (large, small)}.get(motion, (plain, plain))
    travel = rng.uniform(0.3, 0.45) * side
    dx, dy = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(motion, (0, 0))
    margin = max(heights) / 2 + 1
    center_x = rng.uniform(margin + travel * (dx < 0), side - margin - travel * (dx > 0))
    center_y = rng.uniform(margin + travel * (dy < 0), side - margin - travel * (dy > 0))
    clip_THW = np.zeros((frames, side, side), np.uint8)
    for index in range(frames):
        part = index / max(frames - 1, 1)
        image = resized(strokes, round(heights[0] + part * (heights[1] - heights[0])))
        height, width = image.shape
        x = round(center_x + dx * travel * part - width / 2)
        y = round(center_y + dy * travel * part - height / 2)
        x, y = min(max(x, 0), side - width), min(max(y, 0), side - height)
        clip_THW[index, y : y + height, x : x + width] = image
    return as_rgb(clip_THW)
