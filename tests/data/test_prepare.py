import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow.parquet as pq
import pytest

from unival.data import intake, media
from unival.data.catalog import source_of
from unival.data.intake import REJECTED
from unival.data.manifest import read_records
from unival.data.overlap import overlap, overlaps
from unival.data.prepare import PrepareConfig, TokenizerConfig, prepare
from unival.data.source import SOURCES, BadItem, MediaItem, RowItem, Source
from unival.data.store import MediaStore
from unival.errors import UserError
from unival.record import TRAINING_SPLITS, Record

PNG = media.encode_image(np.full((8, 10, 3), 90, np.uint8))
ITEMS: list[Any] = []


@SOURCES.register("for the tests")
def _source(options: Mapping[str, Any], where: str) -> Source:
    def items() -> Iterator[Any]:
        yield from ITEMS

    return Source(items(), "none", {"image_size": 10})


CONFIG = PrepareConfig("tests", "for the tests", {}, 0.0)


def caption(number: int, **changes: Any) -> RowItem:
    row = {"id": f"r{number}", "image": "k", "references": ["a red circle"], **changes}
    return RowItem("train", "caption", row, "rows.jsonl", f"line {number}")


def run(out: Path, items: list[Any], config: PrepareConfig = CONFIG) -> dict[str, Any]:
    ITEMS[:] = items
    return prepare(config, source_of(config), out)


def rejected(out: Path) -> list[dict[str, str]]:
    return pq.read_table(out / REJECTED).to_pylist()


GOOD = [MediaItem("train", "k", PNG, ".png"), caption(1), caption(2)]


def test_media_are_inspected_in_as_many_threads_as_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    monkeypatch.setattr(intake, "ThreadPoolExecutor", None)  # one CPU needs no pool
    assert run(tmp_path / "p", GOOD)


def test_good_items_are_written_and_described(tmp_path: Path) -> None:
    out = tmp_path / "p"
    description = run(out, GOOD)
    assert description["splits"]["train"]["rows"] == {"caption": 2}
    assert description["splits"]["train"]["media"] == {"image": 1}
    assert json.loads((out / "benchmark.json").read_text()) == description
    assert len(read_records(out / "train", "caption")) == 2 and rejected(out) == []
    assert MediaStore(out / "train").bytes("k") == PNG
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_media_come_from_files_too(tmp_path: Path) -> None:
    path = tmp_path / "photo.PNG"
    path.write_bytes(PNG)
    run(tmp_path / "p", [MediaItem("train", "k", path), caption(1)])
    assert MediaStore(tmp_path / "p" / "train").bytes("k") == PNG


@pytest.mark.fault
def test_all_bad_rows_are_listed_in_one_go(tmp_path: Path) -> None:
    out = tmp_path / "p"
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(PNG[:30])
    bad = [
        MediaItem("train", "b", broken),
        MediaItem("train", "m", missing),
        MediaItem("train", "k", PNG, ".png"),
        MediaItem("train", "z", PNG, ".xyz", "file.xyz"),
        caption(3, image="b"),
        caption(4, image="nowhere"),
        caption(1),
        caption(5, references=[]),
        caption(6, txet="x"),
        caption(7, id=7),
        RowItem("train", "captions", {"id": "r8"}, "rows.jsonl", "line 8"),
        RowItem("train", "vqa", {"id": "r9", "image": "k", "text": "?"}, "rows.jsonl", "line 9"),
        RowItem("train", "entailment", entailed("perhaps"), "rows.jsonl", "line 10"),
        RowItem("train", "grounding", boxed(12.0), "rows.jsonl", "line 11"),
        caption(12, image=None, video="k"),
        BadItem("other.jsonl", "line 13", "json", "not JSON"),
    ]
    with pytest.raises(UserError, match=r"rejected\.parquet: 16 of 19 rows and media are bad \(84\.2%"):
        run(out, [*GOOD, *bad])
    assert not out.exists()  # an earlier import would still be there
    faults = pq.read_table(tmp_path / f"p.{REJECTED}").to_pylist()
    table = {(row["row"], row["field"]): row for row in faults}
    for number, field, reason in [
        (3, "image", "was rejected"),
        (4, "image", "no medium with key 'nowhere'"),
        (1, "id", "used twice"),
        (5, "references", "empty"),
        (6, "txet", "did you mean 'text'"),
        (7, "id", "expected text"),
        (8, "task", "did you mean 'caption'"),
        (9, "answers", "needs it"),
        (10, "answers", "not a label"),
        (11, "box", "outside the 10x8"),
        (12, "image", "needs it"),
        (12, "video", "modality image"),
        (13, "json", "not JSON"),
    ]:
        assert reason in table[f"line {number}", field]["reason"], (number, field)
    by_file = {row["file"]: row for row in faults}
    assert by_file[str(broken)]["reason"].startswith("not a readable image")
    assert by_file[str(missing)]["reason"].startswith("cannot read")
    assert "neither image, video nor sound" in by_file["file.xyz"]["reason"]


