"""Damaged inputs in every official form: each is reported with its file, none crashes, hangs or passes."""

import csv
import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import official
import pyarrow.parquet as pq
import pytest

from unival.data.importing import import_dataset
from unival.data.media import SUFFIXES
from unival.errors import UserError

pytestmark = pytest.mark.fault
TEXTS = (".json", ".jsonl", ".csv", ".tsv", ".txt")
TABLES = (".csv", ".tsv", ".txt")


def encoded(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content)).encode()


def truncated(data: bytes, suffix: str) -> bytes:
    """Of lines all but the last, and one character of that; of anything else the first half."""
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    return data[: start + 1] if suffix in TABLES or b"}\n{" in data else data[: len(data) // 2]


def not_utf8(data: bytes, suffix: str) -> bytes:
    """Latin-1 in the last line."""
    place = len(data.rstrip(b'\n}]"')) - 1
    return data[:place] + b"\xe9\xff" + data[place:]


def empty(data: bytes, suffix: str) -> bytes:
    return b""


def wrong_type(data: bytes, suffix: str) -> bytes:
    """A number where rows should be."""
    return b"5\n"


def numbers_for_rows(data: bytes, suffix: str) -> bytes:
    """The innermost lists of objects hold numbers instead."""

    def change(value: Any) -> Any:
        if isinstance(value, list) and value and not isinstance(value[0], dict | list):
            return value
        if isinstance(value, list):
            return [5, None, *value[2:]]
        return {key: change(item) for key, item in value.items()} if isinstance(value, dict) else 5

    return json.dumps(change(json.loads(data))).encode()


def swapped_columns(data: bytes, suffix: str) -> bytes:
    """The header stays (where there is one), the cells of every line are in reverse order."""
    delimiter = next(mark for mark in ("\t", "|", ",", " ") if mark in data.decode())
    lines = list(csv.reader(io.StringIO(data.decode()), delimiter=delimiter))
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator="\n").writerows(
        line if number == 0 < len(lines) - 1 else line[::-1] for number, line in enumerate(lines)
    )
    return buffer.getvalue().encode()


def duplicate_ids(data: bytes, suffix: str) -> bytes:
    """Every row twice."""
    if suffix != ".json":
        header, *rows = data.decode().splitlines()
        return "\n".join([header, *rows, *rows, ""]).encode()
    value = json.loads(data)
    rows = (
        value if isinstance(value, list) else next(item for item in value.values() if isinstance(item, list))
    )
    rows += list(rows)
    return json.dumps(value).encode()


def text_file(data: bytes, suffix: str) -> bytes:
    return b"<html>404 not found</html>"


def huge(data: bytes, suffix: str) -> bytes:
    """A PNG whose header claims 10^6 x 10^6 pixels."""
    return official.PNG[:16] + struct.pack(">II", 10**6, 10**6) + official.PNG[24:]


def no_video_stream(data: bytes, suffix: str) -> bytes:
    return official.WAV


def nan_sound(data: bytes, suffix: str) -> bytes:
    """A wav of 32-bit floats, one of them NaN."""
    samples = np.full(800, 0.1, "<f4")
    samples[400] = np.nan
    form = struct.pack("<HHIIHH", 3, 1, 8000, 32000, 4, 32)
    chunks = (
        b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", 3200) + samples.tobytes()
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


Damage = Callable[[bytes, str], bytes]
OF_MEDIA: dict[str, tuple[Damage, ...]] = {
    "image": (truncated, empty, text_file, huge),
    "video": (truncated, empty, text_file, no_video_stream),
    "audio": (truncated, empty, text_file, nan_sound),
}
WITH_IDS = {
    "vqav2", "okvqa", "vizwiz", "snli_ve", "refcoco", "visual_genome", "msrvtt_qa", "msvd_qa", "vatex",
    "webvid", "clotho", "esc50", "vggsound", "table",
}  # fmt: skip
"""Sets whose rows have an id of their own; of others a row that comes twice is one caption more."""


def cases() -> Iterator[Any]:
    for name, (files, _) in official.OFFICIAL.items():
        for file, content in files.items():
            for damage in damages(name, file, content):
                yield pytest.param(name, file, damage, id=f"{name}-{Path(file).name}-{damage.__name__}")


def damages(name: str, file: str, content: Any) -> Iterator[Damage]:
    suffix = Path(file).suffix.lower()
    if suffix in SUFFIXES:
        if file == next(
            entry for entry in official.OFFICIAL[name][0] if Path(entry).suffix.lower() in SUFFIXES
        ):
            yield from OF_MEDIA[SUFFIXES[suffix]]
        return
    yield from (truncated, empty, wrong_type)
    if suffix in TEXTS:
        yield not_utf8
    if suffix == ".json" and name not in ("nlvr", "sbu"):
        yield numbers_for_rows
    if suffix in TABLES and name not in ("text_captions", "msvd") and "Images.txt" not in file:
        yield swapped_columns
    if (
        name in WITH_IDS
        and suffix in TEXTS
        and not any(word in file for word in ("annotations", "mapping", "instances"))
    ):
        yield duplicate_ids


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(("name", "file", "damage"), list(cases()))
def test_damage_is_reported(name: str, file: str, damage: Damage, tmp_path: Path) -> None:
    official.make(name, tmp_path / "in")
    path = tmp_path / "in" / file
    path.write_bytes(damage(path.read_bytes(), path.suffix.lower()))
    with pytest.raises(UserError) as refused:
        import_dataset(name, tmp_path / "in", tmp_path / "out", max_rejected=0.0)
    table = tmp_path / "out.rejected.parquet"
    if not table.is_file():  # nothing at all could be read: the message names the file
        assert path.name in str(refused.value)
        return
    faults = pq.read_table(table).to_pylist()
    assert all(fault["file"] and fault["field"] and fault["reason"] for fault in faults)
    named = [
        fault["file"] + fault["reason"] for fault in faults
    ]  # a question may be missing in its annotations
    assert any(path.name in text for text in named), faults


def test_there_are_many_damages() -> None:
    assert len(list(cases())) >= 200
