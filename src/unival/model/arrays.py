"""Pictures, frames and waveforms as callers hold them: checked, cut and stacked.

M media, T frames, H, W pixels, C colours, S samples, B rows, K media of a row.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unival import limits, media_format
from unival.errors import UserError


def rgb(pixels: Any) -> np.ndarray:
    """uint8 (H, W, 3) of an array or PIL image.

    Raises:
        UserError: it is neither.
    """
    rgb = np.asarray(media_format.rgb(pixels, "image") if is_picture(pixels) else pixels)
    if rgb.ndim == 2:
        rgb = np.repeat(rgb[:, :, None], 3, axis=2)
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise UserError(f"image: expected a PIL image or uint8 (height, width, 3), found {described(pixels)}")
    return rgb


def is_picture(pixels: Any) -> bool:
    """Whether it is an image of Pillow."""
    return isinstance(pixels, Image.Image)


def described(value: Any) -> str:
    """What a message calls a value: type, and kind and shape of numbers where it has them."""
    words = [type(value).__name__, *(str(getattr(value, name, "")) for name in ("dtype", "shape"))]
    return " ".join(filter(None, words))


def resize(pixels_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic, with Pillow's antialiasing, to (height, width)."""
    height, width = size
    return np.array(Image.fromarray(pixels_HWC).resize((width, height), Image.Resampling.BICUBIC))


def centre_crop(frames_THWC: np.ndarray, size: int) -> np.ndarray:
    """The middle `size` x `size` pixels; black is added around smaller frames."""
    height, width = frames_THWC.shape[1:3]
    pad_y, pad_x = max(size - height, 0), max(size - width, 0)
    if pad_y or pad_x:
        around = ((0, 0), (pad_y // 2, (pad_y + 1) // 2), (pad_x // 2, (pad_x + 1) // 2), (0, 0))
        frames_THWC = np.pad(frames_THWC, around)
        height, width = frames_THWC.shape[1:3]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return frames_THWC[:, top : top + size, left : left + size]


def require_one_sound(audio: Any) -> None:
    """Refuse an array that may be one sound, channels first, or a batch; beside one text it is one sound.

    Raises:
        UserError: both are possible.
    """
    if getattr(audio, "ndim", 0) == 2 and 1 < audio.shape[0] < audio.shape[1]:
        raise UserError(
            f"audio: cannot tell whether {described(audio)} is {audio.shape[0]} channels or several sounds: "
            "pass one sound as (S, channels), several as a list"
        )


def channels_first(waveform: np.ndarray) -> np.ndarray:
    """One sound as (channels, S). A second axis of a few entries is the channels, as soundfile and SciPy give
    them; a first one, as torchaudio does.

    Raises:
        UserError: both axes are short, or neither is: it may be a batch.
    """
    short, long = sorted(waveform.shape)
    if short > limits.SOUND_CHANNELS or short == long:
        raise UserError(
            f"audio: cannot tell the channels of {described(waveform)}: pass one sound as (S, channels), "
            "several as a list"
        )
    return waveform if waveform.shape[0] == short else waveform.T


def through_int16(waveform: np.ndarray) -> np.ndarray:
    """Samples as a 16-bit file holds them, float32."""
    quantised = (np.clip(waveform, -1.0, 1.0) * 32767.0).astype(np.int16)
    return (quantised / 32767.0).astype(np.float32)


def stack_media(name: str, values: Any, transform: Any, rank: int) -> dict[str, Tensor]:
    """Transformed media (M, ...) and for each row the places of its own, -1 where there are fewer."""
    if not isinstance(values, list | tuple) and not (isinstance(values, np.ndarray) and values.ndim > rank):
        values = [values]
    rows = [[] if row is None else list(row) if isinstance(row, list | tuple) else [row] for row in values]
    media = [transform(item) for row in rows for item in row]
    if not media:
        return {}
    index_BK = torch.full((len(rows), max(map(len, rows))), -1, dtype=torch.long)
    place = 0
    for number, row in enumerate(rows):
        index_BK[number, : len(row)] = torch.arange(place, place + len(row))
        place += len(row)
    return {f"{name}_values": torch.stack(media), f"{name}_index": index_BK}
