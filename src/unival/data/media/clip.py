"""Video clips, by PyAV, which carries its own FFmpeg.

A clip is the frames that are shown, turned as its display matrix says. What a container declares of their
number is not asked: a clip cut without encoding it again holds frames before the cut, which the rest needs
and nobody sees, and an AVI counts frames that were dropped. So its packets are read, without decoding them.

T time, H height, W width, C = 3 colours; pixels are uint8.
"""

import bisect
import io
import itertools
from collections.abc import Collection, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from unival import limits
from unival.data.media.reading import check_size, check_time, reading
from unival.errors import UserError
from unival.media_format import UPRIGHT, Turn

Part = tuple[float, float]
"""Seconds of a clip, from its first shown frame."""
TICK = 1e-4
"""Seconds by which a time may be off: annotations are rounded."""
QUARTER = 1 / 60
"""Sine of the angle, about one degree, that a display matrix may be off a quarter turn, as in FFmpeg."""


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
    data: bytes,
    name: str,
    num_frames: int | None = None,
    rng: np.random.Generator | None = None,
    part: Part | None = None,
) -> np.ndarray:
    """`num_frames` of the shown frames (all where None) as uint8 THWC RGB; only those are converted.

    Args:
        part: what of the clip is meant; all of it where None.

    Raises:
        UserError: not a video, one without frames in the part, too large, or of changing size.
    """
    import av

    with reading(name, "a readable video"), av.open(io.BytesIO(data), "r") as container:
        stream, packets = _track(container, name)

        def chosen(times: list[int]) -> list[int]:
            first, end = _within(part, times, stream.time_base, name)
            total = end - first
            indices = segment_frames(total, num_frames, rng) if num_frames and total else range(total)
            return [first + index for index in indices]

        times = _announced(packets)
        wanted = chosen(times)
        pixels = len(set(wanted)) * stream.width * stream.height
        if pixels > limits.CLIP_PIXELS:
            raise UserError(f"{name}: {len(set(wanted))} frames of more than {limits.CLIP_PIXELS} pixels")
        check_size(pixels, "pixels of frames", name)
        frames, shown = _convert(stream, packets, set(wanted), name)
        if len(shown) != len(times) or (part and shown != times):
            wanted = chosen(shown)
            frames, _ = _convert(stream, packets, set(wanted), name)
    if not wanted:
        raise UserError(f"{name}: not a readable video: it has no frames")
    if len({frame.shape for frame in frames.values()}) > 1:
        raise UserError(f"{name}: the size of its frames changes: encode it again")
    return np.stack([frames[index] for index in wanted])


def video_size(data: bytes, name: str, part: Part | None = None) -> tuple[int, int]:
    """(width, height) as shown; every frame is decoded (to the end of the part), none converted.

    Raises:
        UserError: not a video, one without frames in the part, or of changing size.
    """
    import av

    with reading(name, "a readable video"), av.open(io.BytesIO(data), "r") as container:
        stream, packets = _track(container, name)
        _, end = _within(part, _announced(packets), stream.time_base, name)
        frames = itertools.islice(_decoded(stream, packets, name), end)
        first = next(frames, None)
        if first is None:
            raise UserError(f"{name}: not a readable video: it has no frames")
        size = first.width, first.height
        if any((frame.width, frame.height) != size for frame in frames):
            raise UserError(f"{name}: the size of its frames changes: encode it again")
        return _turn(first, name).size(size)


def _track(container: Any, name: str) -> tuple[Any, list[Any]]:
    """The video track and its packets. A track of one picture (a cover, a thumbnail) is no clip."""
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
    if not container.streams.video:
        raise UserError(f"{name}: has no video stream")
    moving = [stream for stream in container.streams.video if not stream.disposition & still]
    streams = [stream for stream in moving if stream.codec_context is not None]
    if moving and not streams:
        raise UserError(f"{name}: not a readable video: its codec is unknown")
    packets: dict[int, list[Any]] = {stream.index: [] for stream in streams}
    for packet in container.demux(streams) if streams else ():
        if packet.size:  # none where an AVI says that a frame was dropped
            packets[packet.stream_index].append(packet)
    stream = next((stream for stream in streams if len(packets[stream.index]) > 1), None)
    if stream is None:
        raise UserError(f"{name}: not a clip: it has a single picture, or none")
    shown = packets[stream.index]
    if len(shown) > limits.CLIP_FRAMES:
        raise UserError(f"{name}: {len(shown)} frames: more than {limits.CLIP_FRAMES}")
    _check_size(stream, name)
    stream.thread_count = 1  # a pool of decoder threads costs more than a small clip
    return stream, shown


