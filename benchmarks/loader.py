"""What the loader costs: CPU per sample against bare decoding, and memory over many streamed rows.

    python benchmarks/loader.py [ROW...]      JSON lines on standard output

`cpu/image`, `cpu/video`: batches of 480 x 360 JPEGs, and of 8 frames of clips of 80 frames of 320 x 240,
made ready for the model, against decode and resize of the same files by Pillow and PyAV alone, interleaved,
medians of CPU time. `memory`: resident size after 10^6 rows (ours) and after 10^4 (baseline), no two alike.
`workers/2`, `workers/4`: images a second from so many loading processes (ours) and from one (baseline),
interleaved, and `memory_mib`, what such a process takes beyond what it shares, with one and with so many.
"""

import gc
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import av
import numpy as np
import psutil
from PIL import Image

from tests.engine import standins
from unival.data.media import encode_image, encode_video, segment_frames
from unival.data.store import MediaStore, ShardWriter
from unival.engine.batches.collate import Collator
from unival.engine.batches.loader import AHEAD, Loader, StepBatches
from unival.engine.batches.mixture import Mixture, MixtureConfig, StreamConfig
from unival.engine.batches.rows import MediaCache, Rows
from unival.engine.batches.sampler import Sampler
from unival.model.processing import UnivalProcessor
from unival.record import Record
from unival.vocab import UnivalTokenizer

FILES, BATCH, CLIPS, FRAMES, SIZE, REPEATS = 48, 16, 8, 8, 224, 7
STEPS = 60  # of the rows `workers`


