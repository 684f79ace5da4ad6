"""Prepared data on an object store: equal to local data, and read through failures of the store."""

import multiprocessing
import os
import time

import fsspec
import pytest

from unival.data import remote
from unival.data.store import MediaStore, ShardWriter
from unival.errors import UserError

URL = "memory://bucket/world"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A split of two shards in memory; gives the file system and the media."""
    media = {f"m{number}": bytes([number]) * 700 for number in range(4)}
    with ShardWriter(tmp_path / "train", shard_bytes=2500) as writer:
        for key, data in media.items():
            writer.add(key, "image", ".png", data)
    system = fsspec.filesystem("memory")
    for path in (tmp_path / "train").iterdir():
        system.pipe_file(f"/bucket/world/train/{path.name}", path.read_bytes())
    monkeypatch.setattr(remote, "WAITS", (0, 0, 0))
    yield system, media
    system.rm("/bucket", recursive=True)


def test_shards_come_when_they_are_opened(tmp_path, store):
    system, media = store
    folder = remote.mirror(URL, tmp_path / "cache")
    assert not list(folder.glob("train/*.tar"))
    opened = MediaStore(folder / "train")
    assert opened.bytes("m0") == media["m0"]
    assert [path.name for path in folder.glob("train/*.tar")] == ["media-00000.tar"]
    assert {key: opened.bytes(key) for key in media} == media
    assert len(list(folder.glob("train/*.tar"))) == 2
    system.rm("/bucket/world/train/media-00000.tar")
    assert MediaStore(remote.mirror(URL, tmp_path / "cache") / "train").bytes("m0") == media["m0"]


def test_ranks_of_a_node_copy_a_file_once(tmp_path, store, monkeypatch):
    system, media = store
    get, count = type(system).get_file, tmp_path / "requests"

    def slow(self, name, place, **options):
        with count.open("a") as requests:
            requests.write(f"{name}\n")
        time.sleep(0.2)
        return get(self, name, place, **options)

    def rank():
        opened = MediaStore(remote.mirror(URL, tmp_path / "cache") / "train")
        assert {key: opened.bytes(key) for key in media} == media

    monkeypatch.setattr(type(system), "get_file", slow)
    ranks = [multiprocessing.get_context("fork").Process(target=rank) for _ in range(4)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    assert [process.exitcode for process in ranks] == [0] * 4
    requests = count.read_text().split()
    assert len(requests) == len(set(requests)) == 3, "two shards and the index"


def test_a_rank_never_reads_half_of_where_the_data_are(tmp_path, store):
    folder = remote.mirror(URL, tmp_path)
    with (folder / remote.ORIGIN).open() as before:  # as another rank has it open
        remote.mirror(URL, tmp_path)
        after = (folder / remote.ORIGIN).stat()
        assert not os.path.samestat(os.fstat(before.fileno()), after), "replaced, not written over"


@pytest.mark.fault
def test_a_store_that_fails_and_comes_back(tmp_path, store, monkeypatch):
    system, media = store
    folder = remote.mirror(URL, tmp_path / "cache")
    get, attempts = type(system).get_file, []

    def flaky(self, *arguments, **options):
        attempts.append(1)
        if len(attempts) % 3:
            raise ConnectionError("no route to the store")
        return get(self, *arguments, **options)

    monkeypatch.setattr(type(system), "get_file", flaky)
    opened = MediaStore(folder / "train")
    assert {key: opened.bytes(key) for key in media} == media and len(attempts) == 6
    monkeypatch.setattr(remote, "WAITS", (0,))
    (folder / "train/media-00000.tar").unlink()
    with pytest.raises(UserError, match="the store fails: no route to the store"):
        MediaStore(folder / "train").bytes("m0")
    assert not list(folder.glob("train/*media-00000*"))


@pytest.mark.fault
def test_nothing_there(tmp_path, store):
    with pytest.raises(UserError, match=r"no prepared data there|not in the store"):
        remote.mirror("memory://bucket/wrold", tmp_path)
    store[0].rm("/bucket/world/train/media-00001.tar")
    opened = MediaStore(remote.mirror(URL, tmp_path / "cache") / "train")
    with pytest.raises(UserError, match="not in the store"):
        opened.bytes("m3")
