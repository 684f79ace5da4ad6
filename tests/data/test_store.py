import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unival.data import media
from unival.data.manifest import FIELDS, ManifestWriter, check_row, manifest_path, read_records
from unival.data.remote import ORIGIN
from unival.data.store import MediaStore, ShardWriter
from unival.errors import UserError
from unival.record import Answer, Record

FULL = Record(
    "r1",
    image="k1",
    text="is it?",
    references=("a", "b"),
    answers=(Answer("yes"), Answer("no", 0.3)),
    box=(1.0, 2.0, 3.0, 4.5),
    objects=("red circle",),
    form="exist",
    facts="{}",
    extra={"source": "x", "ä": "ö"},
)


def write_rows(folder: Path, *records: Record) -> None:
    with ManifestWriter(folder, "vqa") as writer:
        for record in records:
            writer.add(record)


def test_records_come_back_equal(tmp_path: Path) -> None:
    bare = Record("r2", video="v", audio="a")
    write_rows(tmp_path, FULL, bare)
    rows = read_records(tmp_path, "vqa")
    assert list(rows) == [FULL, bare] and len(rows) == 2
    assert rows[-1] == bare and rows[0:2] == [FULL, bare] and rows.ids == ["r1", "r2"]
    with pytest.raises(IndexError):
        rows[2]


def test_many_groups_keep_their_order(tmp_path: Path) -> None:
    write_rows(tmp_path, *(Record(f"r{number}", text=f"t{number}") for number in range(9000)))
    rows = read_records(tmp_path, "vqa")
    assert [rows[i].text for i in (0, 4095, 4096, 8999)] == ["t0", "t4095", "t4096", "t8999"]


def test_a_failed_writer_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ManifestWriter(tmp_path, "vqa") as writer:
        writer.add(FULL)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
def test_missing_and_broken_manifests_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vqa\.parquet: no rows of task 'vqa'.*prepare"):
        read_records(tmp_path, "vqa")
    (tmp_path / "test").mkdir()
    manifest_path(tmp_path / "test", "vqa").touch()
    with pytest.raises(UserError, match="no rows of task 'vqa': give one of its splits: test"):
        read_records(tmp_path, "vqa")
    manifest_path(tmp_path, "vqa").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"vqa\.parquet: not a readable"):
        read_records(tmp_path, "vqa")
    pq.write_table(pa.table({"id": ["a"], "txt": ["b"]}), manifest_path(tmp_path, "vqa"))
    with pytest.raises(UserError, match=r"unknown column 'txt': did you mean 'text'"):
        read_records(tmp_path, "vqa")
    pq.write_table(pa.table({"id": ["a"]}), manifest_path(tmp_path, "vqa"))
    with pytest.raises(UserError, match="missing column"):
        read_records(tmp_path, "vqa")
    columns = {name: pa.array(["x"]) for name in FIELDS}
    pq.write_table(pa.table(columns), manifest_path(tmp_path, "vqa"))
    with pytest.raises(UserError, match="wrong type"):
        read_records(tmp_path, "vqa")


@pytest.mark.parametrize(
    "row, field",
    [
        ({"id": "a", "txt": "b"}, "txt"),
        ({"id": 3}, "id"),
        ({"text": "b"}, "id"),
        ({"id": "a", "box": [0, 0, 5]}, "box"),
        ({"id": "a", "box": [5, 0, 2, 2]}, "box"),
        ({"id": "a", "box": [0, 0, float("nan"), 2]}, "box"),
        ({"id": "a", "box": "0,0,2,2"}, "box"),
        ({"id": "a", "answers": ["yes"]}, "answers"),
        ({"id": "a", "answers": [{"text": "yes", "weight": 2}]}, "answers"),
        ({"id": "a", "references": "one"}, "references"),
        ({"id": "a", "references": [1]}, "references"),
        ({"id": "a", "image": ""}, "image"),
        ({"id": "a", "text": "a\x00b"}, "text"),
        ({"id": "a", "extra": {"a": 1}}, "extra"),
    ],
)
@pytest.mark.fault
def test_a_bad_row_is_explained(row: dict, field: str) -> None:
    record, problems = check_row(row)
    assert record is None and [name for name, _ in problems] == [field]


