"""Clips in odd forms: the frames that a player shows, turned as it turns them, or an error."""

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from unival import limits
from unival.data import media
from unival.errors import UserError

RAMP = np.stack([np.full((48, 64, 3), n * 5, np.uint8) for n in range(48)])
"""Frames that tell their number by their brightness."""
FINE = {"mpeg4": {"qscale": "2", "flags": "+qscale"}}
CODECS = [
    ("mp4", "mpeg4", {"g": "250"}),
    ("mp4", "libx264", {"g": "12", "bf": "2"}),
    ("mov", "libx264", {"g": "12", "bf": "2"}),
    ("mov", "mpeg2video", {"g": "12", "bf": "2"}),
    ("matroska", "libx264", {"g": "12", "bf": "2"}),
    ("matroska", "mpeg4", {"g": "250"}),
    ("avi", "mpeg4", {"g": "250"}),
    ("avi", "mpeg4", {"bf": "2"}),
    ("avi", "libx264", {"bf": "2"}),
    ("webm", "libvpx-vp9", {}),
    ("gif", "gif", {}),
]


def encoded(
    frames: np.ndarray,
    container: str = "mp4",
    codec: str = "mpeg4",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    prepare: Callable[[Any], None] = lambda stream: None,
) -> bytes:
    """`times`: of the frames, in eighths of a second."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=8, options={**FINE.get(codec, {}), **(options or {})})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        prepare(stream)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 8)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def copied(data: bytes, container: str, change: Callable[[list[Any], Any], list[Any]]) -> bytes:
    """The packets of a clip, changed, in a new container; nothing is encoded again."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format=container) as target:
        track = source.streams.video[0]
        copy = target.add_stream_from_template(track)
        for packet in change([packet for packet in source.demux(track) if packet.dts is not None], track):
            packet.stream = copy
            target.mux(packet)
    return out.getvalue()


def cut(data: bytes, container: str, start: int) -> bytes:
    """From frame `start` on: times before it are negative."""

    def earlier(packets: list[Any], track: Any) -> list[Any]:
        shift = int(start / 8 / track.time_base)
        for packet in packets:
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        return packets

    return copied(data, container, earlier)


def shown(data: bytes) -> np.ndarray:
    """Brightness of all frames that FFmpeg gives."""
    with av.open(io.BytesIO(data)) as file:
        return np.array([frame.to_ndarray(format="rgb24").mean() for frame in file.decode(video=0)])


def check_sampled(data: bytes) -> np.ndarray:
    """Sampling picks from the shown frames, whatever the number; returns their brightness."""
    levels = shown(data)
    assert np.allclose(media.decode_video(data, "x").reshape(len(levels), -1).mean(1), levels, atol=1)
    for wanted in (1, 4, 7, 64):
        drawn = media.decode_video(data, "x", wanted).reshape(wanted, -1).mean(1)
        assert np.allclose(drawn, levels[media.segment_frames(len(levels), wanted)], atol=1)
        places = media.segment_frames(len(levels), wanted, np.random.default_rng(wanted))
        drawn = (
            media.decode_video(data, "x", wanted, np.random.default_rng(wanted)).reshape(wanted, -1).mean(1)
        )
        assert len(levels) < len(RAMP) or np.allclose(drawn, levels[places], atol=1)
    return levels


@pytest.mark.parametrize(("container", "codec", "options"), CODECS)
def test_whole_clips_give_their_frames(container: str, codec: str, options: dict[str, str]) -> None:
    data = encoded(RAMP, container, codec, options)
    levels = check_sampled(data)
    assert np.allclose(levels, RAMP.reshape(48, -1).mean(1), atol=20 if codec == "gif" else 4)
    assert media.describe("video", data, "x") == (64, 48)


@pytest.mark.parametrize("start", [3, 12, 32, 44])
@pytest.mark.parametrize(
    ("container", "codec", "options"), [form for form in CODECS if form[0] in ("mp4", "mov")]
)
def test_frames_before_a_cut_are_not_shown(
    container: str, codec: str, options: dict[str, str], start: int
) -> None:
    data = cut(encoded(RAMP, container, codec, options), container, start)
    levels = check_sampled(data)
    assert np.allclose(levels, RAMP[start:].reshape(48 - start, -1).mean(1), atol=4)
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.video[0].frames > len(levels), "the container declares the hidden ones too"


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "open-gop=1:bframes=2:keyint=12:scenecut=0"}),
        ("mpeg2video", {"bf": "2", "g": "12"}),
    ],
)
@pytest.mark.parametrize("container", ["matroska", "mov", "mp4"])
def test_a_cut_at_an_open_group_has_frames_whose_references_are_gone(
    codec: str, options: dict[str, str], container: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 9, RAMP.shape, dtype=np.uint8)

    def from_second_key(packets: list[Any], track: Any) -> list[Any]:
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        return packets[keys[1] :]

    data = copied(encoded(RAMP + noise, "matroska", codec, options), container, from_second_key)
    with av.open(io.BytesIO(data)) as file:
        assert len(check_sampled(data)) < sum(packet.size > 0 for packet in file.demux(video=0))


