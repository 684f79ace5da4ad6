"""What batches are made with: a media store and a processor, here as far as the engine uses them.

`unival.data.store.MediaStore` and `unival.model.processing.UnivalProcessor` are the ones there are;
tests put small ones in their place. The model needs no protocol: it is `UnivalForConditionalGeneration`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor


class MediaReader(Protocol):
    """Random access to decoded media by key, as `MediaStore` gives."""

    def lacking(self) -> str:
        """What of it is not on this machine though it should be, in words; empty: nothing."""
        ...

    def encoded_size(self, key: str) -> int:
        """Bytes of the encoded medium."""
        ...

    def picture(self, key: str) -> Any:
        """An image as Pillow holds it."""
        ...

    def image(self, key: str) -> np.ndarray:
        """Pixels, uint8 (H, W, 3)."""
        ...

    def image_size(self, key: str) -> tuple[int, int]:
        """(width, height) in pixels."""
        ...

    def video(
        self, key: str, num_frames: int | None = None, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """All frames, or one of each of so many equal segments, uint8 (T, H, W, 3)."""
        ...

    def audio(self, key: str, sampling_rate: int | None = None) -> np.ndarray:
        """Mono samples, float32 (S,), at `sampling_rate` Hz."""
        ...


class Tokenizer(Protocol):
    """Text to token ids."""

    @property
    def bos_token_id(self) -> int:
        """Begins every text."""
        ...

    @property
    def eos_token_id(self) -> int:
        """Ends every text."""
        ...

    @property
    def pad_token_id(self) -> int:
        """Fills up rows."""
        ...

    def __len__(self) -> int: ...

    def encode_text(self, text: str) -> list[int]:
        """Ids without begin and end."""
        ...


class Processor(Protocol):
    """Media and text as the model takes them."""

    image_size: int
    video_size: int
    video_frames: int
    sampling_rate: int

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary."""
        ...

    def fit_image(self, pixels: Any) -> np.ndarray:
        """An image, pixels or Pillow's, at the model's size, uint8."""
        ...

    def fit_video(self, frames: Any) -> np.ndarray:
        """Frames at the model's number and size, uint8."""
        ...

    def fit_audio(self, samples: Any, rng: np.random.Generator | None = None) -> np.ndarray:
        """Samples at the model's length, float32: the middle, or a part by `rng`."""
        ...

    def normalise(self, media: Sequence[np.ndarray]) -> Tensor:
        """Fitted images or videos as one batch of floats."""
        ...

    def save_pretrained(self, save_directory: Any) -> Any:
        """Write it into a model folder."""
        ...
