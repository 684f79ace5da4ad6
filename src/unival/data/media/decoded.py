"""Decoded media by key, whatever holds their bytes."""

from abc import ABC, abstractmethod

import numpy as np
from PIL import Image

from unival.data.media.clip import Part, decode_video
from unival.data.media.picture import decode_image, image_size, open_image
from unival.data.media.sound import decode_audio


class DecodedMedia(ABC):
    """Random access to media.

    Raises:
        UserError: of every method: an unknown key, or a medium that cannot be read or decoded.
    """

    def __init__(self) -> None:
        self._image_sizes: dict[str, tuple[int, int]] = {}

    @abstractmethod
    def bytes(self, key: str) -> bytes:
        """The encoded medium; of a part of a clip, the whole clip."""

    def lacking(self) -> str:
        """What of it is not on this machine though it should be, in words; empty: nothing."""
        return ""

    def name(self, key: str) -> str:
        """What messages call the medium."""
        return key

    def part(self, key: str) -> Part | None:
        """Start and end of what is meant of a clip, in seconds; None: all of it."""
        return None

    def encoded_size(self, key: str) -> int:
        """Length of `bytes`."""
        return len(self.bytes(key))

    def picture(self, key: str) -> Image.Image:
        """The image as Pillow holds it, RGB: what is to be resized is faster so."""
        return open_image(self.bytes(key), self.name(key))

    def image(self, key: str) -> np.ndarray:
        """Pixels, uint8 HWC RGB."""
        return decode_image(self.bytes(key), self.name(key))

    def image_size(self, key: str) -> tuple[int, int]:
        """(width, height) in pixels, as `image` gives them, from the header alone; remembered."""
        if key not in self._image_sizes:
            self._image_sizes[key] = image_size(self.bytes(key), self.name(key))
        return self._image_sizes[key]

    def video(
        self, key: str, num_frames: int | None = None, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """Frames, uint8 THWC RGB: one per equal segment (its middle, or a random one by `rng`)."""
        return decode_video(self.bytes(key), self.name(key), num_frames, rng, self.part(key))

    def audio(self, key: str, sampling_rate: int | None = None) -> np.ndarray:
        """Mono samples, float32 (S,), at `sampling_rate` Hz."""
        return decode_audio(self.bytes(key), self.name(key), sampling_rate)
