"""Speed and memory of `unival import`.

    PYTHONPATH=src python benchmarks/import.py [--rows 100000]

Throughput: media of a folder are imported, beside copying the same bytes into one file on the same disk and
decoding each medium once (fsync in both). Both alternate, each in this process after a warm-up; `ours` and
`baseline` are megabytes a CPU second of all threads (the disk's own speed is in neither, nor what an import
gains by decoding on several cores), `ratio` the median over the rounds.
Memory: peak resident memory of an import of many rows, and of a tenth of them; `ratio` is many over few.
One JSON line per row: name, ours, baseline, ratio, unit.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unival.data import media
from unival.data.importing import import_dataset
from unival.record import Modality

ROUNDS = 5
KINDS: tuple[tuple[str, Modality, int], ...] = (
    ("image", "image", 200), ("video", "video", 40), ("stereo", "audio", 60), ("mono", "audio", 60)
)  # fmt: skip


def content(name: str, rng: np.random.Generator) -> tuple[str, bytes]:
    """A smooth picture of 640 x 480, a clip of three seconds at 320 x 240, ten seconds of sound."""
    small_HWC = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    if name == "image":
        return ".jpg", media.encode_image(small_HWC.repeat(80, 0).repeat(80, 1), ".jpg")
    if name == "video":
        frame_HWC = small_HWC.repeat(40, 0).repeat(40, 1)
        return ".mp4", media.encode_video(np.stack([np.roll(frame_HWC, 4 * t, 1) for t in range(75)]), 25)
    channels = 1 if name == "mono" else 2
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setparams((channels, 2, 32_000, 0, "NONE", ""))
        writer.writeframes(rng.normal(0, 3000, (320_000, channels)).astype("<i2").tobytes())
    return ".wav", buffer.getvalue()


def make_folder(root: Path, name: str, kind: Modality, count: int) -> int:
    """A data set in our own table form; returns the bytes of its media."""
    rng, lines, total = np.random.default_rng(0), [], 0
    task = {"image": "caption", "video": "video_caption", "audio": "audio_caption"}[kind]
    for number in range(count):
        suffix, data = content(name, rng)
        (root / "media").mkdir(parents=True, exist_ok=True)
        (root / "media" / f"{number}{suffix}").write_bytes(data)
        lines.append(json.dumps({"id": str(number), kind: f"{number}{suffix}", "references": ["a thing"]}))
        total += len(data)
    (root / f"train_{task}.jsonl").write_text("\n".join(lines))
    return total


def copy_and_decode(root: Path, kind: Modality, out: Path) -> None:
    with out.open("wb") as handle:
        for path in sorted((root / "media").iterdir()):
            data = path.read_bytes()
            handle.write(data)
            media.describe(kind, data, path.name)
        handle.flush()
        os.fsync(handle.fileno())


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def throughput(folder: Path, name: str, kind: Modality, count: int) -> None:
    root = folder / name
    size = make_folder(root, name, kind, count) / 1e6
    pairs = [
        (
            seconds(lambda: import_dataset("table", root, folder / "out")),
            seconds(lambda: copy_and_decode(root, kind, folder / "copy")),
        )
        for _ in range(ROUNDS + 1)
    ][1:]
    ours, baseline = (statistics.median(size / pair[place] for pair in pairs) for place in (0, 1))
    ratio = statistics.median(b / a for a, b in pairs)
    report(f"throughput/{name}", ours, baseline, ratio, "MB/s")


def report(name: str, ours: float, baseline: float, ratio: float, unit: str) -> None:
    row = {"name": name, "ours": round(ours, 1), "baseline": round(baseline, 1), "ratio": round(ratio, 3)}
    print(json.dumps({**row, "unit": unit}), flush=True)


def make_tar(path: Path, rows: int) -> None:
    png = media.encode_image(np.zeros((8, 8, 3), np.uint8))
    with tarfile.open(path, "w") as archive:
        for number in range(rows):
            for suffix, data in ((".png", png), (".txt", f"caption number {number}".encode())):
                member = tarfile.TarInfo(f"{number:07d}{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def peak(folder: Path, rows: int) -> float:
    """MiB at the most, of a process that imports a WebDataset tar of so many pictures."""
    root = folder / f"tar{rows}"
    root.mkdir()
    make_tar(root / "train.tar", rows)
    run = subprocess.run(
        [sys.executable, __file__, "--child", str(root)], check=True, capture_output=True, text=True
    )
    return float(run.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        import_dataset("webdataset", options.child, options.child.with_name("out"))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, kind, count in KINDS:
            throughput(folder, name, kind, count)
        many, few = (peak(folder, rows) for rows in (options.rows, options.rows // 10))
        report(f"memory/{options.rows}", many, few, many / few, "MiB")


if __name__ == "__main__":
    main()
