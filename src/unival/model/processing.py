"""From media and text as people have them to the tensors of the model, and boxes to location tokens and back.

What the original does is kept to the rounding (docs/reference.md 1.5, 1.6, 3.4); where it draws at random in
evaluation (crops of long sounds), the processor takes the middle unless it is given a random generator.

M media, T frames, H, W pixels, C colours, S samples, B rows, L tokens, K media of a row.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.utils.hub import cached_file

from unival import config, files, limits, media_format
from unival.errors import UserError
from unival.model import portable
from unival.model.arrays import (
    centre_crop,
    channels_first,
    described,
    is_picture,
    require_one_sound,
    resize,
    rgb,
    stack_media,
    through_int16,
)
from unival.model.configuration import UnivalConfig
from unival.vocab import TOKENIZER_FILES, UnivalTokenizer

SETTINGS_FILE = "processor_config.json"
_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_OF_CODE = ("code_revision", "trust_remote_code", "use_fast")  # which class to take, too
Box = tuple[float, float, float, float]
_BIN = re.compile(r"<bin_(\d+)>")


@dataclass(frozen=True)
class ProcessorSettings:
    """What the processor does; saved as processor_config.json."""

    image_size: int = 384
    """Images are resized to this many pixels on both sides, whatever their shape."""
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Mean and spread of pixels in 0..1, for images and video frames."""
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    bin_scale: int | None = None
    """Pixels of the resized image that the last location bin stands for; null: `image_size`. The released
    UnIVAL weights need 512 also at 384 pixels, where they use the bins 0..749 only."""
    video_frames: int = 8
    video_size: int = 224
    """Frames are cropped in the middle to so many pixels on both sides, smaller ones are padded with
    black."""
    video_fit: Literal["resize", "crop"] = "resize"
    """`resize` brings the shorter side to `video_size` before the crop; `crop` does not, like the original,
    whose videos were brought to that size in advance."""
    sampling_rate: int = 48000
    audio_seconds: float = 10.0
    """Length that all sounds are brought to."""
    audio_fill: Literal["repeatpad", "repeat", "pad"] = "repeatpad"
    """Short sounds: whole repetitions then silence, repetitions to the end, or silence."""

    def __post_init__(self) -> None:
        if min(self.image_size, self.video_frames, self.video_size, self.sampling_rate) < 1:
            raise ValueError("image_size, video_frames, video_size and sampling_rate must be positive")
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise ValueError(
                "image_mean and image_std are three numbers, one per colour; image_std is positive"
            )
        clip = self.video_frames * self.video_size**2
        if self.image_size**2 > limits.PICTURE_PIXELS or clip > limits.CLIP_PIXELS:
            raise ValueError(
                "image_size, or video_frames and video_size, are beyond what any medium may have"
            )
        rate = self.sampling_rate
        if rate > limits.SOUND_SAMPLES or rate * self.audio_seconds > limits.SOUND_SAMPLES:
            raise ValueError(f"sampling_rate and audio_seconds give more than {limits.SOUND_SAMPLES} samples")
        if self.shape("audio")[0] < 1:
            raise ValueError("audio_seconds must be positive")

    def shape(self, modality: str) -> tuple[int, ...]:
        """Of one medium's values, as the model gets them."""
        if modality == "image":
            return 3, self.image_size, self.image_size
        if modality == "video":
            return 3, self.video_frames, self.video_size, self.video_size
        return (round(self.sampling_rate * self.audio_seconds),)


