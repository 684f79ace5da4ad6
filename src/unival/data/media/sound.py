"""Sounds, by PyAV; 16-bit wav by NumPy alone. Their channels are averaged, samples are float32 in [-1, 1].

FFmpeg's own way to one channel adds them with weights that sum to more than 1: loud stereo would be clipped.
"""

import io
import wave
from typing import Any

import numpy as np

from unival import limits, media_format
from unival.data.media.reading import check_size, check_time, reading
from unival.errors import UserError

BLOCK = 2**20
"""Samples that are resampled at a time."""


def decode_audio(data: bytes, name: str, sampling_rate: int | None = None) -> np.ndarray:
    """Decode to float32 mono of shape (samples,), resampled to `sampling_rate` (kept where None).

    Raises:
        UserError: not a sound, one without samples, too long, or beyond any sound's level.
    """
    with reading(name, "readable as sound"):
        samples_S, rate = _pcm16(data) or _decoded(_whole_containers(data), name)
        if not samples_S.size:
            raise UserError(f"{name}: not readable as sound: it has no samples")
        _check_length(samples_S.size, rate, name)
        media_format.check_level(samples_S, name)
        if sampling_rate not in (None, rate):
            samples_S = _resampled(samples_S, rate, sampling_rate)
    return np.ascontiguousarray(samples_S)


def _check_length(samples: int, rate: int, name: str) -> None:
    if samples > limits.SOUND_SECONDS * rate or samples > limits.SOUND_SAMPLES:
        most = f"{limits.SOUND_SECONDS} s or {limits.SOUND_SAMPLES} samples"
        raise UserError(f"{name}: a sound of more than {most}: cut it")


def _pcm16(data: bytes) -> tuple[np.ndarray, int] | None:
    """16-bit wav, ten times faster than through FFmpeg; None for anything else, or where sizes do not fit."""
    if data[:4] != b"RIFF":
        return None
    try:
        with wave.open(io.BytesIO(data)) as reader:
            channels, width, rate, frames = reader.getparams()[:4]
            levels = np.frombuffer(reader.readframes(frames) if width == 2 else b"", "<i2")
    except Exception:  # FFmpeg has the last word
        return None
    if not levels.size or levels.size != frames * channels:
        return None
    samples_S = media_format.mono(levels.reshape(-1, channels).T)
    samples_S /= np.float32(32768)
    return samples_S, rate


def _whole_containers(data: bytes) -> bytes:
    """A wav whose samples are narrower than their containers, with a header that FFmpeg reads rightly.

    By WAVE_FORMAT_EXTENSIBLE 24 valid bits in 32 lie at the upper end, so that they are samples of 32 bits.
    FFmpeg takes the number of valid bits for the width.
    """
    riff, place = data[:4] in (b"RIFF", b"RF64"), 12
    while riff and place + 40 <= len(data) and data[place : place + 4] != b"fmt ":
        place += 8 + (int.from_bytes(data[place + 4 : place + 8], "little") + 1) // 2 * 2
    tag, width, valid = (data[place + at : place + at + 2] for at in (8, 22, 26))
    if not riff or tag != b"\xfe\xff" or width == valid:
        return data
    return data[: place + 26] + width + data[place + 28 :]


def _decoded(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Samples and their rate, by FFmpeg."""
    import av

    blocks, total = [np.zeros(0, np.float32)], 0
    with av.open(io.BytesIO(data), "r") as container:
        if not container.streams.audio:
            raise UserError(f"{name}: has no audio stream")
        stream: Any = container.streams.audio[0]
        if stream.codec_context is None:
            raise UserError(f"{name}: not readable as sound: its codec is unknown")
        rate = 0
        for frame in container.decode(stream):
            if rate not in (0, frame.sample_rate):
                raise UserError(f"{name}: its sampling rate changes: encode it again")
            rate = frame.sample_rate
            blocks.append(_mono(frame))
            total += frame.samples
            _check_length(total, rate, name)
            check_size(total, "samples", name)
            check_time(name)
    return np.concatenate(blocks), rate


def _mono(frame: Any) -> np.ndarray:
    """A frame of any sample format, scaled to [-1, 1]."""
    levels = frame.to_ndarray()
    channels_CS = levels if frame.format.is_planar else levels.reshape(-1, frame.layout.nb_channels).T
    samples_S = media_format.mono(channels_CS)
    if levels.dtype.kind == "u":
        samples_S -= np.float32(128)
    if levels.dtype.kind in "ui":
        samples_S /= np.float32(2 ** (8 * levels.itemsize - 1))
    return samples_S


def _resampled(samples_S: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    import av

    resampler = av.AudioResampler("flt", "mono", wanted)
    blocks = []
    for start in range(0, len(samples_S), BLOCK):
        frame = av.AudioFrame.from_ndarray(samples_S[None, start : start + BLOCK], "flt", "mono")
        frame.sample_rate = rate
        blocks += resampler.resample(frame)
    blocks += resampler.resample(None)
    return np.concatenate([block.to_ndarray()[0] for block in blocks])


def encode_wav(samples: np.ndarray, sampling_rate: int) -> bytes:
    """Encode float samples in [-1, 1] as 16-bit mono wav."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sampling_rate)
        writer.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    return buffer.getvalue()