def test_frames_that_an_avi_dropped_are_not_counted() -> None:
    times = (np.arange(48) + np.arange(48) // 3 * 5).tolist()  # five of eight: chunks of no bytes
    data = encoded(RAMP, "avi", times=times)
    assert len(check_sampled(data)) == 48
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.video[0].frames > 120


@pytest.mark.parametrize("declared", [0, 10, 5000])
def test_a_wrong_number_in_the_header_is_not_believed(declared: int) -> None:
    data = bytearray(encoded(RAMP, "avi"))
    length = data.index(b"strh") + 8 + 32
    data[length : length + 4] = declared.to_bytes(4, "little")
    assert len(check_sampled(bytes(data))) == 48


def test_packets_that_give_no_frame_are_not_counted() -> None:
    """Of MPEG-4: a picture that is not coded, as encoders write it to drop a frame."""

    def dropped(packets: list[Any], track: Any) -> list[Any]:
        for number in range(5, 40, 3):
            old, packets[number] = packets[number], av.Packet(bytes.fromhex("000001b6517f"))
            packets[number].pts, packets[number].dts = old.pts, old.dts
            packets[number].time_base = old.time_base
        return packets

    assert len(check_sampled(copied(encoded(RAMP, "avi", "mpeg4", {"g": "250"}), "avi", dropped))) == 36


def test_frames_of_uneven_length_count_once_each() -> None:
    times = np.cumsum([1, 7, 2, 30] * 12).tolist()
    for container in ("mp4", "matroska"):
        assert len(check_sampled(encoded(RAMP, container, times=times))) == 48


SCENE = np.zeros((8, 48, 64, 3), np.uint8)
SCENE[:, :24, :32], SCENE[:, :24, 32:], SCENE[:, 24:, :32], SCENE[:, 24:, 32:] = (
    (200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 200),
)  # fmt: skip
"""A colour in each corner."""
TURNED = [
    ((1, 0, 0, 1), lambda image: image),
    ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    ((0, -1, 1, 0), lambda image: np.rot90(image)),
    ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    ((1, 0, 0, -1), lambda image: image[::-1]),
    ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
]
"""a, b, c, d of a display matrix, and what a player shows."""


def with_matrix(corners: Sequence[float], container: str) -> bytes:
    a, b, c, d = (round(value * 65536) for value in corners)

    def prepare(stream: Any) -> None:
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])

    return encoded(SCENE, container, prepare=prepare)


@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize(("corners", "player"), TURNED)
def test_a_display_matrix_turns_frames_and_size(
    corners: tuple[int, ...], player: Callable[[np.ndarray], np.ndarray], container: str
) -> None:
    data = with_matrix(corners, container)
    wanted = player(SCENE[0]).astype(int)
    frames = media.decode_video(data, "x", 2)
    assert frames.shape[1:] == wanted.shape
    assert np.median(np.abs(frames[0] - wanted)) < 8
    assert media.describe("video", data, "x") == (wanted.shape[1], wanted.shape[0])


@pytest.mark.parametrize("degrees", [-90, 90, 180, 270])
@pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
def test_degrees_turn_to_the_left(degrees: int, container: str) -> None:
    data = encoded(SCENE, container, prepare=lambda stream: stream.set_display_rotation(degrees))
    wanted = np.rot90(SCENE[0], degrees // 90)
    frames = media.decode_video(data, "x", 2)
    assert frames.shape[1:] == wanted.shape and np.median(np.abs(frames[0].astype(int) - wanted)) < 8


@pytest.mark.fault
def test_a_clip_that_is_shown_at_a_slant_is_refused() -> None:
    data = encoded(SCENE, prepare=lambda stream: stream.set_display_rotation(30))
    for read in (lambda: media.decode_video(data, "x", 2), lambda: media.describe("video", data, "x")):
        with pytest.raises(UserError, match=r"^x: shown turned by -?(29|30) deg"):
            read()


def with_cover(frames: np.ndarray, container: str, first: bool, marked: bool) -> bytes:
    """A clip beside a track of one white picture, which `marked` says to be a cover."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        names = ["mjpeg", "mpeg4"] if first else ["mpeg4", "mjpeg"]
        streams: dict[str, Any] = {
            name: file.add_stream(name, rate=8) for name in names[: 2 if len(frames) else 1]
        }
        for name, stream in streams.items():
            stream.height, stream.width = 48, 64
            stream.pix_fmt = "yuvj420p" if name == "mjpeg" else "yuv420p"
        if marked:
            streams["mjpeg"].disposition = Disposition.attached_pic
        cover = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255, np.uint8), "rgb24").reformat(
            format="yuvj420p"
        )
        cover.pts = 0
        file.mux([*streams["mjpeg"].encode(cover), *streams["mjpeg"].encode(None)])
        for pixels in frames:
            file.mux(streams["mpeg4"].encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        if len(frames):
            file.mux(streams["mpeg4"].encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("marked", [True, False])
def test_a_track_of_one_picture_is_no_clip(container: str, first: bool, marked: bool) -> None:
    drawn = media.decode_video(with_cover(RAMP, container, first, marked), "x", 4).reshape(4, -1).mean(1)
    assert np.allclose(drawn, RAMP[media.segment_frames(48, 4)].reshape(4, -1).mean(1), atol=4)
    alone = with_cover(RAMP[:0], container, True, marked)
    for read in (lambda: media.decode_video(alone, "x", 4), lambda: media.describe("video", alone, "x")):
        with pytest.raises(UserError, match=r"^x: (not a clip|has no video stream)"):
            read()


@pytest.mark.fault
@pytest.mark.parametrize(
    "limit, most", [("CLIP_FRAMES", 40), ("CLIP_PIXELS", 4 * 48 * 64), ("PICTURE_PIXELS", 48 * 64 - 1)]
)
def test_clips_beyond_the_limits_are_refused(monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    data = encoded(RAMP)
    monkeypatch.setattr(limits, limit, most)
    with pytest.raises(UserError, match=rf"^x: .*more than {most}"):
        media.decode_video(data, "x", 5)
