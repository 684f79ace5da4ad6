"""Media of the requests under way: each once, and no larger than the model looks at it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from unival import limits
from unival.data import media
from unival.model.processing import UnivalProcessor
from unival.record import Modality


@dataclass(frozen=True)
class Upload:
    """A decoded medium."""

    key: str
    """Digest of its bytes: two requests about one medium share it."""
    array: np.ndarray
    """Pixels or frames of the model's size, uint8; samples at the model's rate, float32."""
    size: tuple[int, int] = (0, 0)
    """(width, height) of the image as it came."""


class Uploads:
    """Reads, for the tasks and views of `engine`, what is held at the moment."""

    def __init__(self, processor: UnivalProcessor) -> None:
        self.processor = processor
        self._held: dict[str, tuple[Upload, int]] = {}

    def read(self, modality: Modality, data: bytes, name: str) -> Upload:
        """Decode a medium, in any thread; `name` is what messages call it.

        Raises:
            UserError: it cannot be read.
        """
        with media.within(limits.DECODE_SECONDS, limits.REQUEST_VALUES):
            return self._read(modality, data, name)

    def _read(self, modality: Modality, data: bytes, name: str) -> Upload:
        key = f"{modality}-{hashlib.sha256(data).hexdigest()}"
        if modality == "image":
            picture = media.open_image(data, name)
            return Upload(key, self.processor.fit_image(picture), picture.size)
        if modality == "video":
            frames_THWC = media.decode_video(data, name, self.processor.video_frames)
            return Upload(key, self.processor.fit_video(frames_THWC))
        samples_S = media.decode_audio(data, name, self.processor.sampling_rate)
        spare = max(len(samples_S) - self.processor.audio_samples, 0)  # the middle is all it listens to
        return Upload(key, samples_S[spare // 2 :][: self.processor.audio_samples].copy())

    @contextmanager
    def hold(self, upload: Upload) -> Iterator[None]:
        """Keep it while requests are about it. Of one thread, the event loop's."""
        kept, users = self._held.get(upload.key, (upload, 0))
        self._held[upload.key] = kept, users + 1
        try:
            yield
        finally:
            kept, users = self._held.pop(upload.key)
            if users > 1:
                self._held[upload.key] = kept, users - 1

    def image(self, key: str) -> np.ndarray:
        """Pixels, uint8 HWC."""
        return self._held[key][0].array

    def image_size(self, key: str) -> tuple[int, int]:
        """(width, height) of the image as it came: boxes are in its pixels."""
        return self._held[key][0].size

    def video(
        self, key: str, num_frames: int | None = None, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """The frames that the model sees, uint8 THWC."""
        return self._held[key][0].array

    def audio(self, key: str, sampling_rate: int | None = None) -> np.ndarray:
        """The samples that the model hears, float32."""
        return self._held[key][0].array
