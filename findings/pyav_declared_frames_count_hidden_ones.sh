#!/bin/sh
# PyAV's stream.frames, and the number of packets, count frames that no player shows.
# Expected: a clip cut out of a longer one without encoding (`-ss X -c copy`) has as many frames as it shows.
# Seen: mp4 cut after frame 44 of 48: 48 declared, 13 packets, of which 9 are marked for discarding (is_discard), 4
# frames. Matroska cut at an open group of pictures: 0 declared, 47 packets, none marked, 45 frames.
# Versions: av 18.1.0, Python 3.11.   Source: https://pyav.basswood-io.com/docs/stable/api/stream.html
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet av==18.1.0 numpy==2.3.5
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import io

import av
import numpy as np


def clip(container, codec, options):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=8, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(48):
            pixels = np.full((48, 64, 3), number * 5, np.uint8)
            pixels += np.random.default_rng(0).integers(0, 9, pixels.shape, dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def copied(data, container, change):
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format=container) as target:
        track = source.streams.video[0]
        copy = target.add_stream_from_template(track)
        for packet in change([packet for packet in source.demux(track) if packet.dts is not None], track):
            packet.stream = copy
            target.mux(packet)
    return out.getvalue()


def after_44(packets, track):
    for packet in packets:
        packet.pts -= int(44 / 8 / track.time_base)
        packet.dts -= int(44 / 8 / track.time_base)
    return packets


def from_second_key(packets, track):
    return packets[[number for number, packet in enumerate(packets) if packet.is_keyframe][1] :]


def counts(data):
    with av.open(io.BytesIO(data)) as file:
        declared = file.streams.video[0].frames
        packets = [packet for packet in file.demux(video=0) if packet.size]
    with av.open(io.BytesIO(data)) as file:
        decoded = sum(1 for _ in file.decode(video=0))
    return declared, len(packets), sum(packet.is_discard for packet in packets), decoded


cut = counts(copied(clip("mp4", "mpeg4", {"g": "12"}), "mp4", after_44))
opened = counts(copied(clip("matroska", "mpeg2video", {"bf": "2", "g": "12"}), "matroska", from_second_key))
print("declared, packets, to be discarded, decoded:", cut, opened)
assert cut == (48, 13, 9, 4)
assert opened == (0, 47, 0, 45)
PYTHON
