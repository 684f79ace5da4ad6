#!/bin/sh
# FFmpeg takes the valid bits of a WAVE_FORMAT_EXTENSIBLE header for the width of a sample.
# Expected: 24 (20, 16) valid bits in containers of 32 are read as 32-bit samples, at whose upper end they lie.
# Seen: 24 in 32 as floats (codec pcm_f24le, values up to 1e30); 20 in 32 as 24-bit (4 samples for 3), 16 in 32 as
# 16-bit (2 samples for 1); 32 valid bits in 32 are right.
# Versions: av 18.1.0 (libavformat 62.12), Python 3.11.
# Source: https://learn.microsoft.com/windows/win32/api/mmreg/ns-mmreg-waveformatextensible
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet av==18.1.0 numpy==2.3.5
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import io
import struct

import av
import numpy as np

PCM = bytes.fromhex("0100000000001000800000aa00389b71")
tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(720) / 8000)


def wav(valid):
    """A tone whose lower bits are zero, in 32-bit containers."""
    unit = 1 << (32 - valid)
    body = ((tone * 2**31 / unit).round() * unit).astype("<i4").tobytes()
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 8000, 32000, 4, 32, 22, valid, 4) + PCM
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def read(valid):
    with av.open(io.BytesIO(wav(valid))) as file:
        frames = list(file.decode(audio=0))
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        return file.streams.audio[0].codec_context.name, samples


expected = (32, "pcm_s32le", 720), (24, "pcm_f24le", 720), (20, "pcm_s24le", 960), (16, "pcm_s16le", 1440)
for valid, codec, length in expected:
    name, samples = read(valid)
    print(valid, name, len(samples), samples[:4])
    assert name == codec and abs(len(samples) - length) <= 1
assert np.abs(read(32)[1] / 2**31 - tone).max() < 1e-6
assert np.abs(read(24)[1]).max() > 1e20
PYTHON
