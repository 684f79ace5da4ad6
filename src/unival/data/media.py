"""Decode and encode images (Pillow), video and audio (PyAV, which carries its own FFmpeg).

Every decoder takes bytes and a name for messages, and raises UserError with that name and the reason.
Axes: H height, W width, T time, C = 3 channels (RGB). Pixels are uint8, sound is float32 in [-1, 1].
"""

import io
import itertools
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from unival.data.containers import cut_short
from unival.errors import UserError
from unival.record import Medium

SUFFIXES: dict[str, Medium] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".webp"), "image"),
    **dict.fromkeys((".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif"), "video"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".mp3", ".m4a", ".opus"), "audio"),
}
MAX_PIXELS = 64_000_000
"""A larger image or frame is refused: a header of a few bytes can claim any size."""
MAX_SECONDS = 3600.0
"""Longer sound is refused."""
ORIENTATION = 0x0112
"""EXIF's number of it; from 5 on the picture lies on its side."""


@contextmanager
def _reading(name: str, what: str) -> Iterator[None]:
    """What a decoder complains of, as a UserError.

    Parsers of other libraries meet arbitrary bytes here and fail with whatever their code happens to raise
    (struct.error, RuntimeError, AttributeError, ...), so every Exception is caught.
    """
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError as error:  # its own words hold an address in memory
        raise UserError(f"{name}: not {what}: no known format of images") from error
    except Exception as error:
        reason = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
        raise UserError(f"{name}: not {what}: {reason.splitlines()[0][:200]}") from error


def open_image(data: bytes, name: str) -> Image.Image:
    """Decode one image to RGB, its EXIF orientation applied."""
    with _reading(name, "a readable image"), Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(f"{name}: {image.width}x{image.height}: more than {MAX_PIXELS} pixels")
        image.load()
        upright = image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
        return upright if upright.mode == "RGB" else upright.convert("RGB")


def decode_image(data: bytes, name: str) -> np.ndarray:
    """The pixels of `open_image`, uint8 HWC."""
    return np.asarray(open_image(data, name))


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) that `decode_image` will give, from the header alone."""
    with _reading(name, "a readable image"), Image.open(io.BytesIO(data)) as image:
        sideways = image.getexif().get(ORIENTATION, 1) >= 5
        return (image.height, image.width) if sideways else (image.width, image.height)


def encode_image(image_HWC: np.ndarray, suffix: str = ".png", quality: int = 95) -> bytes:
    """Encode uint8 HWC RGB as PNG (lossless) or JPEG. Equal pixels give equal bytes."""
    buffer = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(image_HWC).save(buffer, "PNG", compress_level=1)
    else:
        Image.fromarray(image_HWC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def segment_frames(total: int, wanted: int, rng: np.random.Generator | None = None) -> list[int]:
    """Indices of `wanted` frames out of `total`: one per equal segment, its middle one, or a random one.

    As the original samples them (docs/reference.md 1.6): a segment's last frame is never drawn, and where
    there are fewer frames than wanted the last one repeats. The middle makes evaluation
    deterministic, which the original's was not.
    """
    edges = np.linspace(0, total, min(wanted, total) + 1).astype(int).tolist()
    segments = [(start, end - 1) for start, end in itertools.pairwise(edges)]
    if rng is None:
        indices = [(first + last) // 2 for first, last in segments]
    else:
        indices = [int(rng.integers(first, max(last, first + 1))) for first, last in segments]
    return indices + indices[-1:] * (wanted - len(indices))


def decode_video(
    data: bytes, name: str, num_frames: int | None = None, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Decode `num_frames` frames (all where None) to uint8 THWC RGB; only those are converted."""
    import av

    with _reading(name, "a readable video"), av.open(io.BytesIO(data), "r") as container:
        stream = _video_stream(container, name)
        total = stream.frames if num_frames and stream.frames else _count_frames(container, stream)
        wanted = segment_frames(total, num_frames, rng) if num_frames and total else list(range(total))
        frames = _convert_frames(container, stream, set(wanted))
    if not frames:
        raise UserError(f"{name}: not a readable video: it has no frames")
    last = max(frames)  # a header may promise more frames than there are: the last one stands in
    return np.stack([frames.get(index, frames[last]) for index in wanted])


