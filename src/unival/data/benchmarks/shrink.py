"""Smaller copies of real media for small models: images, clips, sounds.

Axes: T frames, H height, W width, C channels (RGB, uint8); S samples.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from unival.data import media
from unival.errors import UserError
from unival.media_format import Box, box_as_shown


class View(NamedTuple):
    """How a photo became a smaller one."""

    orientation: int
    shown: tuple[int, int]
    """Width and height, turned by the orientation."""
    smaller: tuple[int, int]

    def box(self, box: Box, declared: tuple[int, int] | None) -> Box:
        """A box of the photo in the smaller one; `declared`: see `box_as_shown`, which raises."""
        factors = (self.smaller[0] / self.shown[0], self.smaller[1] / self.shown[1]) * 2
        box = box_as_shown(box, self.orientation, self.shown, declared)
        x0, y0, x1, y1 = (  # 84.00000000000001 would be outside
            round(side * factor, 3) for side, factor in zip(box, factors, strict=True)
        )
        return x0, y0, x1, y1


def image(data: bytes, name: str, longest: int) -> tuple[bytes, View]:
    """A JPEG of at most `longest` pixels a side, and what becomes of boxes.

    Raises:
        UserError: it cannot be decoded.
    """
    pixels_HWC = media.decode_image(data, name)
    height, width = pixels_HWC.shape[:2]
    factor = min(1.0, longest / max(height, width))
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    smaller = Image.fromarray(pixels_HWC).resize(size, Image.Resampling.BICUBIC)
    view = View(media.image_orientation(data, name), (width, height), size)
    return media.encode_image(np.asarray(smaller), ".jpg", quality=92), view


def frames(clip_THWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """Every frame at another size (bilinear)."""
    size = (width, height)
    resized = (Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR) for frame in clip_THWC)
    return np.stack([np.asarray(frame) for frame in resized])


def video(data: bytes, name: str, longest: int, num_frames: int, rate: int) -> bytes:
    """An mp4 of `num_frames` frames evenly spread over the clip, its sides even and at most `longest`."""
    clip_THWC = media.decode_video(data, name, num_frames)
    height, width = clip_THWC.shape[1:3]
    factor = min(1.0, longest / max(height, width))
    width, height = (max(2 * round(side * factor / 2), 2) for side in (width, height))
    return media.encode_video(frames(clip_THWC, width, height), rate)


def audio(data: bytes, name: str, sampling_rate: int, seconds: float) -> bytes:
    """A mono wav at `sampling_rate` Hz of the first `seconds`.

    Raises:
        UserError: it cannot be decoded, or is silent throughout.
    """
    samples_S = media.decode_audio(data, name, sampling_rate)[: round(seconds * sampling_rate)]
    if not np.abs(samples_S).max() > 0:
        raise UserError(f"{name}: silent")
    return media.encode_wav(samples_S, sampling_rate)