def photo(seed: int) -> bytes:
    """A JPEG as dense as a photo: noise of all scales."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 255, (n, n, 3), dtype=np.uint8)).resize((480, 360)), float)
        for n in (4, 16, 64, 256)
    ]
    return encode_image(np.mean(layers, 0).astype(np.uint8), ".jpg", 90)


def cpu(modality: str) -> dict[str, float | str]:
    """CPU of batches made ready for the model, and of decode and resize alone."""
    image = modality == "image"
    count, batch = (FILES, BATCH) if image else (CLIPS, CLIPS)
    keys = [f"k{number}" for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        data = {key: photo(number) if image else clip(number) for number, key in enumerate(keys)}
        records, store = stored(folder, modality, data)
        processor = UnivalProcessor(vocabulary(), image_size=SIZE, video_size=SIZE, video_frames=FRAMES)
        mixture = Mixture(MixtureConfig(batch, [StreamConfig(modality, batch)]), {modality: count})
        sampler = Sampler(mixture, 0)

        def ours() -> None:
            rows = Rows(standins.Task(), records, store)  # with an empty cache
            collator = Collator({modality: rows}, processor, 0, "finetuning")
            for step in range(count // batch):
                collator(sampler.global_rows(step), step)

        def bare() -> None:
            for content in data.values():
                if image:
                    resized(Image.open(io.BytesIO(content)).convert("RGB"), (SIZE, SIZE))
                else:
                    bare_clip(content)

        taken: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(REPEATS):
            for name, work in (("ours", ours), ("bare", bare)):
                start = time.process_time()
                work()
                taken[name].append((time.process_time() - start) / count)
    ours_s, bare_s = (statistics.median(taken[name]) for name in ("ours", "bare"))
    return row(f"cpu/{modality}", ours_s * 1e3, bare_s * 1e3, "ms CPU")


def stored(folder: str, modality: str, data: dict[str, bytes]) -> tuple[list[Record], MediaStore]:
    """Rows on media of these keys, and where they lie."""
    with ShardWriter(folder) as writer:
        for key, content in data.items():
            writer.add(key, modality, ".jpg" if modality == "image" else ".mp4", content)
    records = [Record(id=key, **{modality: key}, references=("a red circle",)) for key in data]
    return records, MediaStore(folder)


def vocabulary() -> UnivalTokenizer:
    """A few words."""
    return UnivalTokenizer.train(["a red circle left of it"] * 9, size=300, num_codes=0, num_bins=10)


def row(name: str, ours: float, baseline: float, unit: str) -> dict[str, float | str]:
    return {"name": name, "ours": ours, "baseline": baseline, "ratio": ours / baseline, "unit": unit}


def clip(seed: int) -> bytes:
    """Ten seconds of 320 x 240 at 8 frames a second, in which noise moves."""
    rng = np.random.default_rng(seed)
    wide = Image.fromarray(rng.integers(0, 255, (30, 80, 3), dtype=np.uint8)).resize((640, 240))
    return encode_video(np.stack([np.asarray(wide)[:, 4 * t : 4 * t + 320] for t in range(80)]))


def resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def bare_clip(content: bytes) -> None:
    """All frames up to the last that is needed are decoded, those needed converted and resized."""
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        wanted = set(segment_frames(stream.frames, FRAMES))
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                resized(frame.to_image(), (round(frame.width * SIZE / frame.height), SIZE))
            if index == max(wanted):
                return


class Endless:
    """A million rows, each with an image and a text of its own, that are made when asked for."""

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Record:
        colour = standins.COLOURS[index % 4]
        return Record(id=str(index), image=str(index), references=(f"{colour} {index}",))


class Tiny(standins.Store):
    """An image of 8 x 8 pixels of its own for each key."""

    def image(self, key: str) -> np.ndarray:
        return np.full((8, 8, 3), int(key) % 256, np.uint8)


def resident_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def memory() -> dict[str, float | str]:
    """Resident size while rows go through sampler, collator and loading thread."""
    records, batch = Endless(), 500
    rows = Rows(standins.Task(), records, Tiny(), MediaCache(2**20))  # not 256 MiB: growth beyond it shows
    mixture = Mixture(MixtureConfig(batch, [StreamConfig("image", batch)]), {"image": len(records)})
    sampler, collator = Sampler(mixture, 0), Collator({"image": rows}, standins.Processor(), 0, "finetuning")
    sizes = {}
    for step, _ in enumerate(Loader(StepBatches(sampler, collator, len(records) // batch, 0, 1, 1), 0, 0), 1):
        if step * batch in (10_000, 1_000_000):
            sizes[step * batch] = resident_mib()
    return row("memory", sizes[1_000_000], sizes[10_000], "MiB")


def workers(count: int) -> dict[str, Any]:
    """Images a second, and memory of a loading process, of several and of one; there is no cache."""
    keys = [f"k{number}" for number in range(FILES)]
    with tempfile.TemporaryDirectory() as folder:
        records, store = stored(folder, "image", {key: photo(number) for number, key in enumerate(keys)})
        rows = Rows(standins.Task(), records, store, MediaCache(1))
        sampler = Sampler(Mixture(MixtureConfig(BATCH, [StreamConfig("image", BATCH)]), {"image": FILES}), 0)
        collator = Collator({"image": rows}, UnivalProcessor(vocabulary(), image_size=SIZE), 0, "finetuning")
        rates: dict[int, list[float]] = {1: [], count: []}
        memory: dict[int, float] = {}
        for _ in range(REPEATS):
            for number, measured in rates.items():
                steps = iter(Loader(StepBatches(sampler, collator, STEPS, 0, 1, 1), 0, number))
                for _ in range(number * AHEAD):  # until all have begun
                    next(steps)
                start, left = time.perf_counter(), STEPS - number * AHEAD
                own = [one.memory_full_info().uss for one in psutil.Process().children()]
                for _ in steps:
                    pass
                measured.append(left * BATCH / (time.perf_counter() - start))
                memory[number] = statistics.mean(own) / 2**20
    medians = {number: statistics.median(measured) for number, measured in rates.items()}
    rounded = [round(memory[number]) for number in (1, count)]
    return {**row(f"workers/{count}", medians[count], medians[1], "images/s"), "memory_mib": rounded}


ROWS: dict[str, Callable[[], dict[str, Any]]] = {
    "cpu/image": lambda: cpu("image"),
    "cpu/video": lambda: cpu("video"),
    "memory": memory,
    "workers/2": lambda: workers(2),
    "workers/4": lambda: workers(4),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or ROWS:
        line = {k: round(v, 3) if isinstance(v, float) else v for k, v in ROWS[name]().items()}
        print(json.dumps(line), flush=True)