class UnivalProcessor(ProcessorMixin):
    """Tokenizer, image, video and audio preprocessing of one model.

    Args:
        tokenizer: the vocabulary.
        settings: fields of `ProcessorSettings`; an unknown one is a UserError.
    """

    def __init__(self, tokenizer: UnivalTokenizer, **settings: Any) -> None:
        for name in ("processor_class", "auto_map"):  # which class to take: it is this one
            settings.pop(name, None)
        self.tokenizer = tokenizer
        self.chat_template = None
        self.settings = config.build(ProcessorSettings, settings, "processor")
        self.image_size = self.settings.image_size
        self.video_frames = self.settings.video_frames
        self.video_size = self.settings.video_size
        self.sampling_rate = self.settings.sampling_rate
        self.audio_samples = self.settings.shape("audio")[0]
        self.bin_scale = self.settings.bin_scale or self.settings.image_size
        mean, std = (np.asarray(v, np.float32) for v in (self.settings.image_mean, self.settings.image_std))
        self._factor_C, self._shift_C = np.float32(1.0) / (np.float32(255.0) * std), -mean / std

    # Media

    def image(self, pixels: Any) -> Tensor:
        """An image, uint8 (H, W, 3) or PIL, to float (3, image_size, image_size).

        A PIL image is turned as its EXIF says and scaled to 8 bits, as a file is; an array is taken as it is.
        """
        return self.normalise([self.fit_image(pixels)])[0]

    def video(self, frames: Any) -> Tensor:
        """Frames, uint8 (T, H, W, 3), to float (3, video_frames, video_size, video_size).

        The last frame is repeated where there are too few; sampling from a longer video is the reader's work.
        """
        return self.normalise([self.fit_video(frames)])[0]

    def fit_image(self, pixels: Any) -> np.ndarray:
        """An image, uint8 (H, W, 3) or PIL, at the model's size, uint8."""
        pixels = media_format.rgb(pixels, "image") if is_picture(pixels) else Image.fromarray(rgb(pixels))
        if pixels.size != (self.image_size, self.image_size):
            pixels = pixels.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return np.asarray(pixels)

    def fit_video(self, frames: Any) -> np.ndarray:
        """Frames at the model's number and size, uint8; see `video`.

        Raises:
            UserError: no frames, more than the model takes, or something else than frames.
        """
        if not isinstance(frames, list | tuple) and np.ndim(frames) != 4:
            raise UserError(f"video: expected frames (T, height, width, 3), found {described(frames)}")
        shown = [rgb(frame) for frame in frames]
        if len({frame.shape for frame in shown}) > 1:
            raise UserError("video: frames of several sizes: bring them to one")
        frames_THWC = np.stack(shown) if shown else np.empty((0, 0, 0, 3))
        missing = self.video_frames - len(frames_THWC)
        if missing < 0 or not len(frames_THWC):
            raise UserError(f"video: {len(frames_THWC)} frames where 1 to {self.video_frames} are expected")
        if missing:
            frames_THWC = np.concatenate([frames_THWC, np.repeat(frames_THWC[-1:], missing, axis=0)])
        size = self.video_size
        if self.settings.video_fit == "resize" and min(frames_THWC.shape[1:3]) != size:
            height, width = frames_THWC.shape[1:3]
            scale = size / min(height, width)
            target = (max(round(height * scale), size), max(round(width * scale), size))
            frames_THWC = np.stack([resize(frame, target) for frame in frames_THWC])
        return centre_crop(frames_THWC, size)

    def normalise(self, media: Sequence[np.ndarray]) -> Tensor:
        """Fitted images (H, W, 3) or videos (T, H, W, 3), uint8, to one float batch (M, 3, ..., H, W)."""
        # by NumPy, in one pass into the batch: a loader's thread must not start PyTorch's threads
        batch = np.empty((len(media), 3, *media[0].shape[:-1]), np.float32)
        factor, shift = (c.reshape(3, *[1] * (batch.ndim - 2)) for c in (self._factor_C, self._shift_C))
        for values, pixels in zip(batch, media, strict=True):
            np.multiply(np.moveaxis(pixels, -1, 0), factor, out=values)
            values += shift
        return torch.from_numpy(batch)

    def audio(self, samples: Any, rng: np.random.Generator | None = None) -> Tensor:
        """A waveform, (S,), (S, channels) or (channels, S), at `sampling_rate`, to float (audio_samples,).

        Channels are averaged, samples rounded to 16 bits. Of a longer sound the middle is taken, or a random
        part where `rng` is given; a shorter one is filled as the settings say.

        Raises:
            UserError: no floats around -1..1, or channels that cannot be told from samples.
        """
        return torch.from_numpy(self.fit_audio(samples, rng))

    def fit_audio(self, samples: Any, rng: np.random.Generator | None = None) -> np.ndarray:
        """A waveform at the model's length, float32; see `audio`.

        Raises:
            UserError: no samples, whole numbers, or samples beyond any sound's level.
        """
        waveform = np.asarray(samples)
        if waveform.ndim not in (1, 2) or not waveform.size or waveform.dtype.kind != "f":
            raise UserError(
                f"audio: expected samples (S,) or (S, channels), floats in -1..1, found {described(samples)}"
            )
        if waveform.ndim == 2:
            waveform = media_format.mono(channels_first(waveform))
        media_format.check_level(waveform, "audio")
        return self._fill(through_int16(waveform), rng)

    def _fill(self, waveform: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        length, wanted = len(waveform), self.audio_samples
        if length >= wanted:
            spare = length - wanted
            start = spare // 2 if rng is None else int(rng.integers(0, spare + 1))
            return waveform[start : start + wanted].copy()
        if self.settings.audio_fill == "repeat":
            return np.tile(waveform, math.ceil(wanted / length))[:wanted]
        repeats = wanted // length if self.settings.audio_fill == "repeatpad" else 1
        filled = np.zeros(wanted, np.float32)
        filled[: repeats * length] = np.tile(waveform, repeats)
        return filled

    # Boxes

    def box_to_bins(self, box: Sequence[float], size: tuple[int, int]) -> str:
        """` <bin_a> <bin_b> <bin_c> <bin_d>` of a box (x0, y0, x1, y1) in pixels of an image of `size`
        (width, height)."""
        corners = np.asarray(box, np.float32) * self._scale(size) / np.float32(self.bin_scale)
        last = self.tokenizer.num_bins - 1
        bins = np.clip(np.round(corners * np.float32(last)), 0, last).astype(int)
        return "".join(f" <bin_{index}>" for index in bins)

    def bins_to_box(self, bins: str | Sequence[int], size: tuple[int, int]) -> Box | None:
        """The box in pixels of an image of `size` (width, height), from a generated text or its token ids.

        x0 <= x1 and y0 <= y1; None when there are not exactly four bins and nothing else.
        """
        text = bins if isinstance(bins, str) else self.tokenizer.decode_text(bins)
        indices = [int(index) for index in _BIN.findall(text)]
        last = self.tokenizer.num_bins - 1
        if len(indices) != 4 or _BIN.sub("", text).strip() or max(indices) > last:
            return None
        corners = np.asarray(indices, np.float32) / np.float32(last) * np.float32(self.bin_scale)
        x0, y0, x1, y1 = (corners / self._scale(size)).tolist()
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)

    def _scale(self, size: tuple[int, int]) -> np.ndarray:
        """Resized pixels per pixel, for x0, y0, x1, y1."""
        width, height = size
        return np.asarray([self.image_size / width, self.image_size / height] * 2, np.float32)

    # Batches

    def text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encoder texts to `input_ids` (B, L) = BOS + tokens + EOS, padded, and `attention_mask` (B, L)."""
        own = self.tokenizer
        begin, end, pad = own.bos_token_id, own.eos_token_id, own.pad_token_id
        rows = [[begin, *self.tokenizer.encode_text(text), end] for text in texts]
        ids_BL = np.full((len(rows), max(map(len, rows), default=0)), pad, np.int64)
        for number, row in enumerate(rows):
            ids_BL[number, : len(row)] = row
        input_ids = torch.from_numpy(ids_BL)
        return {"input_ids": input_ids, "attention_mask": (input_ids != pad).long()}

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        sampling_rate: int | None = None,
        **unused: Any,
    ) -> BatchFeature:
        """A batch for the model's forward and `generate`.

        Args:
            images: one image, or for each row an image, a list of images or None; likewise `videos` (arrays
                of frames) and `audio` (waveforms; an array of two axes is one sound with its channels).
            text: one prompt or one for each row.
            sampling_rate: of `audio`; checked against the processor's.

        Returns:
            `input_ids`, `attention_mask`; `pixel_values` (M, 3, H, W) with `pixel_index` (B, K);
            `video_values` (M, 3, T, H, W) with `video_index`; `audio_values` (M, S) with `audio_index`.
        """
        unknown = set(unused) - {"return_tensors", "padding"}
        padded = unused.get("padding", True) in (True, "longest")
        if unknown or unused.get("return_tensors", "pt") != "pt" or not padded:
            raise UserError(
                f"processor: cannot use {unused}: it returns PyTorch tensors, padded to the longest row"
            )
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise UserError(f"audio: {sampling_rate} Hz: resample to {self.sampling_rate} Hz first")
        texts = [text] if isinstance(text, str) else text
        if texts is None or len(texts) > 1:
            require_one_sound(audio)
        batch: dict[str, Tensor] = {}
        if texts is not None:
            batch |= self.text(texts)
        for name, values, transform, rank in (
            ("pixel", images, self.image, 3),
            ("video", videos, self.video, 4),
            ("audio", audio, self.audio, 2),
        ):
            if values is not None:
                batch |= stack_media(name, values, transform, rank)
        rows = {key: len(batch[key]) for key in batch if key == "input_ids" or key.endswith("_index")}
        if len(set(rows.values())) > 1:
            raise UserError(
                f"processor: texts and media for different numbers of rows: {rows}: pass several as a list"
            )
        return BatchFeature(batch)

    def batch_decode(self, ids_BT: Any, **unused: Any) -> list[str]:
        """Generated ids to texts."""
        return [self.tokenizer.decode_text(ids) for ids in ids_BT]

    def decode(self, ids_T: Any, **unused: Any) -> str:
        """Generated ids of one row to text."""
        return self.tokenizer.decode_text(ids_T)

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **unused: Any
    ) -> list[str]:
        """Generated ids to texts, for transformers' pipelines."""
        return self.batch_decode(generated_outputs)

    # Files

    def to_dict(self) -> dict[str, Any]:
        """The settings."""
        place = {"processor_class": type(self).__name__, "auto_map": portable.AUTO_MAP}
        return {**asdict(self.settings), **place}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings}, vocabulary of {len(self.tokenizer)})"

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **hub: Any) -> list[str]:
        """Write the settings, the tokenizer and, for those who have not this package, the code into a folder.

        Args:
            save_directory: the folder.
            push_to_hub: upload them, too, to `repo_id`, or to a repository of the folder's name.
            hub: other arguments of `push_to_hub`.
        """
        folder = Path(save_directory)
        if not (folder / "config.json").is_file():  # else that of the model is there
            portable.write_code(folder)
        files.write_json(folder / SETTINGS_FILE, self.to_dict())
        written = [str(folder / SETTINGS_FILE), *self.tokenizer.save_pretrained(folder)]
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", folder.name), **hub)
        return written

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, **arguments: Any
    ) -> "UnivalProcessor":
        """Read a processor from a model folder or from the hub.

        Args:
            pretrained_model_name_or_path: a folder, or a name on the hub.
            arguments: settings, which override the saved ones, and where to look (`revision`, `cache_dir`,
                `subfolder`, ...). What transformers says of itself is dropped: names that start with `_`, and
                in a pipeline, which gives all parts the arguments of the model, whatever is no setting.

        Raises:
            UserError: the folder has no processor or an unknown setting.
            OSError: the hub and its cache have none.
        """
        hub = {name: arguments.pop(name) for name in _HUB if name in arguments}
        folder = _folder(pretrained_model_name_or_path, hub)
        path = folder / SETTINGS_FILE
        if not path.is_file():
            raise UserError(f"{folder}: no processor there: it has no {path.name}")
        saved = files.read_json(path)
        names = {field.name for field in fields(ProcessorSettings)}
        settings = {
            name: value
            for name, value in arguments.items()
            if name in names or not ("_from_pipeline" in arguments or name in _OF_CODE or name[0] == "_")
        }
        tokenizer = UnivalTokenizer.from_folder(folder)
        try:
            return cls(tokenizer, **{**saved, **settings})
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _folder(name: Any, hub: Mapping[str, Any]) -> Path:
    """The folder that holds the processor's files: the one of that name, or the cache's of a hub name.

    Raises:
        OSError: neither the hub nor the cache has them.
    """
    if Path(name).is_dir():
        return Path(name, hub.get("subfolder", ""))
    # one revision of a repository is one folder of the cache
    cached = [cached_file(str(name), file, **hub) for file in (SETTINGS_FILE, *TOKENIZER_FILES)]
    return Path(str(cached[0])).parent


AutoTokenizer.register(UnivalConfig, fast_tokenizer_class=UnivalTokenizer)
AutoProcessor.register(UnivalConfig, UnivalProcessor)
