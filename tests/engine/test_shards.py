"""Shards of prepared data on a store, read by ranks that have a cache each, as on nodes of their own."""

import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path

import fsspec
import numpy as np
import pytest

from unival.data import remote
from unival.data.manifest import ManifestWriter, read_records
from unival.data.media import encode_image
from unival.data.store import MediaStore, ShardWriter
from unival.engine.batches.collate import Collator
from unival.engine.batches.loader import Loader, StepBatches
from unival.engine.batches.mixture import Mixture, MixtureConfig, StreamConfig
from unival.engine.batches.rows import MediaCache, Rows
from unival.engine.batches.sampler import Sampler
from unival.engine.machine.launch import FORK
from unival.record import Record

from . import standins

IN_SHARD, BLOCK, QUOTAS = 64, 50, {"caption": 32, "vqa": 64}
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module", params=["file", "s3"])
def store(request, tmp_path_factory):
    """The address of an empty folder: of this machine, or of a server."""
    if request.param == "file":
        yield f"file://{tmp_path_factory.mktemp('store')}"
        return
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("unival")
        yield "s3://unival"
    server.stop()


def prepared(folder: Path, images: int) -> None:
    """A split of two tasks on the same pictures: a row of one for each, two of the other."""
    with (
        ShardWriter(folder, shard_bytes=IN_SHARD * 1024) as shards,
        ManifestWriter(folder, "caption") as captions,
        ManifestWriter(folder, "vqa") as questions,
    ):
        for number in range(images):
            key, picture = f"k{number}", np.full((8, 8, 3), number % 256, np.uint8)
            shards.add(key, "image", ".png", encode_image(picture, ".png"))  # 1024 bytes with its header
            for writer, count in ((captions, 1), (questions, 2)):
                for part in range(count):
                    writer.add(Record(id=f"{number}-{part}", image=key, references=("a red circle",)))


class Processor(standins.Processor):
    """Of real pictures."""

    def fit_image(self, picture):
        return np.asarray(picture)


class Noted(Sampler):
    """Counts how often it gives each row."""

    def rows(self, *arguments):
        dealt = super().rows(*arguments)
        for ref in chain(*dealt):
            self.counts[ref.task][ref.index] += 1
        return dealt


def read_pass(place, cache, rank, ranks):
    """What one rank reads in a pass: how often each row, shards of its cache, bytes that it takes at most."""
    split = remote.mirror(place, cache) / "train"
    store = MediaStore(split)
    data = {
        task: Rows(standins.Task(), read_records(split, task), store, MediaCache(2**16)) for task in QUOTAS
    }
    streams = [StreamConfig(task, quota) for task, quota in QUOTAS.items()]
    mixture = MixtureConfig(sum(QUOTAS.values()), streams, block=BLOCK)
    sampler = Noted(Mixture(mixture, {task: len(rows.records) for task, rows in data.items()}), 0)
    sampler.counts = {task: np.zeros(size, np.int8) for task, size in sampler.mixture.sizes.items()}
    collator = Collator(data, Processor(), 0, "finetuning")
    steps = sampler.mixture.sizes["caption"] // QUOTAS["caption"]
    tracemalloc.start()
    examples = sum(
        batch.num_examples
        for batch in chain.from_iterable(Loader(StepBatches(sampler, collator, steps, rank, ranks, 1), 0, 0))
    )
    peak = tracemalloc.get_traced_memory()[1]
    read = np.concatenate(list(sampler.counts.values()))
    assert examples == read.sum()
    return read, len(list(split.glob("*.tar"))), peak


def on_ranks(ranks, place, caches):
    """`read_pass` on each rank, in a process of its own."""
    with ProcessPoolExecutor(ranks, FORK) as pool:
        reads = [pool.submit(read_pass, place, caches / str(rank), rank, ranks) for rank in range(ranks)]
        return [read.result() for read in reads]


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_rank_fetches_its_part_of_the_shards(store, tmp_path, ranks):
    images, place = 1024, f"{store}/{ranks}"
    prepared(tmp_path / "made/train", images)
    system, root = fsspec.core.url_to_fs(place)
    system.put(str(tmp_path / "made/train"), f"{root}/train", recursive=True)
    read, shards, _ = zip(*on_ranks(ranks, place, tmp_path / "caches"), strict=True)
    assert np.array_equal(sum(read), np.ones(3 * images))
    assert [part.sum() for part in read] == [3 * images / ranks] * ranks
    assert max(shards) <= images / IN_SHARD / ranks + 1


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """But for the index, which is read before."""
    peaks = []
    for images in (512, 4096):
        prepared(tmp_path / f"{images}/train", images)
        ((_, _, peak),) = on_ranks(1, f"file://{tmp_path}/{images}", tmp_path / "caches")
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 2**20
