#!/bin/sh
# PyAV's AudioResampler gives the mono of a stereo file as 16-bit integers at its level, as floats 1.41 times as loud.
# Expected: one sound, whatever the sample format asked for; two equal channels of peak 0.95 give 0.95.
# Seen: 0.950 as "s16", 1.343 as "flt" and "fltp": FFmpeg scales its mixing weights down for integers only.
# Versions: av 18.1.0, Python 3.11.   Source: https://ffmpeg.org/ffmpeg-resampler.html (rematrix_maxval).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet av==18.1.0 numpy==2.3.5
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import wave

import av
import numpy as np

tone = 0.95 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
with wave.open("stereo.wav", "wb") as file:
    file.setparams((2, 2, 16000, 0, "NONE", ""))
    file.writeframes((np.stack([tone, tone], 1) * 32767).round().astype("<i2").tobytes())


def peak(sample_format, full_scale):
    with av.open("stereo.wav") as file:
        resampler = av.AudioResampler(sample_format, "mono", 16000)
        frames = [out for frame in file.decode(audio=0) for out in resampler.resample(frame)]
        return max(np.abs(frame.to_ndarray().astype(float)).max() for frame in frames) / full_scale


peaks = {name: peak(name, scale) for name, scale in (("s16", 32768), ("flt", 1), ("fltp", 1))}
print(peaks)
assert abs(peaks["s16"] - 0.95) < 0.01
assert abs(peaks["flt"] - 1.343) < 0.01 and abs(peaks["fltp"] - 1.343) < 0.01
PYTHON
