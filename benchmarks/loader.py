"""What the loader costs: CPU per sample against bare decoding, and memory over many streamed rows.

    python benchmarks/loader.py               JSON lines on standard output

`cpu/image`: batches of 480 x 360 JPEGs made ready for the model, against decode and resize of the same files
by Pillow alone, interleaved, medians of CPU seconds. `memory`: resident size after 10^4 and 10^6 rows.
"""

import gc
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from PIL import Image

from tests.engine import standins
from unival.data.media import encode_image
from unival.data.store import MediaStore, ShardWriter
from unival.engine.collate import Collator, Source
from unival.engine.mixture import Mixture, MixtureConfig, StreamConfig
from unival.engine.sampler import Sampler
from unival.model.processing import UnivalProcessor
from unival.record import Record
from unival.vocab import UnivalTokenizer

FILES, SIZE, REPEATS, BATCH = 48, 224, 7, 16


def photo(seed: int) -> bytes:
    """A JPEG as dense as a photo: noise of all scales."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 255, (n, n, 3), dtype=np.uint8)).resize((480, 360)), float)
        for n in (4, 16, 64, 256)
    ]
    return encode_image(np.mean(layers, 0).astype(np.uint8), ".jpg", 90)


def cpu_per_image() -> dict[str, float | str]:
    keys = [f"p{number}" for number in range(FILES)]
    with tempfile.TemporaryDirectory() as folder:
        data = {key: photo(number) for number, key in enumerate(keys)}
        with ShardWriter(folder) as writer:
            for key, content in data.items():
                writer.add(key, "image", ".jpg", content)
        store = MediaStore(folder)
        tokenizer = UnivalTokenizer.train(["a red circle left of it"] * 9, size=300, num_codes=0, num_bins=10)
        processor = UnivalProcessor(tokenizer, image_size=SIZE)
        records = [Record(id=key, image=key, references=("a red circle",)) for key in keys]
        source = Source(standins.Task(), records, store)
        sampler = Sampler(Mixture(MixtureConfig(BATCH, [StreamConfig("image", BATCH)]), {"image": FILES}), 0)

        def ours() -> None:
            collator = Collator({"image": source}, processor, 0, "finetuning")  # an empty cache
            for step in range(FILES // BATCH):
                collator(sampler.global_rows(step), step)

        def bare() -> None:
            for content in data.values():
                image = Image.open(io.BytesIO(content)).convert("RGB")
                np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

        taken: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(REPEATS):
            for name, work in (("ours", ours), ("bare", bare)):
                start = time.process_time()
                work()
                taken[name].append((time.process_time() - start) / FILES)
    ours_s, bare_s = (statistics.median(taken[name]) for name in ("ours", "bare"))
    return {"name": "cpu/image", "ours_ms": ours_s * 1e3, "bare_ms": bare_s * 1e3, "ratio": ours_s / bare_s}


class Rows:
    """A million rows that are made when asked for."""

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Record:
        colour = standins.COLOURS[index % 4]
        return Record(id=str(index), image=f"{colour}-{index}", references=(colour,))


def resident_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def memory() -> dict[str, float | str]:
    rows = Rows()
    source = Source(standins.Task(), rows, standins.Store())
    sampler = Sampler(Mixture(MixtureConfig(500, [StreamConfig("image", 500)]), {"image": len(rows)}), 0)
    collator = Collator({"image": source}, standins.Processor(), 0, "finetuning")
    collator.cache.limit = 2**20  # small, so that growth beyond it would show
    sizes = {}
    for step in range(2000):
        collator(sampler.global_rows(step), step)
        if step + 1 in (20, 2000):
            sizes[(step + 1) * 500] = resident_mib()
    return {"name": "memory", "mib_at_1e4": sizes[10_000], "mib_at_1e6": sizes[1_000_000]}


if __name__ == "__main__":
    for work in (cpu_per_image, memory):
        print(
            json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in work().items()}), flush=True
        )
