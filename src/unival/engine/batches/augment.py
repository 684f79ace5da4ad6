"""Random views of training media (docs/reference.md 2.7): crops, flips of videos and RandAugment.

A crop is a window in pixels of the stored medium. Where the row has a box, the window lies around it and the
box is given in coordinates of the window, stretched to the size of the whole image, so that tasks need not
know of the crop. Unlike the original, every draw has random numbers of its own.

H, W pixels, T frames, C colours.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from unival.record import Record

Window = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""
GREY = (128, 128, 128)
PROBABILITY = 0.5
"""Of each chosen operation to be applied."""
ASPECT = 4 / 3
"""Widest and narrowest crop of a video."""


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random views of training media (reference 2.7); evaluation never has them."""

    shorter: float = 1.25
    """Images: the shorter side is resized to 1 to this many times the model's image size, then a square of
    that size is cut from the middle; around the object where the row has a box."""
    longer: float = 1.75
    """Images: limit of the longer side."""
    operations: int = 2
    """Random changes of colour and shape by modality (RandAugment); rows with a box have none."""
    magnitude: float = 0.7
    """Their strength, 0 to 1."""
    video_area: float = 0.5
    """Videos: least share of a frame's area that is shown; also flipped left to right at random."""

    def __post_init__(self) -> None:
        if not 1 <= self.shorter <= self.longer:
            raise ValueError(f"shorter {self.shorter}, longer {self.longer}: need 1 <= shorter <= longer")
        if not 0 < self.video_area <= 1 or not 0 <= self.magnitude <= 1:
            raise ValueError("video_area and magnitude are shares, between 0 and 1")


def image_window(
    size: tuple[int, int],
    target: int,
    config: AugmentConfig,
    rng: np.random.Generator,
    box: Sequence[float] | None = None,
) -> Window:
    """The square that stays when an image of `size` (width, height) is resized at random and cropped to
    `target` pixels: in its middle, or around a box. Where the image is narrower, all its width."""
    shorter = target * rng.uniform(1.0, config.shorter)
    scale = min(shorter / min(size), config.longer * target / max(size))
    x0, y0, x1, y1 = box if box is not None else (0, 0, *size)
    spans = []
    for low, high, length in ((x0, x1, size[0]), (y0, y1, size[1])):
        side = min(target / scale, length)
        start = min(max((low + high - side) / 2, 0), length - side)
        spans.append((start, start + side))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def shown_in(record: Record, size: tuple[int, int], window: Window) -> Record:
    """The record with its box, cut to the window, in coordinates of the window stretched to `size`."""
    assert record.box is not None
    offset, sides = np.array(window[:2] * 2), np.subtract(window[2:], window[:2])
    corners = np.clip((np.array(record.box) - offset) / np.tile(sides, 2), 0, 1) * np.array(size * 2)
    x0, y0, x1, y1 = corners.tolist()
    return dataclasses.replace(record, box=(x0, y0, x1, y1))


def view_image(
    pixels_HWC: np.ndarray,
    target: int,
    config: AugmentConfig,
    rng: np.random.Generator,
    window: Window | None = None,
) -> np.ndarray:
    """uint8 (target, target, C): the `window` as it is, or a random one with RandAugment."""
    image = Image.fromarray(pixels_HWC)
    shown = window or image_window(image.size, target, config, rng)
    image = image.resize((target, target), Image.Resampling.BICUBIC, box=shown)
    if window is None:
        (image,) = distort([image], config, rng)
    return np.array(image)


def view_video(
    frames_THWC: np.ndarray, target: int, config: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """uint8 (T, target, target, C): one random crop, flip and RandAugment for all frames."""
    height, width = frames_THWC.shape[1:3]
    area = rng.uniform(config.video_area, 1.0)
    aspect = np.exp(rng.uniform(-np.log(ASPECT), np.log(ASPECT)))
    wide, high = min(np.sqrt(area * aspect), 1.0) * width, min(np.sqrt(area / aspect), 1.0) * height
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    window = (left, top, left + wide, top + high)
    frames = [
        Image.fromarray(frame).resize((target, target), Image.Resampling.BICUBIC, box=window)
        for frame in frames_THWC
    ]
    if rng.random() < 0.5:
        frames = [ImageOps.mirror(frame) for frame in frames]
    return np.stack([np.array(frame) for frame in distort(frames, config, rng)])


def distort(images: list[Image.Image], config: AugmentConfig, rng: np.random.Generator) -> list[Image.Image]:
    """RandAugment: some operations, each applied with probability 0.5, the same to all images."""
    for index in rng.integers(len(OPERATIONS), size=config.operations):
        sign = 1 if rng.random() < 0.5 else -1
        if rng.random() < PROBABILITY:
            images = [OPERATIONS[index](image, config.magnitude, sign) for image in images]
    return images


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY
    )


SHIFT = 10 / 384
"""Largest translation, in widths."""

OPERATIONS: tuple[Callable[[Image.Image, float, int], Image.Image], ...] = (
    lambda image, strength, sign: image,
    lambda image, strength, sign: ImageOps.autocontrast(image),
    lambda image, strength, sign: ImageOps.equalize(image),
    lambda image, strength, sign: ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * strength),
    lambda image, strength, sign: ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * strength),
    lambda image, strength, sign: _affine(image, (1, sign * 0.3 * strength, 0, 0, 1, 0)),
    lambda image, strength, sign: _affine(image, (1, 0, 0, sign * 0.3 * strength, 1, 0)),
    lambda image, strength, sign: _affine(image, (1, 0, sign * strength * SHIFT * image.width, 0, 1, 0)),
    lambda image, strength, sign: _affine(image, (1, 0, 0, 0, 1, sign * strength * SHIFT * image.height)),
    lambda image, strength, sign: image.rotate(
        sign * 30 * strength, Image.Resampling.BILINEAR, fillcolor=GREY
    ),
)
"""(image, strength in 0..1, sign): identity, contrast, equalisation, brightness, sharpness, shears,
translations, rotation."""