def _announced(packets: list[Any]) -> list[int]:
    """When the frames are shown by their packets, in the track's time base."""
    return sorted(packet.pts or 0 for packet in packets if not packet.is_discard)


def _within(part: Part | None, times: list[int], time_base: Fraction, name: str) -> tuple[int, int]:
    """First frame of a part, and the one after its last; of all where there is no part.

    The frame that is shown when the part begins belongs to it, one that appears when it ends does not.

    Raises:
        UserError: the part is empty, begins after the end, or the frames have no times.
    """
    if part is None or not times:
        return 0, len(times)
    start, end = part
    if len(set(times)) < len(times):
        raise UserError(f"{name}: its frames have no times, so it has no parts: encode it again")
    seconds = [float((time - times[0]) * time_base) for time in times]
    length = seconds[-1] * len(times) / max(len(times) - 1, 1)
    if not 0 <= start < end or start >= length - TICK:
        raise UserError(f"{name}: {start:g} to {end:g} s is not a part of its {length:.2f} s")
    return bisect.bisect_right(seconds, start + TICK) - 1, bisect.bisect_left(seconds, end - TICK)


def _check_size(pixels: Any, name: str) -> None:
    """Of a track or a frame."""
    if (pixels.width or 0) * (pixels.height or 0) > limits.PICTURE_PIXELS:
        size = f"{pixels.width}x{pixels.height}"
        raise UserError(f"{name}: frames of {size}: more than {limits.PICTURE_PIXELS} pixels")


def _decoded(stream: Any, packets: list[Any], name: str) -> Iterator[Any]:
    """The shown frames, in their order."""
    for packet in (*packets, None):  # None: what the decoder still holds
        check_time(name)
        for frame in stream.codec_context.decode(packet):
            _check_size(frame, name)
            yield frame
    stream.codec_context.flush_buffers()


def _convert(
    stream: Any, packets: list[Any], wanted: Collection[int], name: str
) -> tuple[dict[int, np.ndarray], list[int]]:
    """The wanted ones of the shown frames, HWC, and the times of all that are shown.

    Some packets give no frame: those at the start of a cut whose references are gone, those of pictures that
    are only referred to. Where every frame so far was the one that its packet announced, that is taken to
    hold to the end, and decoding stops at the last wanted frame; else all are decoded.
    """
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for all frames: making it costs more than a small frame
    announced, shown = _announced(packets), list[int]()
    frames: dict[int, np.ndarray] = {}
    last, as_announced = max(wanted, default=-1), True
    for index, frame in enumerate(_decoded(stream, packets, name)):
        as_announced = as_announced and index < len(announced) and frame.pts == announced[index]
        if index in wanted:
            pixels_HWC = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            frames[index] = _turn(frame, name).pixels(pixels_HWC)
        if index == last and as_announced:
            return frames, announced
        shown.append(frame.pts or 0)
    return frames, shown


def _turn(frame: Any, name: str) -> Turn:
    """By the display matrix of a frame: the first two rows of ((a, b), (c, d)) that give the place as shown,
    (a x + c y, b x + d y), of a stored (x, y).

    Raises:
        UserError: a turn that is no multiple of 90 degrees.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5].tolist()
    straight, crossed = (a, d), (b, c)
    small, large = sorted((straight, crossed), key=lambda pair: min(map(abs, pair)))
    if max(map(abs, small)) > QUARTER * min(map(abs, large)):
        raise UserError(f"{name}: shown turned by {frame.rotation} degrees: encode it upright")
    if large == straight:
        return Turn(False, a < 0, d < 0)
    return Turn(True, c < 0, b < 0)


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