def entailed(label: str) -> dict[str, Any]:
    return {"id": "e", "image": "k", "text": "it is", "answers": [{"text": label}]}


BORDERS = {
    "left": ([-1.0, 0, 4, 4], [0, 0, 4, 4]),
    "top": ([0, -0.4, 4, 4], [0, 0, 4, 4]),
    "right": ([2, 2, 11, 4], [2, 2, 10, 4]),
    "bottom": ([2, 2, 4, 8.01], [2, 2, 4, 8]),
    "all": ([-1, -1, 11, 9], [0, 0, 10, 8]),
    "none": ([0, 0, 10, 8], [0, 0, 10, 8]),
    "left, too far": ([-1.5, 0, 4, 4], None),
    "top, too far": ([0, -3, 4, 4], None),
    "right, too far": ([2, 2, 11.1, 4], None),
    "bottom, too far": ([2, 2, 4, 20], None),
    "outside": ([10, 0, 10.5, 4], None),
}


@pytest.mark.parametrize(("box", "kept"), BORDERS.values(), ids=BORDERS)
def test_a_box_a_pixel_over_the_border_is_cut(
    box: list[float], kept: list[float] | None, tmp_path: Path
) -> None:
    """The picture is 10 pixels wide and 8 high."""
    row = {"id": "g", "image": "k", "text": "it", "box": box}
    items = [
        MediaItem("train", "k", PNG, ".png"),
        RowItem("train", "grounding", row, "rows.jsonl", "line 4"),
    ]
    description = run(tmp_path / "p", items, replace(CONFIG, max_rejected=1.0))
    if kept is None:
        (fault,) = pq.read_table(tmp_path / "p" / "rejected.parquet").to_pylist()
        assert (fault["file"], fault["row"], fault["field"]) == ("rows.jsonl", "line 4", "box")
        assert "reaches outside the 10x8" in fault["reason"] and description["cut_boxes"] == 0
    else:
        assert list(read_records(tmp_path / "p" / "train", "grounding")[0].box or ()) == kept
        assert description["cut_boxes"] == (kept != box)


def boxed(right: float) -> dict[str, Any]:
    return {"id": "g", "image": "k", "text": "it", "box": [0.0, 0.0, right, 4.0]}


@pytest.mark.fault
@pytest.mark.parametrize("trained", TRAINING_SPLITS)
def test_a_benchmark_shares_no_medium_between_training_and_the_rest(tmp_path: Path, trained: str) -> None:
    shared = [
        *(replace(item, split=trained) for item in GOOD),
        MediaItem("val", "other", PNG, ".png"),
        RowItem("val", "caption", caption(3, image="other").row),
    ]
    config = replace(CONFIG, tokenizer=TokenizerConfig(320, 0, 8))
    with pytest.raises(UserError, match="1 of 1 media of split 'val' are trained on too, as 'other'"):
        run(tmp_path / "p", shared, config)
    run(tmp_path / "q", shared)  # an import only notes it
    found = overlaps(tmp_path / "q")["val"]
    assert (found.by_key, found.by_bytes) == ([], ["other"])
    with pytest.raises(UserError, match="no media index"):
        overlap([tmp_path], tmp_path / "q" / "val")


def test_a_new_task_needs_no_code(tmp_path: Path) -> None:
    row = {"id": "c1", "image": "k", "text": "circles", "answers": [{"text": "two"}]}
    out = tmp_path / "p"
    run(out, [*GOOD, RowItem("train", "counting", row)])
    assert read_records(out / "train", "counting")[0].text == "circles"
    with pytest.raises(UserError, match="not a name of a task"):
        run(out, [*GOOD, RowItem("train", "../counting", row)])


@pytest.mark.fault
def test_a_few_bad_rows_are_left_out_and_listed(tmp_path: Path) -> None:
    out = tmp_path / "p"
    description = run(out, [*GOOD, caption(3, image="none")], replace(CONFIG, max_rejected=0.3))
    assert description["rejected"] == 1 and len(rejected(out)) == 1
    assert len(read_records(out / "train", "caption")) == 2


