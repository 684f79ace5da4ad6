import io
import os
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unival import limits, media_format
from unival.data import media
from unival.data.media.reading import check_size
from unival.errors import UserError
from unival.files import read_bytes
from unival.record import Modality

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GRADIENT = np.linspace(0, 250, 32, dtype=np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2)


def clip(frames: int) -> np.ndarray:
    """Frames of growing brightness: frame t has level 10 + 20 t."""
    return np.stack([np.full((32, 32, 3), 10 + 20 * t, np.uint8) for t in range(frames)])


def test_png_is_lossless_and_its_bytes_repeat() -> None:
    data = media.encode_image(IMAGE)
    assert (media.decode_image(data, "x") == IMAGE).all()
    assert data == media.encode_image(IMAGE)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).convert(mode).save(buffer, "TIFF")
    assert media.decode_image(buffer.getvalue(), "x").shape == (20, 30, 3)


@pytest.mark.parametrize("total, wanted", [(8, 4), (8, 8), (7, 3), (3, 8), (1, 4), (120, 16)])
def test_segments_are_ordered_and_cover(total: int, wanted: int) -> None:
    middle = media.segment_frames(total, wanted)
    drawn = media.segment_frames(total, wanted, np.random.default_rng(0))
    for indices in (middle, drawn):
        assert len(indices) == wanted and indices == sorted(indices)
        assert indices[0] >= 0 and indices[-1] < total
    assert middle == media.segment_frames(total, wanted)


