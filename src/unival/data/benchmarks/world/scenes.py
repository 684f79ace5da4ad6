"""Still scenes: which objects, where, and what is true of them."""

import json
from dataclasses import dataclass
from random import Random

import numpy as np

from unival.data.benchmarks.world import drawing
from unival.data.benchmarks.world.concepts import ALLOWED_PAIRS, HELD_OUT_PAIRS, Pairs, is_digit, noun, pick
from unival.data.benchmarks.world.digits import DigitBank

SHAPE_PIXELS = {"small": (11, 12), "large": (17, 19)}
"""Width and height of a shape; nothing between, so the sizes can be told apart."""
DIGIT_PIXELS = (16, 19)
CLOTH_PIXELS = (14, 18)
GAP = 1
CLEAR = 5.0
"""Centres must differ by this many pixels before a text says left, right, above or below."""
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATIONS = tuple(OPPOSITE)
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Thing:
    """One visible object."""

    color: str
    kind: str
    size: str
    """small or large; empty for digits."""
    box: Box
    sample: int = -1
    """Row of a digit in its bank."""

    @property
    def name(self) -> str:
        """`red circle`, `red digit three`."""
        return f"{self.color} {noun(self.kind)}"

    @property
    def center(self) -> tuple[float, float]:
        """x, y of the box's centre."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects of one picture, and the box of a grey cloth that may hide something."""

    things: tuple[Thing, ...]
    cloth: Box | None

    def facts(self) -> str:
        """JSON of what is true, for the caption checker."""
        things = [{"color": t.color, "kind": t.kind, "size": t.size, "box": t.box} for t in self.things]
        return json.dumps({"medium": "image", "things": things, "cloth": self.cloth}, separators=(",", ":"))

    def named(self, color: str | None = None, kind: str | None = None) -> list[Thing]:
        """Objects of a colour and a kind."""
        return [t for t in self.things if color in (None, t.color) and kind in (None, t.kind)]

    def unique(self) -> list[Thing]:
        """Objects whose colour and kind occur once."""
        return [t for t in self.things if len(self.named(t.color, t.kind)) == 1]

    def relations(self) -> list[tuple[Thing, str, Thing]]:
        """Where two such objects clearly are: `a`, its relation to `b`, `b`."""
        singles = self.unique()
        return [
            (a, r, b) for a in singles for b in singles if a is not b for r in RELATIONS if holds(r, a, b)
        ]


def holds(relation: str, a: Thing, b: Thing, margin: float = CLEAR) -> bool:
    """Whether `a` is clearly left of (right of, above, below) `b`."""
    (ax, ay), (bx, by) = a.center, b.center
    difference = {"left of": bx - ax, "right of": ax - bx, "above": by - ay, "below": ay - by}[relation]
    return difference >= margin


@dataclass(frozen=True, slots=True)
class SceneRules:
    """What a split's scenes look like."""

    counts: tuple[int, ...] = (1, 1, 1, 2, 2, 2, 2, 3, 3, 4)
    """Number of objects, drawn evenly from these."""
    cloth: float = 0.4
    """Share of scenes with a cloth (which then hold one object fewer at most three)."""
    digits: float = 0.15
    """Chance that an object is a digit."""
    held_out: bool = False
    """Every scene shows at least one held-out pair (otherwise none does)."""
    need_digit: bool = False
    """Every scene shows a digit."""


def _choose_pairs(rng: Random, rules: SceneRules, count: int) -> list[tuple[str, str]]:
    """Colour and kind of each object, often sharing one with another, sometimes a group of equals."""
    pairs: list[tuple[str, str]] = []
    group = 1 if count < 2 or rng.random() > 0.35 else (3 if count > 2 and rng.random() < 0.35 else 2)
    while len(pairs) < count:
        digit = rng.random() < rules.digits or (rules.need_digit and not pairs)
        options = HELD_OUT_PAIRS if rules.held_out and (not pairs or rng.random() < 0.3) else ALLOWED_PAIRS
        pair = pick(rng, options)
        if pairs and rng.random() < 0.35:  # a near miss: same colour or same kind as an object before
            color, kind = pick(rng, pairs)
            near = [p for p in options if (p[0] == color) != (p[1] == kind)]
            pair = pick(rng, near) if near else pair
        if is_digit(pair[1]) != digit:
            continue
        same = pairs.count(pair)
        if same:
            continue
        pairs += [pair] * (1 if digit or pairs else min(group, count))
    return pairs