def test_a_row_reports_all_its_problems() -> None:
    _, problems = check_row({"id": 1, "box": 1, "imge": "x"})
    assert {name for name, _ in problems} == {"id", "box", "imge"}
    assert ("imge", "unknown field: did you mean 'image'?") in problems


@pytest.fixture
def split(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path, shard_bytes=6000) as writer:
        for number in range(12):
            pixels = np.full((16, 16, 3), number, np.uint8)
            writer.add(f"i{number}", "image", ".png", media.encode_image(pixels))
        writer.add("a" * 150, "audio", ".wav", media.encode_wav(np.zeros(900), 8000))
    return tmp_path


def test_random_access_across_shards(split: Path) -> None:
    store = MediaStore(split)
    assert len(store) == 13 and "i3" in store and "x" not in store
    assert len(list(split.glob("media-*.tar"))) > 1
    for number in (11, 0, 5):
        assert (store.image(f"i{number}") == number).all()
    assert store.audio("a" * 150).shape == (900,) and store.modality("i0") == "image"


def test_shards_are_ordinary_tar_files(split: Path) -> None:
    store = MediaStore(split)
    for path in split.glob("media-*.tar"):
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                handle = archive.extractfile(member)
                assert handle is not None
                assert handle.read() == store.bytes(member.name.rsplit(".", 1)[0])


def test_a_store_survives_pickling_and_fork(split: Path) -> None:
    store = MediaStore(split)
    store.bytes("i0")
    assert (pickle.loads(pickle.dumps(store)).image("i7") == 7).all()
    child = os.fork()
    if child == 0:
        os._exit(0 if (store.image("i9") == 9).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_equal_media_are_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        with ShardWriter(tmp_path / name) as writer:
            writer.add("k", "image", ".png", media.encode_image(np.zeros((4, 4, 3), np.uint8)))
    files = [sorted(path.read_bytes() for path in (tmp_path / name).iterdir()) for name in "ab"]
    assert files[0] == files[1]


@pytest.mark.fault
def test_store_errors_name_shard_and_key(split: Path) -> None:
    store = MediaStore(split)
    with pytest.raises(UserError, match=r"unknown media key 'i12': did you mean"):
        store.image("i12")
    with pytest.raises(UserError, match=r"media-0000\d\.tar: key 'i1': "):
        store.audio("i1")
    shard = split / "media-00000.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(UserError, match=r"media-00000\.tar: key 'i2': the shard is cut short"):
        MediaStore(split).image("i2")
    shard.unlink()
    with pytest.raises(UserError, match=r"media-00000\.tar: cannot open the shard"):
        MediaStore(split).image("i0")
    (split / "media.parquet").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"media\.parquet: not a readable media index"):
        MediaStore(split)
    with pytest.raises(UserError, match=r"no media index.*prepare"):
        MediaStore(split / "none")


@pytest.mark.fault
def test_a_split_says_which_shard_is_not_on_this_machine(split: Path) -> None:
    """Before any of it is read; a mirror fetches what it lacks."""
    store = MediaStore(split)
    assert store.lacking() == ""
    last = sorted(split.glob("*.tar"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:600])
    assert store.lacking() == f"{last}: the shard is cut short"
    last.unlink()
    assert store.lacking() == f"{last}: no such shard"
    (split / ORIGIN).write_text("s3://bucket/world")
    assert store.lacking() == ""


@pytest.mark.fault
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_bit_that_flips_in_a_medium_is_noticed(split: Path, place: float) -> None:
    """In each of them, whether it still decodes or not."""
    whole = {key: MediaStore(split).bytes(key) for key in MediaStore(split).keys()}  # noqa: SIM118
    for key, data in whole.items():
        for shard in split.glob("*.tar"):
            content = bytearray(shard.read_bytes())
            if (start := content.find(data)) >= 0:
                content[start + int(place * len(data))] ^= 4
                shard.write_bytes(content)
                with pytest.raises(UserError, match=f"key '{key}': the shard has changed since it was writ"):
                    MediaStore(split).bytes(key)
                content[start + int(place * len(data))] ^= 4
                shard.write_bytes(content)
    assert {key: MediaStore(split).bytes(key) for key in whole} == whole


def test_a_key_is_used_once(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.add("k", "image", ".png", b"x")
    with pytest.raises(UserError, match="'k' is used twice"):
        writer.add("k", "image", ".png", b"x")
    writer.close()
