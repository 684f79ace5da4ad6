"""Masks, backgrounds and blending. Pixels are float32 HWC in [0, 255] until the end."""

import math
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from unival.data.benchmarks.world.concepts import COLORS

SUPERSAMPLE = 6
ANGLES = (-12, -6, 0, 6, 12)
"""Degrees a shape may be turned: small enough that a square stays a square."""


def _outline(kind: str) -> list[tuple[float, float]]:
    """Corner points of a shape around (0, 0), within radius 1."""
    if kind == "square":
        return [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    if kind == "triangle":
        return [(0, -1), (1, 0.85), (-1, 0.85)]
    if kind == "star":
        radii = (1.0, 0.42)
        points = range(10)
        return [
            (radii[i % 2] * math.sin(i * math.pi / 5), -radii[i % 2] * math.cos(i * math.pi / 5))
            for i in points
        ]
    return [(math.cos(t), math.sin(t)) for t in np.linspace(0, 2 * math.pi, 60)]


@lru_cache(maxsize=4096)
def shape_mask(kind: str, size: int, angle: int = 0) -> np.ndarray:
    """Anti-aliased coverage in [0, 1], tight around the shape; about `size` pixels wide and high."""
    fine = size * SUPERSAMPLE
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    points = [(x * cos - y * sin, x * sin + y * cos) for x, y in _outline(kind)]
    extent = max(max(abs(x), abs(y)) for x, y in points)
    scaled = [((x / extent + 1) * (fine - 1) / 2, (y / extent + 1) * (fine - 1) / 2) for x, y in points]
    canvas = Image.new("L", (fine, fine))
    ImageDraw.Draw(canvas).polygon(scaled, fill=255)
    mask = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), np.float32) / 255
    return tight(mask)


def digit_mask(stroke_HW: np.ndarray, height: int) -> np.ndarray:
    """Coverage of a handwritten digit (uint8, cropped to its strokes) scaled to `height` pixels."""
    width = max(round(height * stroke_HW.shape[1] / stroke_HW.shape[0]), 4)
    grey = Image.fromarray(stroke_HW).resize((width, height), Image.Resampling.BICUBIC)
    return tight(np.clip(np.asarray(grey, np.float32) * (1.7 / 255) - 0.25, 0, 1))


def cloth_mask(width: int, height: int) -> np.ndarray:
    """A cloth: an almost full rectangle with one wavy edge."""
    mask = np.ones((height, width), np.float32)
    hem = ((np.arange(width) // 3) % 2).astype(bool)
    mask[-2:, hem] = 0
    return mask


def tight(mask_HW: np.ndarray) -> np.ndarray:
    """Crop to the pixels that are more than faintly covered."""
    above = mask_HW > 0.2
    rows, columns = np.flatnonzero(above.any(1)), np.flatnonzero(above.any(0))
    return mask_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@lru_cache(maxsize=8)
def _spread(side: int, knots: int) -> np.ndarray:
    """Linear interpolation from knots to pixels, (side, knots)."""
    position = np.linspace(0, knots - 1, side)
    return np.clip(1 - np.abs(position[:, None] - np.arange(knots)[None]), 0, 1).astype(np.float32)


def background(rng: Random, side: int) -> np.ndarray:
    """A light paper: tint, soft blotches and faint grain; float32 (side, side, 3)."""
    noise = np.random.default_rng(rng.getrandbits(63))
    spread = _spread(side, 6)
    blotches = noise.normal(0, 9, (6, 6)).astype(np.float32)
    tint = noise.uniform(214, 244, 3).astype(np.float32)
    grain = noise.normal(0, 2, (side, side)).astype(np.float32)
    return tint + (spread @ blotches @ spread.T + grain)[..., None]


def color_of(rng: Random, name: str) -> np.ndarray:
    """The named colour, a little different each time."""
    jitter = [channel + rng.uniform(-16, 16) for channel in COLORS[name]]
    return np.array(jitter, np.float32)


def blend(canvas_HWC: np.ndarray, mask_hw: np.ndarray, left: int, top: int, color: np.ndarray) -> None:
    """Paint a colour (3,) or texture (h, w, 3) through a mask, in place; parts outside are cut off."""
    height, width = canvas_HWC.shape[:2]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + mask_hw.shape[1], width), min(top + mask_hw.shape[0], height)
    if x0 >= x1 or y0 >= y1:
        return
    part = mask_hw[y0 - top : y1 - top, x0 - left : x1 - left, None]
    paint = color[y0 - top : y1 - top, x0 - left : x1 - left] if color.ndim == 3 else color
    region = canvas_HWC[y0:y1, x0:x1]
    region += part * (paint - region)


def finish(canvas: np.ndarray) -> np.ndarray:
    """To uint8."""
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