def _mask(rng: Random, kind: str, size: str, bank: DigitBank) -> tuple[np.ndarray, int]:
    if is_digit(kind):
        sample = bank.choose(rng, kind)
        return drawing.digit_mask(bank.strokes[sample], rng.randint(*DIGIT_PIXELS)), sample
    return drawing.shape_mask(kind, rng.randint(*SHAPE_PIXELS[size]), pick(rng, drawing.ANGLES)), -1


def _place(rng: Random, side: int, shapes: list[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """Top-left corners without overlap for (height, width) rectangles, largest first; None where stuck."""
    taken: list[tuple[int, int, int, int]] = []
    corners: list[tuple[int, int]] = [(0, 0)] * len(shapes)
    for index in sorted(range(len(shapes)), key=lambda i: -shapes[i][0] * shapes[i][1]):
        height, width = shapes[index]
        for _ in range(40):
            x, y = rng.randint(1, side - width - 1), rng.randint(1, side - height - 1)
            box = (x - GAP, y - GAP, x + width + GAP, y + height + GAP)
            if all(box[0] >= t[2] or box[2] <= t[0] or box[1] >= t[3] or box[3] <= t[1] for t in taken):
                taken.append((x, y, x + width, y + height))
                corners[index] = (x, y)
                break
        else:
            return None
    return corners


def make_scene(rng: Random, rules: SceneRules, bank: DigitBank, side: int) -> tuple[Scene, np.ndarray]:
    """A random scene and its picture, uint8 (side, side, 3)."""
    while True:
        cloth = rng.random() < rules.cloth
        count = pick(rng, rules.counts)
        if cloth and count > 2:
            count -= 1
        pairs = _choose_pairs(rng, rules, count)
        sizes = ["" if is_digit(kind) else pick(rng, ("small", "large")) for _, kind in pairs]
        masks = [_mask(rng, kind, size, bank) for (_, kind), size in zip(pairs, sizes, strict=True)]
        if cloth:
            masks.append((drawing.cloth_mask(rng.randint(*CLOTH_PIXELS), rng.randint(*CLOTH_PIXELS)), -1))
        corners = _place(rng, side, [mask.shape for mask, _ in masks])  # type: ignore[misc]
        if corners is not None:
            break
    boxes = [
        (float(x), float(y), float(x + mask.shape[1]), float(y + mask.shape[0]))
        for (x, y), (mask, _) in zip(corners, masks, strict=True)
    ]
    things = [
        Thing(color, kind, size, box, sample)
        for (color, kind), size, box, (_, sample) in zip(pairs, sizes, boxes, masks, strict=False)
    ]
    canvas = drawing.background(rng, side)
    for thing, (x, y), (mask, _) in zip(things, corners, masks, strict=False):
        drawing.blend(canvas, mask, x, y, drawing.color_of(rng, thing.color))
    if cloth:
        _draw_cloth(rng, canvas, masks[-1][0], *corners[-1])
    order = sorted(range(len(things)), key=lambda i: things[i].center[0])
    return Scene(tuple(things[i] for i in order), boxes[-1] if cloth else None), drawing.finish(canvas)


def _draw_cloth(rng: Random, canvas: np.ndarray, mask: np.ndarray, x: int, y: int) -> None:
    height, width = mask.shape
    folds = 14 * np.sin((np.arange(width)[None] + 0.6 * np.arange(height)[:, None]) * rng.uniform(0.8, 1.2))
    texture = np.repeat((128 + rng.uniform(-8, 8) + folds)[..., None], 3, axis=2).astype(np.float32)
    drawing.blend(canvas, mask, x, y, texture)


def absent_pair(rng: Random, scene: Scene, pairs: Pairs) -> tuple[str, str]:
    """Colour and kind of something that is not in the scene; half of the time one of the two is."""
    present = {(t.color, t.kind) for t in scene.things}
    options = [pair for pair in pairs if pair not in present]
    if rng.random() < 0.5:
        colors, kinds = {t.color for t in scene.things}, {t.kind for t in scene.things}
        options = [pair for pair in options if pair[0] in colors or pair[1] in kinds] or options
    return pick(rng, options)
