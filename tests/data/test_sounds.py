"""Sounds in odd forms: channels are averaged, samples are what the header means, or the sound is refused."""

import io
import struct
import wave
from typing import Any

import numpy as np
import pytest

from unival import limits
from unival.data import media
from unival.errors import UserError

RATE = 8000
TONE = 0.95 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
PCM = bytes.fromhex("0100000000001000800000aa00389b71")
"""The sub-format of WAVE_FORMAT_EXTENSIBLE that is whole numbers."""


def wav(
    body: bytes, tag: int = 1, bits: int = 16, channels: int = 1, extra: bytes = b"", **sizes: int
) -> bytes:
    """A wav file; `riff` and `data` are sizes that its header claims."""
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, RATE, RATE * frame, frame, bits) + extra
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", sizes.get("data", len(body))) + body
    return b"RIFF" + struct.pack("<I", sizes.get("riff", len(chunks))) + chunks


def pcm(samples: np.ndarray, bits: int = 16) -> bytes:
    """Little-endian whole numbers of so many bits, full scale being their largest."""
    levels = (samples * (2 ** (bits - 1) - 1)).round().astype("<i8")
    if bits == 8:
        return (levels + 128).astype("u1").tobytes()
    return np.ascontiguousarray(levels[..., None].view("u1")[..., : bits // 8]).tobytes()


def extensible(body: bytes, bits: int, valid: int, channels: int = 1, mask: int = 0) -> bytes:
    return wav(body, 0xFFFE, bits, channels, struct.pack("<HHI", 22, valid, mask) + PCM)


FORMS = {
    "8 bits": (wav(pcm(TONE, 8), bits=8), 0.012),
    "16 bits": (wav(pcm(TONE)), 1e-4),
    "24 bits": (wav(pcm(TONE, 24), bits=24), 1e-6),
    "32 bits": (wav(pcm(TONE, 32), bits=32), 1e-6),
    "float": (wav(TONE.astype("<f4").tobytes(), 3, 32), 1e-6),
    "double": (wav(TONE.astype("<f8").tobytes(), 3, 64), 1e-6),
    "16 bits, extensible": (extensible(pcm(TONE), 16, 16), 1e-4),
    "24 bits, extensible": (extensible(pcm(TONE, 24), 24, 24), 1e-6),
    "24 bits in 32": (extensible(pcm(TONE, 32), 32, 24), 1e-6),
    "20 bits in 32": (extensible(pcm(TONE, 32), 32, 20), 1e-6),
    "20 bits in 24": (extensible(pcm(TONE, 24), 24, 20), 1e-6),
    "16 bits in 24": (extensible(pcm(TONE, 24), 24, 16), 1e-6),
    "12 bits in 16": (extensible(pcm(TONE), 16, 12), 1e-4),
    "valid bits not told": (extensible(pcm(TONE, 32), 32, 0), 1e-6),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_wav_of_any_width_is_the_same_sound(form: str) -> None:
    data, tolerance = FORMS[form]
    assert np.abs(media.decode_audio(data, "x") - TONE).max() < tolerance
    media.describe("audio", data, "x")


@pytest.mark.parametrize("codec, name", [(7, "mu-law"), (6, "A-law")])
def test_telephone_codes_are_decoded(codec: int, name: str) -> None:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as file:
        stream = file.add_stream({7: "pcm_mulaw", 6: "pcm_alaw"}[codec], rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm(TONE), "<i2")[None], "s16", "mono")
        frame.sample_rate = RATE
        file.mux([*stream.encode(frame), *stream.encode(None)])
    assert struct.unpack_from("<H", buffer.getvalue(), 20) == (codec,), name
    assert np.abs(media.decode_audio(buffer.getvalue(), "x") - TONE).max() < 0.03


@pytest.mark.parametrize("channels", [2, 3, 5, 6, 8])
@pytest.mark.parametrize("form", ["16 bits", "24 bits", "float", "extensible"])
def test_channels_are_averaged_however_many(channels: int, form: str) -> None:
    gains = np.linspace(1, 0.2, channels)
    both = TONE[:, None] * gains
    data = {
        "16 bits": lambda: wav(pcm(both), channels=channels),
        "24 bits": lambda: wav(pcm(both, 24), bits=24, channels=channels),
        "float": lambda: wav(both.astype("<f4").tobytes(), 3, 32, channels),
        "extensible": lambda: extensible(pcm(both), 16, 16, channels, (1 << channels) - 1),
    }[form]()
    assert np.abs(media.decode_audio(data, "x") - TONE * gains.mean()).max() < 1e-3
    equal = wav(pcm(np.repeat(TONE[:, None], channels, 1)), channels=channels)
    assert np.abs(media.decode_audio(equal, "x", 2 * RATE)).max() < 0.96, "as loud as one channel"


@pytest.mark.parametrize(
    "container, codec", [("flac", "flac"), ("mp4", "aac"), ("ogg", "libopus"), ("mp3", "libmp3lame")]
)
def test_compressed_stereo_is_as_loud_as_mono(container: str, codec: str) -> None:
    import av

    rate, buffer = 48_000, io.BytesIO()
    tone = (0.95 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
    with av.open(buffer, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or None
        cutter = av.AudioResampler(stream.format.name, "stereo", rate, size)
        for part in [*cutter.resample(frame), *cutter.resample(None), None]:
            file.mux(stream.encode(part))
    middle = media.decode_audio(buffer.getvalue(), "x", rate)[rate // 4 : rate // 2]
    assert abs(np.abs(middle).max() - 0.95) < 0.06


@pytest.mark.parametrize("size", [0, 2_000_000_000, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_header_written_into_a_pipe_is_read_to_the_end(size: int, channels: int) -> None:
    body = pcm(np.repeat(TONE[:, None], channels, 1))
    for riff in (0 if not size else min(size + 36, 0xFFFFFFFF), len(body) + 36):
        data = wav(body, channels=channels, data=size, riff=riff)
        media.describe("audio", data, "x")
        assert np.abs(media.decode_audio(data, "x") - TONE).max() < 1e-3


@pytest.mark.fault
@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf, 1e30, -40_000.0])
def test_samples_beyond_any_sound_are_refused(sample: float) -> None:
    for kind, bits in (("<f4", 32), ("<f8", 64)):
        for channels in (1, 2):
            samples = np.append(TONE[: 2 * channels], np.full(channels, sample)).astype(kind)
            with pytest.raises(UserError, match=r"^x: (sound with NaN or inf|samples of up to)"):
                media.decode_audio(wav(samples.tobytes(), 3, bits, channels), "x", RATE)


def test_a_sound_somewhat_over_full_scale_is_kept() -> None:
    loud = media.decode_audio(wav((3 * TONE).astype("<f4").tobytes(), 3, 32), "x")
    assert abs(loud.max() - 2.85) < 1e-3


@pytest.mark.fault
def test_sounds_beyond_the_limits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mono, stereo = wav(pcm(TONE)), wav(pcm(np.stack([TONE, TONE], 1), 24), bits=24, channels=2)
    for limit, most in (("SOUND_SECONDS", 0.5), ("SOUND_SAMPLES", 4000)):
        with monkeypatch.context() as patch:
            patch.setattr(limits, limit, most)
            for data in (mono, stereo):
                with pytest.raises(UserError, match=r"^x: a sound of more than .* cut it"):
                    media.decode_audio(data, "x")


def test_a_wav_read_by_numpy_is_read_alike_by_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(-32768, 32768, (4000, 2))
    data = wav(noise.astype("<i2").tobytes(), channels=2)
    quick = media.decode_audio(data, "x")
    monkeypatch.setattr(wave, "open", lambda *_: 1 / 0)
    assert np.array_equal(media.decode_audio(data, "x"), quick)
