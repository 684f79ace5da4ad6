"""UnIVAL: one encoder-decoder for text, images, video and audio, and the study around it."""

from unival import compat

compat.install()

__version__ = "0.1.0"
