#!/bin/sh
# Pillow clips 16-bit grey levels at 255 when it converts them to L or RGB; 16-bit colour it scales.
# Expected: a ramp from black to white stays one, as a PNG of 16 bits a colour does (its upper 8 bits are kept).
# Seen: 255 of 256 levels become white in grey; none but the last in colour.
# Versions: pillow 12.0.0, Python 3.11.   Source: https://github.com/python-pillow/Pillow/issues/3011
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet pillow==12.0.0 numpy==2.3.5
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import struct
import zlib

import numpy as np
from PIL import Image

ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)


def png(levels, colour):
    """By hand, since Pillow does not write 16-bit colour."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", 16, 16, 16, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        whole += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return whole


white = {}
for name, levels, colour in (("grey", ramp, 0), ("colour", np.repeat(ramp[..., None], 3, 2), 2)):
    with open(f"{name}.png", "wb") as file:
        file.write(png(levels, colour))
    pixels = np.asarray(Image.open(f"{name}.png").convert("RGB"))
    white[name] = int((pixels[..., 0] == 255).sum())
print("white pixels of 256:", white)
assert white == {"grey": 255, "colour": 1}
PYTHON