@pytest.mark.fault
def test_an_empty_source_and_an_unwritable_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows"):
        run(tmp_path / "p", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot write here"):
        run(tmp_path / "file" / "p", GOOD)


@pytest.mark.fault
def test_unknown_source_and_options_name_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown data source 'wrld': did you mean 'world'"):
        source_of(replace(CONFIG, source="wrld"))
    with pytest.raises(UserError, match=r"here\.yaml: options: unknown key 'sed': did you mean 'seed'"):
        source_of(replace(CONFIG, source="world", options={"sed": 1}), "here.yaml")


def test_a_source_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def failing() -> Iterator[Any]:
        yield from GOOD
        raise UserError("source: it fails")

    with pytest.raises(UserError, match="it fails"):
        run(tmp_path / "p", failing())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
def test_two_preparations_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    def another() -> Iterator[Any]:
        with pytest.raises(UserError, match="another process is at work here"):
            prepare(CONFIG, source_of(CONFIG), tmp_path / "p", resume=True)
        yield from GOOD

    ITEMS[:] = []
    description = prepare(CONFIG, Source(another(), "none"), tmp_path / "p")
    assert description["splits"]["train"]["rows"] == {"caption": 2}
    run(tmp_path / "p", GOOD)  # it is free again


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "NFS locks no folder")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert run(tmp_path / "p", GOOD)["splits"]["train"]["rows"] == {"caption": 2}


@pytest.mark.fault
def test_what_is_no_unicode_is_rejected_and_named(tmp_path: Path) -> None:
    """JSON may hold half of a character, and a file's name any bytes."""
    half, name = "a \ud83d dog", "caf\udce9.png"
    (tmp_path / name).write_bytes(PNG)
    items = [
        *GOOD,
        MediaItem("train", half, tmp_path / name),
        MediaItem("train", "n", tmp_path / "with\0zero.png"),
        caption(3, references=[half]),
        RowItem("train", "caption", Record("r4", image="k", references=(half,)), "rows.jsonl", "line 4"),
    ]
    description = run(tmp_path / "p", items, replace(CONFIG, max_rejected=0.9))
    assert description["splits"]["train"]["rows"] == {"caption": 2}
    found = rejected(tmp_path / "p")
    assert [row["field"] for row in found] == ["media", "image", "references", "references"]
    assert found[0]["file"].endswith("caf\\udce9.png") and "not UTF-8" in found[0]["reason"]
    assert "cannot read" in found[1]["reason"]


def test_an_id_that_comes_twice_names_the_other_file(tmp_path: Path) -> None:
    again = replace(caption(1), file="more/rows_2014.jsonl")
    run(tmp_path / "p", [*GOOD, again], replace(CONFIG, max_rejected=0.5))
    (fault,) = rejected(tmp_path / "p")
    assert fault["reason"] == "'r1' is used twice in split 'train', task 'caption': rows.jsonl has it too"


def test_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Media that are decoded out of order, one bad and one twice among them, are written in order."""
    describe = media.describe

    def slow(kind: Any, data: bytes, name: str, part: Any) -> tuple[int, int]:
        time.sleep(0.02 * (len(data) % 3))
        return describe(kind, data, name, part)

    monkeypatch.setattr(media, "describe", slow)
    items: list[Any] = []
    for number in range(24):
        key, path = f"k{number % 23}", tmp_path / f"{number}.png"
        path.write_bytes(PNG[:40] if number == 5 else PNG + bytes(number))
        items += [MediaItem("train", key, path), caption(number, image=key), caption(100 + number, image=key)]
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        out = tmp_path / f"p{cores}"
        splits = run(out, items, replace(CONFIG, max_rejected=0.5))["splits"]
        found.append((splits, rejected(out), MediaStore(out / "train").keys()))
    assert found[0] == found[1]
    assert len(found[0][1]) == 4  # the damaged medium, its two rows, the key that is used twice


def test_the_old_folder_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "p"
    run(out, [*GOOD, MediaItem("val", "k", PNG, ".png"), replace(caption(1), split="val")])
    run(out, GOOD)
    assert not (out / "val").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_the_vocabulary_knows_the_training_text(tmp_path: Path) -> None:
    from unival.vocab import UnivalTokenizer

    config = replace(CONFIG, tokenizer=TokenizerConfig(320, 0, 8, ["what does the image describe?"]))
    many = [*GOOD[:1], *(caption(number) for number in range(30))]
    run(tmp_path / "p", many, config)
    tokenizer = UnivalTokenizer.from_pretrained(tmp_path / "p" / "tokenizer")
    assert tokenizer.num_bins == 8 and len(tokenizer.encode_text(" a red circle")) <= 6
