"""How media are looked at: the same way always, or at random while training."""

import zlib
from collections.abc import Callable

import numpy as np

from unival.data.media import segment_frames
from unival.engine.batches.augment import AugmentConfig, Window, view_image, view_video
from unival.engine.batches.protocols import Processor
from unival.engine.batches.rows import Rows
from unival.record import Modality

CACHED_CLIP_BYTES = 64 * 1024
"""Videos of this encoded size are decoded whole and kept; of larger ones only the frames in use are read."""

View = Callable[[Rows, Modality, str, Window | None], np.ndarray]
"""(rows, modality, key, window of an image) -> what the model is shown: pixels of its size, or samples."""
Change = Callable[[Modality, np.ndarray, str], np.ndarray]
"""What is done to decoded media: (modality, array, key) -> array."""


class FixedViews:
    """Images whole, frames and sounds from the middle; `change` comes between decoding and fitting."""

    def __init__(self, processor: Processor, change: Change | None = None) -> None:
        self.processor, self.change = processor, change

    def __call__(self, rows: Rows, modality: Modality, key: str, window: Window | None = None) -> np.ndarray:
        """A `View`."""
        array = self._decoded(rows, modality, key)
        if self.change is not None:
            array = self.change(modality, array, key)
        if modality == "image":
            return self.processor.fit_image(array)
        return self.processor.fit_video(array) if modality == "video" else self.processor.fit_audio(array)

    def _decoded(self, rows: Rows, modality: Modality, key: str) -> np.ndarray:
        store, cache, name = rows.store, rows.cache, (rows.store, modality, key)
        if modality == "image":
            return cache.get(name, lambda: store.image(key))
        if modality == "video":
            frames = self.processor.video_frames
            return cache.get((*name, frames), lambda: store.video(key, frames))
        rate = self.processor.sampling_rate
        return cache.get((*name, rate), lambda: store.audio(key, rate))


class RandomViews:
    """Random frames of a clip; with `augment`, random parts of images and sounds, too.

    They are a function of seed, step and key: the same for all examples of the step, however these are dealt
    to ranks.
    """

    def __init__(self, processor: Processor, augment: AugmentConfig | None, seed: int, step: int) -> None:
        self.processor, self.augment, self.seed, self.step = processor, augment, seed, step

    def __call__(self, rows: Rows, modality: Modality, key: str, window: Window | None = None) -> np.ndarray:
        """A `View`."""
        if modality == "image":
            return self._image(rows, key, window)
        return self._video(rows, key) if modality == "video" else self._audio(rows, key)

    def _rng(self, key: str) -> np.random.Generator:
        """Made where something is drawn: it takes longer than to find a prepared image."""
        return np.random.default_rng((self.seed, self.step, zlib.crc32(key.encode())))

    def _image(self, rows: Rows, key: str, window: Window | None) -> np.ndarray:
        processor, store, name = self.processor, rows.store, (rows.store, "image", key)
        if self.augment is None:
            fit = lambda: processor.fit_image(store.picture(key))  # noqa: E731
            return rows.cache.get((*name, processor), fit)
        pixels_HWC = rows.cache.get(name, lambda: store.image(key))
        view_HWC = view_image(pixels_HWC, processor.image_size, self.augment, self._rng(key), window)
        return processor.fit_image(view_HWC)

    def _video(self, rows: Rows, key: str) -> np.ndarray:
        processor, store, rng = self.processor, rows.store, self._rng(key)
        if store.encoded_size(key) > CACHED_CLIP_BYTES:
            frames_THWC = store.video(key, processor.video_frames, rng)
        else:
            clip_THWC = rows.cache.get((store, "video", key), lambda: store.video(key))
            frames_THWC = clip_THWC[segment_frames(len(clip_THWC), processor.video_frames, rng)]
        if self.augment is not None:
            frames_THWC = view_video(frames_THWC, processor.video_size, self.augment, rng)
        return processor.fit_video(frames_THWC)

    def _audio(self, rows: Rows, key: str) -> np.ndarray:
        processor, store, name = self.processor, rows.store, (rows.store, "audio", key)
        rate = processor.sampling_rate
        if self.augment is None:
            return rows.cache.get((*name, processor), lambda: processor.fit_audio(store.audio(key, rate)))
        samples_S = rows.cache.get((*name, rate), lambda: store.audio(key, rate))
        return processor.fit_audio(samples_S, self._rng(key))
