"""Annotations of any length in constant memory: JSON value by value, and what is remembered on disk."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from unival import limits
from unival.data import media
from unival.data.disk_map import DiskMap, Groups
from unival.data.sources import json_stream
from unival.data.sources.json_stream import json_keys, json_lists, json_values
from unival.errors import UserError

LETTERS = 'ab 0"\\\n{}[],:é\u4e2d\U0001f600'


def some_value(rng: Random, depth: int = 0) -> Any:
    """JSON of every kind, with marks of JSON in its texts."""
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return [some_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return {some_text(rng): some_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    number = rng.uniform(-1, 1) * 10 ** rng.randrange(30)
    return (None, True, rng.randrange(-999, 10**12), number, 0.0, some_text(rng))[kind]


def some_text(rng: Random) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randrange(8)))


@pytest.mark.parametrize("seed", range(60))
def test_values_are_those_of_json(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the pieces end in which a file is read."""
    rng, path = Random(seed), tmp_path / "x.json"
    monkeypatch.setattr(json_stream, "CHUNK", 1 + seed % 20)
    form: dict[str, Any] = {"indent": rng.choice([None, 2]), "ensure_ascii": rng.random() < 0.5}
    values = [some_value(rng) for _ in range(rng.randrange(6))]
    path.write_text(json.dumps(values, **form), encoding="utf-8")
    assert list(json_values(path)) == values
    whole = {"info": {"a": [1, {"b": []}]}, "rows": values, "more": values, "n": 5}
    path.write_text(json.dumps(whole, **form), encoding="utf-8")
    assert list(json_lists(path, "rows")) == [("rows", value) for value in values]
    assert list(json_values(path, "{")) == list(whole.items())
    assert json_keys(path) == list(whole)


def test_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf[1, 2.5]"))
    assert list(json_values(path)) == [1, 2.5]
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(UserError, match=r"x\.json\.gz: cannot read on"):
        list(json_values(path))


DAMAGE = {
    "[1, 2": "line 1: not JSON: expected , or ], found the end",
    "[1,\n2,\n]": "line 3: not JSON: Expecting value",
    "[1 2]": "line 1: not JSON: expected , or ], found 2",
    "[1]\n[2]": "line 2: not JSON: there is more",
    '["a\nb"]': "line 1: not JSON: Invalid control character",
    '{"a" 1}': "expected a list at the top level, found an object",
    "": "expected a list at the top level, found nothing",
    "[" + "[" * 100_000: "line 1: not JSON: lists too deep",
}


@pytest.mark.fault
@pytest.mark.parametrize("text", DAMAGE, ids=range(len(DAMAGE)))
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_damage_names_file_line_and_reason(
    text: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"x\.json: ") as error:
        list(json_values(path))
    assert DAMAGE[text] in str(error.value)


@pytest.mark.fault
def test_bytes_that_are_not_text_and_values_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'["a",\n"\xff"]')
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        list(json_values(path))
    monkeypatch.setattr(json_stream, "CHUNK", 100)
    monkeypatch.setattr(limits, "VALUE_CHARS", 1000)
    path.write_text('["' + "a" * 5000)
    with pytest.raises(UserError, match="a value of more than 1000"):
        list(json_values(path))
    path.write_text('{"rows": {"a": 1}}')
    with pytest.raises(UserError, match="'rows' is not a list"):
        list(json_lists(path, "rows"))
    with pytest.raises(UserError, match="no list 'rosw': did you mean 'rows'"):
        list(json_lists(path, "rosw"))


def test_a_spool_is_a_mapping() -> None:
    spool = DiskMap()
    names = ["b", "a\0b", "a", "", "\udcff"]
    assert all(spool.add(name, name + "!") for name in names)
    assert not spool.add("a", "other")
    assert [spool.get(name) for name in names] == [name + "!" for name in names]
    assert "c" not in spool and spool.get("c") is None
    assert sorted(spool) == sorted(names)


def test_groups_come_in_the_order_of_their_first_values() -> None:
    groups = Groups()
    for key, value in [(2, "a"), ("2", "b"), (1, "c"), (2, ["d", None])]:
        groups.add(key, value)
    assert list(groups) == [(2, ["a", ["d", None]]), ("2", ["b"]), (1, ["c"])]
    assert list(Groups()) == []


PEAK = """
import json, resource, sys
from pathlib import Path
from unival.data.importing import import_dataset
root, rows = Path(sys.argv[1]), int(sys.argv[2])
with (root / "train_caption.jsonl").open("w") as handle:
    for n in range(rows):
        row = {"id": str(n), "image": f"{n % 20}.png", "references": ["a thing"]}
        print(json.dumps(row), file=handle)
out = root.with_name(root.name + "-out")
import_dataset("table", root, out, max_rejected=0.0, expect={"train/caption": rows})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for rows in (10_000, 100_000):
        root = tmp_path / str(rows)
        root.mkdir()
        for number in range(20):
            pixels = np.full((8, 8, 3), number, np.uint8)
            (root / f"{number}.png").write_bytes(media.encode_image(pixels))
        run = subprocess.run(
            [sys.executable, "-c", PEAK, str(root), str(rows)], check=True, capture_output=True, text=True
        )
        peaks.append(float(run.stdout))
    assert peaks[1] < peaks[0] + 16, peaks  # MiB