def _video_stream(container: Any, name: str) -> Any:
    if not container.streams.video:
        raise UserError(f"{name}: has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise UserError(f"{name}: not a readable video: its codec is unknown")
    if (stream.width or 0) * (stream.height or 0) > MAX_PIXELS:
        raise UserError(f"{name}: frames of {stream.width}x{stream.height}: more than {MAX_PIXELS} pixels")
    stream.thread_count = 1  # a pool of decoder threads costs more than a small clip
    return stream


def _count_frames(container: Any, stream: Any) -> int:
    count = sum(packet.size > 0 for packet in container.demux(stream))
    container.seek(0)
    return count


def _convert_frames(container: Any, stream: Any, wanted: set[int]) -> dict[int, np.ndarray]:
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for all frames: making it costs more than a small frame
    frames: dict[int, np.ndarray] = {}
    last_wanted, last_frame, last_index = max(wanted, default=-1), None, -1
    for index, frame in enumerate(container.decode(stream)):
        last_frame, last_index = frame, index
        if index in wanted:
            frames[index] = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if index >= last_wanted:
            return frames
    if last_frame is not None and last_index not in frames:
        frames[last_index] = reformatter.reformat(last_frame, format="rgb24", threads=1).to_ndarray()
    return frames


def encode_video(frames_THWC: np.ndarray, rate: int = 8) -> bytes:
    """Encode uint8 frames of even height and width as MPEG-4 in mp4, nearly lossless."""
    import av
    from av.video.reformatter import VideoReformatter

    buffer = io.BytesIO()
    reformatter = VideoReformatter()
    options = {"qscale": "2", "flags": "+qscale+bitexact"}
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("mpeg4", rate=rate, options=options)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for pixels in frames_THWC:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(reformatter.reformat(frame, format="yuv420p", threads=1)))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode_audio(data: bytes, name: str, sampling_rate: int | None = None) -> np.ndarray:
    """Decode to float32 mono of shape (samples,), resampled to `sampling_rate` (kept where None)."""
    quick = _decode_pcm16(data, sampling_rate)
    if quick is not None:
        return _checked_audio(quick, name)
    import av

    with _reading(name, "readable as sound"), av.open(io.BytesIO(data), "r") as container:
        if not container.streams.audio:
            raise UserError(f"{name}: has no audio stream")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise UserError(f"{name}: not readable as sound: its codec is unknown")
        if stream.duration and stream.time_base and stream.duration * stream.time_base > MAX_SECONDS:
            raise UserError(f"{name}: longer than {MAX_SECONDS:.0f} s")
        resampler = av.AudioResampler("flt", "mono", sampling_rate or stream.rate)
        frames = itertools.chain(container.decode(stream), (None,))  # None: what is left
        chunks = [out.to_ndarray()[0] for frame in frames for out in resampler.resample(frame)]
    return _checked_audio(np.concatenate([np.zeros(0, np.float32), *chunks]), name)


def _decode_pcm16(data: bytes, sampling_rate: int | None) -> np.ndarray | None:
    """16-bit mono wav at the wanted rate, ten times faster than through FFmpeg; None for anything else."""
    if data[:4] != b"RIFF":
        return None
    try:
        with wave.open(io.BytesIO(data)) as reader:
            if (reader.getnchannels(), reader.getsampwidth()) != (1, 2):
                return None
            if sampling_rate not in (None, reader.getframerate()):
                return None
            samples = np.frombuffer(reader.readframes(reader.getnframes()), "<i2")
    except Exception:  # FFmpeg has the last word
        return None
    return samples.astype(np.float32) / 32768.0


def _checked_audio(samples: np.ndarray, name: str) -> np.ndarray:
    if samples.size == 0:
        raise UserError(f"{name}: not readable as sound: it has no samples")
    if not np.isfinite(samples).all():
        raise UserError(f"{name}: sound with NaN or infinite samples")
    return np.ascontiguousarray(samples, np.float32)


def encode_wav(samples: np.ndarray, sampling_rate: int) -> bytes:
    """Encode float samples in [-1, 1] as 16-bit mono wav."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sampling_rate)
        writer.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    return buffer.getvalue()


def describe(kind: Medium, data: bytes, name: str) -> tuple[int, int]:
    """Decode fully and return (width, height); (0, 0) for sound. Raises UserError where it cannot be read."""
    if cut_short(data):
        raise UserError(f"{name}: the file is cut short: get it again")
    if kind == "image":
        height, width = decode_image(data, name).shape[:2]
        return width, height
    if kind == "video":
        return _video_size(data, name)
    samples = len(decode_audio(data, name))
    if data[:4] == b"fLaC" and samples < int.from_bytes(data[21:26], "big") & (2**36 - 1):
        raise UserError(f"{name}: the file is cut short: get it again")
    return 0, 0


def _video_size(data: bytes, name: str) -> tuple[int, int]:
    """Decode every frame, converting none."""
    import av

    with _reading(name, "a readable video"), av.open(io.BytesIO(data), "r") as container:
        frames = container.decode(_video_stream(container, name))
        size = max(((frame.width, frame.height) for frame in frames), default=None)
    if size is None:
        raise UserError(f"{name}: not a readable video: it has no frames")
    return size


def kind_of(suffix: str, name: str) -> Medium:
    """The medium that a file suffix stands for."""
    kind = SUFFIXES.get(suffix.lower())
    if kind is None:
        raise UserError(f"{name}: unknown media suffix '{suffix}': known: {', '.join(sorted(SUFFIXES))}")
    return kind
