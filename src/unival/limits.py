"""The largest inputs that are taken. A few bytes can claim any size, so these are asked before memory is.

What is beyond one of them is refused by name.
"""

from collections.abc import Iterable
from math import prod

MEDIUM_BYTES = 1024**3
"""Of a file, encoded."""
PICTURE_PIXELS = 64_000_000
"""Of an image or a frame."""
CLIP_FRAMES = 216_000
"""An hour at 60 a second."""
CLIP_PIXELS = 2**29
"""Of all frames that are decoded together: 1.5 GiB as RGB."""
SOUND_SECONDS = 3600
SOUND_SAMPLES = 2**28
"""Of one channel: 1 GiB as float32, 93 minutes at 48 kHz."""
SOUND_CHANNELS = 64
"""As many as FFmpeg takes."""
SOUND_LEVEL = 16.0
"""Full scale is 1. Decoders and mixes overshoot it by a few decibels; 24 dB are integers taken for floats, or
damage."""
UNPACKED_BYTES = 2**28
"""Of an annotation file or array that is held whole (RefCOCO's refs, MNIST)."""
PACKED_RATIO = 100
PACKED_SPARE = 2**24
"""A packed file may hold so many times its size, and so many bytes more."""
LINE_CHARS = 2**26
"""Of a line: a photo of 48 MiB in base64."""
VALUE_CHARS = 2**24
"""Of one element of a JSON file that is read element by element."""
TABLE_VALUES = 2**26
"""Of a column in a group of rows, its lists' elements counted."""
JSON_BYTES = 2**27
"""Of a JSON file that is read whole."""
YAML_BYTES = 2**22
"""Of a configuration or recipe."""
REQUEST_BYTES = 2**25
"""Of a request to the server."""
REQUEST_SECONDS = 60.0
"""From its first byte to its answer."""
UPLOAD_RATE = 2**18
UPLOAD_SPARE = 10.0
"""Bytes a second that a request comes with at least, but for so many seconds."""
DECODE_SECONDS = 30.0
"""For the medium of a request."""
REQUEST_VALUES = 2**26
"""Pixels of its frames, or samples, that are held together: eight frames of 4K, 23 minutes at 48 kHz."""
LARGE_VALUES = 2**22
"""Of media of requests that hold more, one at a time is decoded."""
REQUESTS = 256
"""Under way at once."""
LARGE_REQUESTS = 4
"""Of those that have, or may have, more than `SMALL_BYTES`: so many are held in memory at once."""
SMALL_BYTES = 2**20
QUESTIONS = 32
"""About the medium of one request."""
QUESTION_CHARS = 10_000


def is_shape(sizes: Iterable[int]) -> bool:
    """Whether an array can have these sizes: libraries count its bytes in 63 bits, and on beside a 0."""
    return prod(size for size in sizes if size) < 2**60
