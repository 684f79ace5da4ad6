"""Small inputs that stand for very large ones are refused, before memory or time is gone."""

import bz2
import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from official import JPG, PNG, lines, make, write

from unival import config, limits
from unival.data.importing import import_dataset
from unival.data.sources import safe_pickle
from unival.data.sources.digit_sets import read_idx
from unival.data.sources.formats import csv_rows, jsonl_rows, line_rows
from unival.data.sources.json_stream import json_values
from unival.data.sources.tables import read_parquet
from unival.errors import UserError
from unival.files import larger, read_json

pytestmark = pytest.mark.fault
MIB = 2**20


@pytest.fixture(autouse=True)
def soon_and_small(soon: None) -> Iterator[None]:
    """Each ends within seconds and takes no more than 200 MiB."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * MIB


def zeros(count: int, byte: bytes = b"0") -> bytes:
    """A gzip file of nothing but one byte."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as handle:
        for _ in range(count // MIB):
            handle.write(byte * MIB)
    return buffer.getvalue()


READERS: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "one JSON value": ("x.json.gz", b"1", lambda path: list(json_values(path))),
    "blanks before JSON": ("x.json.gz", b" ", lambda path: list(json_values(path))),
    "one line of JSON": ("x.jsonl.gz", b"1", lambda path: list(jsonl_rows(path))),
    "blank lines": ("x.txt.gz", b"\n", lambda path: list(line_rows(path))),
    "a CSV of one field": ("x.csv.gz", b"a", lambda path: list(csv_rows()(path))),
    "an array": ("x-idx3-ubyte.gz", b"\0", read_idx),
}


