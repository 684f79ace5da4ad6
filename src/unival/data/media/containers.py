"""Whether the end of a media file is missing. Decoders do without it, so the container's own sizes are read.

Exact for RIFF (wav, avi, webp), MPEG-4 (mp4, m4a, mov), Matroska (mkv, webm), Ogg and GIF. An MP3 is a row of
frames: one that was cut between two of them is noticed where its first frame tells their number (Xing, VBRI).
Where it does not, a cut file is a valid shorter one: nothing in it says otherwise.
"""

_UNKNOWN_RIFF = 2_000_000_000
"""Writers that cannot go back put 0, or a size from here on (SoX 0x7FFFF000, FFmpeg 0xFFFFFFFF)."""
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_KBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""MPEG version -> bit rates of layer III by their index; 0 is a free one."""
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Version bits -> sampling rates."""


def cut_short(data: bytes) -> bool:
    """Whether a container of a known kind promises more than there is."""
    if data[:4] == b"RIFF":
        promised = int.from_bytes(data[4:8], "little")
        return promised < _UNKNOWN_RIFF and len(data) + 1 < 8 + promised  # some leave out the padding byte
    if data[:4] == b"GIF8":
        return not data.rstrip(b"\0").endswith(b";")
    if data[:4] == b"OggS":
        return _ogg(data)
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska(data)
    if data[4:8] in _BOXES:
        return _mpeg4(data)
    if data[:3] == b"ID3" or _frame_length(data[:4]):
        return _mp3(data)
    return False


def _ogg(data: bytes) -> bool:
    """The last page is whole and marked as the end of its stream."""
    page = data.rfind(b"OggS")
    if len(data) < page + 27:
        return True
    lengths = data[page + 27 : page + 27 + data[page + 26]]
    whole = len(lengths) == data[page + 26] and len(data) >= page + 27 + len(lengths) + sum(lengths)
    return not (whole and data[page + 5] & 4)


def _mpeg4(data: bytes) -> bool:
    """Every box at the top level is inside the file."""
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        if size < 8:  # 0: to the end of the file
            return False
        place += size
    return place > len(data)


def _matroska(data: bytes) -> bool:
    """The segment after the header is inside the file; one that was streamed has no size."""
    header, start = _variable(data, 4)
    place = start + (header or 0)
    if data[place : place + 4] != b"\x18\x53\x80\x67":
        return len(data) < place + 4
    segment, start = _variable(data, place + 4)
    return segment is not None and len(data) < start + segment


def _variable(data: bytes, place: int) -> tuple[int | None, int]:
    """A number of variable length (None: unknown), and where it ends."""
    length = 9 - data[place].bit_length() if place < len(data) else 9
    if length > 8:
        return None, place + 1
    value = int.from_bytes(data[place : place + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), place + length


def _mp3(data: bytes) -> bool:
    place = 0
    if data[:3] == b"ID3":
        seven_bits = [byte & 0x7F for byte in data[6:10]]
        place = 10 + sum(bits << shift for bits, shift in zip(seven_bits, (21, 14, 7, 0), strict=False))
    first, frames = place, 0
    while place < len(data):
        length = _frame_length(data[place : place + 4])
        if not length:
            break  # a tag, or nothing we know
        frames, place = frames + 1, place + length
    if place > len(data) or not frames:
        return frames > 0
    return frames < _promised_frames(data[first : first + 64])


def _promised_frames(start: bytes) -> int:
    """How many frames an MP3 has by what its first frame holds, 0 where it does not say.

    Not all writers count the frame that tells it.
    """
    if start[36:40] == b"VBRI":  # version, delay, quality, bytes, frames
        return int.from_bytes(start[50:54], "big")
    place = max(start.find(mark) for mark in (b"Xing", b"Info"))
    flags, frames = (int.from_bytes(start[place + at : place + at + 4], "big") for at in (4, 8))
    return frames if place >= 0 and flags & 1 else 0


def _frame_length(header: bytes) -> int:
    """Bytes of the frame of MPEG layer III that starts so; 0 where none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, bits, rate = (header[1] >> 3) & 3, header[2] >> 4, (header[2] >> 2) & 3
    if version == 1 or bits == 15 or rate == 3:
        return 0
    kbits = _KBITS[1 if version == 3 else 2][bits]
    padding = (header[2] >> 1) & 1
    return (144_000 if version == 3 else 72_000) * kbits // _RATES[version][rate] + padding if kbits else 0
