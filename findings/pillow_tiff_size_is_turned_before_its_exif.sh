#!/bin/sh
# Pillow gives the size of a TIFF with an EXIF orientation already turned, while its EXIF still asks for the turn.
# Expected: as for PNG and JPEG, Image.open(...).size is that of the stored pixels, and orientation 6 swaps it.
# Seen: size (20, 30) and orientation 6 for 30 x 20 stored pixels: who swaps gets (30, 20), who looks at the decoded
# picture (20, 30); after load() the orientation is gone. A PNG of the same: (30, 20) and 6, before and after.
# Versions: pillow 12.0.0 and 11.0.0, Python 3.11.   Source: https://pillow.readthedocs.io/en/stable/handbook/image-file-formats.html#tiff
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet pillow==12.0.0
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
from PIL import Image

ORIENTATION = 0x0112
exif = Image.Exif()
exif[ORIENTATION] = 6
seen = {}
for suffix in ("png", "tiff"):
    Image.new("RGB", (30, 20)).save(f"lying.{suffix}", exif=exif)
    with Image.open(f"lying.{suffix}") as image:
        opened = image.size, image.getexif().get(ORIENTATION)
        image.load()
        seen[suffix] = opened, (image.size, image.getexif().get(ORIENTATION))
print(seen)
assert seen["png"] == (((30, 20), 6), ((30, 20), 6))
assert seen["tiff"] == (((20, 30), 6), ((20, 30), None))
PYTHON
