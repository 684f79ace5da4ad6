"""Media from bytes to arrays: images (Pillow), video, audio (PyAV, which carries its own FFmpeg).

Every decoder takes bytes and a name for messages, and raises UserError with that name and the reason.
Axes: H height, W width, T time, C = 3 channels (RGB). Pixels are uint8, sound is float32 in [-1, 1].
"""

from unival.data.media.clip import Part, decode_video, encode_video, segment_frames, video_size
from unival.data.media.containers import cut_short
from unival.data.media.picture import (
    decode_image,
    encode_image,
    image_orientation,
    image_size,
    open_image,
    plain_image,
)
from unival.data.media.reading import within
from unival.data.media.sound import decode_audio, encode_wav
from unival.errors import UserError, nearest
from unival.record import Modality

__all__ = [
    "SUFFIXES",
    "Part",
    "decode_audio",
    "decode_image",
    "decode_video",
    "describe",
    "encode_image",
    "encode_video",
    "encode_wav",
    "image_orientation",
    "image_size",
    "modality_of",
    "open_image",
    "plain_image",
    "segment_frames",
    "within",
]

SUFFIXES: dict[str, Modality] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".webp"), "image"),
    **dict.fromkeys((".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif"), "video"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".mp3", ".m4a", ".opus"), "audio"),
}


def describe(kind: Modality, data: bytes, name: str, part: Part | None = None) -> tuple[int, int]:
    """Decode fully and return (width, height) as shown; (0, 0) for sound.

    Args:
        part: of a clip, what is meant of it.

    Raises:
        UserError: it cannot be read.
    """
    if cut_short(data):
        raise UserError(f"{name}: the file is cut short: get it again")
    if kind == "image":
        return open_image(data, name).size
    if kind == "video":
        return video_size(data, name, part)
    samples = len(decode_audio(data, name))
    if data[:4] == b"fLaC" and samples < int.from_bytes(data[21:26], "big") & (2**36 - 1):
        raise UserError(f"{name}: the file is cut short: get it again")
    return 0, 0


def modality_of(suffix: str, name: str) -> Modality:
    """The modality that a file suffix stands for.

    Raises:
        UserError: no known suffix; `name` starts the message.
    """
    suffix = suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{name}: neither image, video nor sound: {nearest(suffix, SUFFIXES)}")
    return SUFFIXES[suffix]
