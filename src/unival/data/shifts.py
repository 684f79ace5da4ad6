"""Corruptions of decoded media, applied at evaluation: five severities each, the same on every run.

The randomness of a row is seeded by (shift, severity, key): every model is shown the same corruption, and
comparisons are paired. The kinds and the five severities follow common corruption benchmarks (Hendrycks &
Dietterich 2019); strengths are in pixels of the picture or relative to its size, and to the sound's power.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from unival.data import media
from unival.errors import UserError
from unival.record import Modality
from unival.registry import Registry

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Shift:
    """A corruption of one modality and its strength at each severity."""

    modality: Modality
    strengths: tuple[float, ...]
    """One for each of SEVERITIES."""
    corrupt: Corruption


SHIFTS: Registry[Shift] = Registry("shift")


def _register(name: str, modality: Modality, *strengths: float) -> Callable[[Corruption], Corruption]:
    def enter(function: Corruption) -> Corruption:
        SHIFTS.register(name)(Shift(modality, strengths, function))
        return function

    return enter


def apply(name: str, severity: int, modality: Modality, array: np.ndarray, key: str) -> np.ndarray:
    """Corrupt one decoded medium: uint8 HWC (image) or THWC (video, frame by frame), float32 (S,) (audio).

    Raises:
        UserError: unknown shift, a severity outside 1..5, or a modality that the shift is not for.
    """
    shift = SHIFTS[name]
    if severity not in SEVERITIES:
        raise UserError(f"shift '{name}': severity {severity} is not one of 1 to 5")
    if (shift.modality == "audio") != (modality == "audio"):
        raise UserError(f"shift '{name}' is for {shift.modality}, not for {modality}")
    seed = int.from_bytes(hashlib.sha256(f"{name}/{severity}/{key}".encode()).digest()[:8], "little")
    rng, strength = np.random.default_rng(seed), shift.strengths[severity - 1]
    if modality == "video":
        return np.stack([shift.corrupt(frame, strength, rng) for frame in array])
    return shift.corrupt(array, strength, rng)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


@_register("noise", "image", 12, 20, 32, 48, 70)
def noise(image_HWC: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of this standard deviation in grey levels."""
    return _to_uint8(image_HWC + rng.normal(0, sigma, image_HWC.shape))


@_register("blur", "image", 0.010, 0.016, 0.024, 0.034, 0.048)
def blur(image_HWC: np.ndarray, part: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur whose radius is this part of the shorter side."""
    radius = part * min(image_HWC.shape[:2])
    return np.asarray(Image.fromarray(image_HWC).filter(ImageFilter.GaussianBlur(radius)))


@_register("contrast", "image", 0.6, 0.45, 0.3, 0.2, 0.12)
def contrast(image_HWC: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Grey levels drawn towards their mean."""
    mean = image_HWC.mean()
    return _to_uint8(mean + (image_HWC - mean) * factor)


@_register("compression", "image", 40, 25, 15, 8, 4)
def compression(image_HWC: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """JPEG of this quality and back."""
    return media.decode_image(media.encode_image(image_HWC, ".jpg", int(quality)), "compression")


@_register("audio_noise", "audio", 20, 12, 6, 0, -6)
def audio_noise(samples_S: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """White noise at this signal-to-noise ratio, scaled back into [-1, 1] where it would clip."""
    power = float(np.mean(np.square(samples_S, dtype=np.float64)))
    sigma = np.sqrt(power / 10 ** (decibels / 10))
    noisy = samples_S + rng.normal(0, 1, samples_S.shape) * sigma
    return (noisy / max(1.0, float(np.abs(noisy).max()))).astype(np.float32)