def test_random_frames_stay_in_their_segment() -> None:
    for seed in range(30):
        indices = media.segment_frames(16, 4, np.random.default_rng(seed))
        assert [index // 4 for index in indices] == [0, 1, 2, 3]


def test_video_round_trip_in_order() -> None:
    data = media.encode_video(clip(8))
    frames = media.decode_video(data, "x")
    assert frames.shape == (8, 32, 32, 3) and frames.dtype == np.uint8
    assert np.abs(frames.astype(int) - clip(8)).mean() < 3
    four = media.decode_video(data, "x", 4)
    assert np.abs(four[:, 0, 0, 0].astype(int) - [10, 50, 90, 130]).max() <= 3
    assert media.encode_video(clip(8)) == data


def test_more_frames_than_there_are_repeat() -> None:
    assert media.decode_video(media.encode_video(clip(2)), "x", 6).shape[0] == 6


def test_audio_round_trip_and_resampling() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    data = media.encode_wav(tone, 8000)
    samples = media.decode_audio(data, "x", 8000)
    assert samples.dtype == np.float32 and np.abs(samples - tone).max() < 1e-4
    doubled = media.decode_audio(data, "x", 16000)
    assert abs(len(doubled) - 16000) < 200
    spectrum = np.abs(np.fft.rfft(doubled))
    assert abs(np.argmax(spectrum) * 16000 / len(doubled) - 440) < 5


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["image", "video", "audio"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut", "zeros"])
def test_damaged_media_name_the_file(kind: str, damage: str) -> None:
    good = {
        "image": media.encode_image(IMAGE),
        "video": media.encode_video(clip(4)),
        "audio": media.encode_wav(np.zeros(800), 8000),
    }[kind]
    data = {"empty": b"", "text": b"not a medium at all" * 9, "cut": good[:40], "zeros": bytes(500)}[damage]
    with pytest.raises(UserError, match=r"^the/file\.x: "):
        media.describe(kind, data, "the/file.x")  # type: ignore[arg-type]


@pytest.mark.fault
def test_nan_sound_and_sound_without_samples_are_refused() -> None:
    with pytest.raises(UserError, match="no samples"):
        media.decode_audio(media.encode_wav(np.zeros(0), 8000), "x")
    buffer = io.BytesIO()
    import av

    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("pcm_f32le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.full((1, 400), np.nan, np.float32), "flt", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match="NaN"):
        media.decode_audio(buffer.getvalue(), "x")


@pytest.mark.fault
def test_a_picture_is_no_video_and_a_sound_has_no_frames() -> None:
    with pytest.raises(UserError, match="no video stream"):
        media.decode_video(media.encode_wav(np.zeros(800), 8000), "x")
    with pytest.raises(UserError, match="no audio stream"):
        media.decode_audio(media.encode_video(clip(4)), "x")


@pytest.mark.fault
def test_huge_dimensions_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PICTURE_PIXELS", 500)
    with pytest.raises(UserError, match="30x20"):
        media.decode_image(media.encode_image(IMAGE), "x")
    with pytest.raises(UserError, match="32x32"):
        media.decode_video(media.encode_video(clip(2)), "x")


def test_unknown_suffix_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"a\.txt: neither image, video nor sound.*\.png"):
        media.modality_of(".txt", "a.txt")


@pytest.mark.fault
def test_hundreds_of_damaged_files_give_user_errors_only() -> None:
    good = [
        ("image", media.encode_image(IMAGE)),
        ("image", media.encode_image(IMAGE, ".jpg")),
        ("video", media.encode_video(clip(4))),
        ("audio", media.encode_wav(np.sin(np.arange(2000)), 8000)),
    ]
    refused = 0
    for number in range(400):
        kind, data = good[number % len(good)]
        damaged = np.frombuffer(data, np.uint8).copy()
        at = RNG.integers(0, min(len(data), 200 if number % 3 else len(data)), 12)
        damaged[at] = RNG.integers(0, 256, 12)
        cut = len(data) if number % 5 else int(RNG.integers(0, len(data)))
        try:
            media.describe(kind, damaged[:cut].tobytes(), "x")  # type: ignore[arg-type]
        except UserError as error:
            refused += 1
            assert str(error).startswith("x: ")
    assert refused > 100


def muxed(kind: str, container: str, codec: str, folder: Path) -> bytes:
    """Two seconds of noise as a sound, or 25 frames of it as a clip; mp4 with its table of contents first."""
    import av

    path, rate = folder / "media", 48_000
    with av.open(path, "w", format=container, options={"movflags": "faststart"}) as file:
        if kind == "audio":
            stream = file.add_stream(codec, rate=rate)
            samples = RNG.normal(0, 0.2, (1, 2 * rate)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate = rate
            size = stream.codec_context.frame_size or None
            frames = av.AudioResampler(stream.format.name, "mono", rate, size).resample(frame)
        else:
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            pixels = RNG.integers(0, 255, (25, 48, 64, 3), dtype=np.uint8)
            frames = [av.VideoFrame.from_ndarray(image, format="rgb24") for image in pixels]
        for frame in frames:
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path.read_bytes()


CONTAINERS = [
    ("audio", "wav", "pcm_s16le"),
    ("audio", "flac", "flac"),
    ("audio", "ogg", "libopus"),
    ("audio", "mp3", "libmp3lame"),
    ("audio", "mp4", "aac"),
    ("video", "mp4", "libx264"),
    ("video", "mp4", "mpeg4"),
    ("video", "matroska", "libx264"),
    ("video", "webm", "libvpx-vp9"),
    ("video", "avi", "mpeg4"),
]


@pytest.mark.fault
@pytest.mark.parametrize(("kind", "container", "codec"), CONTAINERS)
def test_a_file_that_was_cut_anywhere_is_noticed(
    kind: Modality, container: str, codec: str, tmp_path: Path
) -> None:
    data = muxed(kind, container, codec, tmp_path)
    media.describe(kind, data, "whole")
    for end in [*np.linspace(1, len(data) - 2000, 12).astype(int).tolist(), len(data) - 40, len(data) - 2]:
        with pytest.raises(UserError, match=r"cut short|readable|no \w+ stream"):
            media.describe(kind, data[:end], f"cut at {end} of {len(data)}")


def test_an_mp3_is_measured_by_its_frames(tmp_path: Path) -> None:
    data = muxed("audio", "mp3", "libmp3lame", tmp_path)
    assert media.describe("audio", data + b"TAG" + bytes(125), "with a tag after it") == (0, 0)
    frame = 144_000 * 128 // 48_000
    with pytest.raises(UserError, match="cut short"):  # between two frames: the first tells how many
        media.describe("audio", data[: len(data) - 3 * frame], "cut")


def test_an_mp3_whose_length_is_in_fraunhofers_header(tmp_path: Path) -> None:
    data = muxed("audio", "mp3", "libmp3lame", tmp_path)
    first, info, frame = data.index(b"\xff\xfb"), data.index(b"Info"), 144_000 * 128 // 48_000
    second = data.index(data[first : first + 2], first + 4)
    header = bytes(32) + b"VBRI" + bytes(10) + data[info + 8 : info + 12]
    told = data[: first + 4] + header + bytes(second - first - 4 - len(header)) + data[second:]
    media.describe("audio", told, "whole")
    with pytest.raises(UserError, match="cut short"):
        media.describe("audio", told[: len(told) - 3 * frame], "cut")


@pytest.mark.fault
def test_only_regular_files_of_a_bounded_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match="not a regular file"):
            read_bytes(path)
    (tmp_path / "a.png").write_bytes(bytes(11))
    monkeypatch.setattr(limits, "MEDIUM_BYTES", 10)
    with pytest.raises(UserError, match=r"a\.png: more than 10 bytes"):
        read_bytes(tmp_path / "a.png")


PARTS = {
    # seconds of a clip of 16 frames, 8 a second -> its frames
    "all": ((0.0, 2.0), list(range(16))),
    "first half": ((0.0, 1.0), list(range(8))),
    "second half": ((1.0, 2.0), list(range(8, 16))),
    "between two frames": ((0.3, 0.6), [2, 3, 4]),
    "within one frame": ((0.51, 0.52), [4]),
    "beyond the end": ((1.75, 30.0), [14, 15]),
    "rounded": ((0.99999, 1.25001), [8, 9]),
}


@pytest.mark.parametrize(("part", "frames"), PARTS.values(), ids=PARTS)
def test_a_part_of_a_clip_is_its_own_frames(part: tuple[float, float], frames: list[int]) -> None:
    data = media.encode_video(np.stack([np.full((32, 32, 3), 10 + 15 * t, np.uint8) for t in range(16)]), 8)
    seen = media.decode_video(data, "x", part=part)[:, 0, 0, 0].astype(int)
    assert np.abs(seen - [10 + 15 * t for t in frames]).max() <= 3
    drawn = media.decode_video(data, "x", 4, np.random.default_rng(0), part)[:, 0, 0, 0].astype(int)
    wanted = media.segment_frames(len(frames), 4, np.random.default_rng(0))
    assert np.abs(drawn - [10 + 15 * frames[index] for index in wanted]).max() <= 3
    assert media.describe("video", data, "x", part) == (32, 32)


@pytest.mark.parametrize("part", [(2.0, 3.0), (1.0, 1.0), (1.5, 0.5), (-1.0, 1.0), (float("nan"), 1.0)])
def test_what_is_no_part_of_a_clip_is_refused(part: tuple[float, float]) -> None:
    data = media.encode_video(clip(8).repeat(2, axis=0), 8)
    with pytest.raises(UserError, match=r"x: .* is not a part of its 2\.00 s"):
        media.decode_video(data, "x", part=part)
    with pytest.raises(UserError, match=r"x: .* is not a part of its 2\.00 s"):
        media.describe("video", data, "x", part)


def test_large_media_within_bounds_are_decoded_one_at_a_time() -> None:
    """Small ones, and decoding without bounds, wait for nobody."""
    large, small = limits.LARGE_VALUES + 1, limits.LARGE_VALUES
    inside: list[int] = []
    together: list[int] = []

    def decode(values: int, seconds: float = 30.0) -> None:
        with media.within(seconds, 2**26):
            check_size(values, "pixels", "a.png")
            check_size(values, "pixels", "a.png")  # of the next frame: it has its room
            inside.append(values)
            together.append(inside.count(large))
            time.sleep(0.02)
            inside.remove(values)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(decode, [large, large, large, small, small, small]))
        assert max(together) == 1 and len(together) == 6
        with media.within(30.0, 2**26):
            check_size(large, "pixels", "a.png")
            pool.submit(decode, small).result()
            with pytest.raises(UserError, match=r"a\.png: other large media were decoded for 0.05 s"):
                pool.submit(decode, large, 0.05).result()
        pool.submit(decode, large).result()
    check_size(2**40, "pixels", "a.png")
    refused = pytest.raises(UserError, match=r"a\.wav: 67108865 samples, more than 67108864 together")
    with refused, media.within(30.0, 2**26):
        check_size(2**26 + 1, "samples", "a.wav")


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_grey_is_scaled_without_floats_of_the_whole_picture(kind: type) -> None:
    levels = np.tile(np.linspace(0, 1, 2048), (1024, 1))
    pixels = (levels if kind is np.float32 else levels * 65535).astype(kind)
    expected = np.rint(pixels * 255 if kind is np.float32 else pixels / 257).astype(np.uint8)
    image = Image.fromarray(pixels)
    tracemalloc.start()
    shown = media_format.rgb(image, "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (np.asarray(shown)[..., 0] == expected).all()
    assert peak < 2 * pixels.nbytes + 4 * levels.size