@pytest.mark.parametrize(("name", "byte", "read"), READERS.values(), ids=READERS)
def test_packed_texts(
    name: str, byte: bytes, read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, value in {
        "PACKED_RATIO": 5,
        "PACKED_SPARE": MIB,
        "LINE_CHARS": MIB,
        "VALUE_CHARS": MIB,
    }.items():
        monkeypatch.setattr(limits, limit, value)
    path = write(tmp_path / name, zeros(16 * MIB, byte))
    with pytest.raises(UserError, match=name.split(".")[0]):
        read(path)


def test_a_packed_text_of_a_usual_kind_is_read(tmp_path: Path) -> None:
    text = "".join(f'{{"id": {number}}}\n' for number in range(10_000))
    path = write(tmp_path / "x.jsonl.gz", gzip.compress(text.encode()))
    assert len(list(jsonl_rows(path))) == 10_000


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_packed_archives(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member of zeros, and a header that claims to be as long."""
    monkeypatch.setattr(limits, "PACKED_SPARE", MIB)
    for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        member = tarfile.TarInfo("a.jpg")
        member.size, member.type = 32 * MIB, kind
        write(tmp_path / "in" / "train.tar", pack(member.tobuf(tarfile.GNU_FORMAT) + bytes(33 * MIB)))
        with pytest.raises(UserError, match="it unpacks to more than 100 times its size"):
            import_dataset("webdataset", tmp_path / "in", tmp_path / "out", max_rejected=0.0)


def test_packed_archives_of_a_usual_kind_are_read(tmp_path: Path) -> None:
    make("webdataset", tmp_path / "in")
    path = tmp_path / "in" / "cc-train-0.tar"
    data = path.read_bytes()
    for pack in (gzip.compress, bz2.compress):
        write(path, pack(data))
        import_dataset("webdataset", tmp_path / "in", tmp_path / "out", expect={"train/caption": 2})


def test_an_array_of_nothing_with_impossible_sizes(tmp_path: Path) -> None:
    path = write(tmp_path / "x-idx4-ubyte", struct.pack(">4B4I", 0, 0, 8, 4, 0, *[2**31] * 3))
    with pytest.raises(UserError, match="the header says"):
        read_idx(path)


def test_a_sparse_member_is_not_filled(tmp_path: Path) -> None:
    """GNU's form of a file that is mostly holes: its header says how long they are."""
    member = tarfile.TarInfo("a.jpg")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)
    header[483:495] = b"%011o\0" % (900 * MIB)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    text = tarfile.TarInfo("a.txt")
    text.size = 5
    data = bytes(header) + bytes(512) + text.tobuf() + b"a dog".ljust(512, b"\0") + bytes(1024)
    write(tmp_path / "in" / "train.tar", data)
    with pytest.raises(UserError, match="bad"):
        import_dataset("webdataset", tmp_path / "in", tmp_path / "out", max_rejected=0.0)


@pytest.mark.parametrize("name", ["photos/000000000001.jpg", "more.zip", "annotations/captions_val2017.json"])
def test_a_pipe_is_no_file(name: str, tmp_path: Path) -> None:
    make("coco_captions", tmp_path / "in")
    path = tmp_path / "in" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    description = import_dataset("coco_captions", tmp_path / "in", tmp_path / "out", max_rejected=0.5)
    assert description["rejected"] == (2 if name.endswith(".jpg") else 0)


@pytest.mark.parametrize("read", [read_json, config.load])
def test_a_pipe_is_no_text(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(UserError, match="x: not a regular file"):
        read(tmp_path / "x")


def doubled(levels: int) -> str:
    """YAML whose last list holds 2 ** levels values."""
    return "a0: &a0 [x, x]\n" + "".join(
        f"a{level}: &a{level} [*a{level - 1}, *a{level - 1}]\n" for level in range(1, levels)
    )


def test_yaml_does_not_multiply(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.yaml: its anchors multiply"):
        config.load(write(tmp_path / "x.yaml", doubled(60)))
    assert len(config.load(write(tmp_path / "x.yaml", doubled(3)))["a2"]) == 2
    write(tmp_path / "x.yaml", "a: " + "b" * limits.YAML_BYTES)
    with pytest.raises(UserError, match=r"x\.yaml: more than 4194304 bytes"):
        config.load(tmp_path / "x.yaml")


def test_pickles_do_not_multiply() -> None:
    value: list[object] = []
    for _ in range(60):
        value = [value, value]
    endless: list[object] = []
    endless.append(endless)
    for bad in (value, endless):
        with pytest.raises(UserError, match="x: refused: it refers to itself"):
            safe_pickle.loads(pickle.dumps(bad), "x")
    shared = ["a"]
    assert safe_pickle.loads(pickle.dumps([shared] * 20), "x") == [["a"]] * 20


LARGE_CLAIMS = {
    "a place of the memory": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "a byte array": b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"x.",
    "a number": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1.",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
}


@pytest.mark.parametrize("data", LARGE_CLAIMS.values(), ids=LARGE_CLAIMS)
def test_pickles_that_claim_much(data: bytes) -> None:
    try:
        assert safe_pickle.loads(data, "x") is None
    except UserError as error:
        assert "x: not a readable pickle" in str(error)


def test_parquet_of_one_long_text_in_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored once, by its number in each row."""
    monkeypatch.setattr(limits, "UNPACKED_BYTES", 2**24)
    numbers = pa.array([0] * 200, pa.int32())
    table = pa.table({"id": pa.DictionaryArray.from_arrays(numbers, ["a" * 4 * MIB])})
    pq.write_table(table, tmp_path / "x.parquet", use_dictionary=True)
    del table
    assert (tmp_path / "x.parquet").stat().st_size < MIB
    for number, (_, row) in enumerate(read_parquet(tmp_path / "x.parquet")):  # type: ignore[misc]
        assert len(row["id"]) == 4 * MIB and number < 200


def test_parquet_of_endless_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TABLE_VALUES", 10_000)
    pq.write_table(pa.table({"references": [["a"] * 20_000]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"'references.*': more than 10000 values"):
        list(read_parquet(tmp_path / "x.parquet"))


def test_json_that_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JSON_BYTES", 100)
    with pytest.raises(UserError, match=r"x\.json: more than 100 bytes"):
        read_json(write(tmp_path / "x.json", "1" * 101))


def test_deep_json_in_a_row_is_a_fault_of_the_row(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", PNG)
    row = {"id": "1", "image": "a.png", "references": ["x"]}
    deep = lines({**row, "id": "2", "extra": "[" * 100_000})
    write(tmp_path / "in" / "val_caption.jsonl", lines(row) + deep)
    description = import_dataset("table", tmp_path / "in", tmp_path / "out", max_rejected=0.5)
    assert description["rejected"] == 1


def test_a_value_counts_as_often_as_it_is_reached() -> None:
    shared = {"a": [1, 2]}
    assert not larger([shared, shared], 11) and larger([shared, shared], 10)
    assert JPG and not larger(5, 1)
