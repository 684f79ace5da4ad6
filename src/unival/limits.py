"""The largest media that are taken. A few bytes can claim any size, so these are asked before memory is.

A medium beyond one of them is refused by name.
"""

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
UNPACKED_BYTES = 1024**3
"""Of an annotation file or array that is held whole."""
