"""The readers and the two real benchmarks on the folder UNIVAL_DATA; counts are those of its README."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from unival import config
from unival.data.benchmarks.world.handwriting import other_handwriting
from unival.data.catalog import load_sources, source_of
from unival.data.importing import import_dataset
from unival.data.manifest import read_records
from unival.data.media import SUFFIXES
from unival.data.prepare import PrepareConfig, prepare
from unival.data.source import MediaItem
from unival.data.sources.ofa_tsv import write_tsv
from unival.data.sources.reader import READERS
from unival.data.store import MediaStore
from unival.record import Record

DATA = Path(os.environ.get("UNIVAL_DATA", ""))
BENCHMARKS = Path(__file__).parents[2] / "conf" / "benchmark"
pytestmark = pytest.mark.skipif(
    not os.environ.get("UNIVAL_DATA"), reason="UNIVAL_DATA names no folder with the real data"
)

SETS: list[tuple[str, str, dict[str, int]]] = [
    ("coco_captions", "coco", {"train/caption": 80, "val/caption": 159}),
    ("vqav2", "coco", {"train/vqa": 826 + 571, "val/vqa": 585}),
    ("refcoco", "coco", {"train/grounding": 206 + 160, "val/grounding": 165}),
    ("flickr8k", "flickr8k_1000", {"train/caption": 700}),
    ("snli_ve", "flickr8k_1000", {"val/entailment": 428, "test/entailment": 542}),
    ("esc50", "esc10", {"train/audio_caption": 240, "val/audio_caption": 80, "val/audio_qa": 80}),
    ("fsdd", "fsdd", {"train/audio_caption": 1800, "train/audio_qa": 1800}),
    ("msrvtt", "demo_videos", {"train/video_caption": 23}),
    ("msrvtt", "moving_digits", {"train/video_caption": 720}),
    ("msrvtt", "weizmann_actions", {"train/video_caption": 40, "val/video_caption": 8}),
    ("msvd_qa", "demo_videos", {"train/video_qa": 22}),
    ("msrvtt_qa", "moving_digits", {"train/video_qa": 1440}),
    ("nlvr", "nlvr", {"val/entailment": 989, "test/entailment": 990}),
    ("sign_digits", "sign_digits", {"train/caption": 1444, "train/vqa": 1444}),
    ("cc12m", "cc12m_mini", {"train/caption": 22}),
    ("webdataset", "cc12m_mini", {"train/caption": 22}),
]
"""Reader, folder, and the rows that the folder's README says are there; where no split is told, in train."""
LARGE: list[tuple[str, str, dict[str, int]]] = [
    ("clotho", "esc10", {"train/audio_caption": 320}),
    ("easy_vqa", "easy_vqa", {"train/vqa": 38_575}),
    ("usps", "usps", {"train/caption": 7_291}),
    ("mnist", "mnist", {"train/caption": 60_000}),
]
TEXTS: list[tuple[str, str, dict[str, int]]] = [
    ("audiocaps", "audiocaps_csv", {"train/text": 49_838, "val/text": 2_475}),
    ("msvd", "msvd_captions_text", {"train/text": 19_368}),
    ("text_captions", "coco/annotations/captions_val2017_rest_textonly.json", {"val/text": 23_598}),
    ("text_captions", "flickr8k_1000/captions_text_only_rest.txt", {"train/text": 5 * 7_091}),
]


@pytest.mark.parametrize(
    ("name", "folder", "expect"), [*SETS, *(pytest.param(*entry, marks=pytest.mark.slow) for entry in LARGE)]
)
def test_counts_and_bytes(name: str, folder: str, expect: dict[str, int], tmp_path: Path) -> None:
    """Every row of the README, and every medium byte for byte as it was."""
    description = import_dataset(
        name, DATA / folder, tmp_path / "out", max_rejected=0.0, split="train", expect=expect
    )
    assert description["rejected"] == 0
    stores = {split: MediaStore(tmp_path / "out" / split) for split in description["splits"]}
    given = [item for item in READERS[name].read(DATA / folder) if isinstance(item, MediaItem)]
    assert len(given) == sum(map(len, stores.values()))
    for item in given:
        data = item.data if isinstance(item.data, bytes) else item.data.read_bytes()
        assert stores[item.split or "train"].bytes(item.key) == data


@pytest.mark.parametrize(("name", "folder", "expect"), TEXTS)
def test_texts_without_media(name: str, folder: str, expect: dict[str, int], tmp_path: Path) -> None:
    text_only = name != "text_captions"
    import_dataset(
        name,
        DATA / folder,
        tmp_path / "out",
        max_rejected=0.0,
        text_only=text_only,
        split="train",
        expect=expect,
    )


def test_every_photo_clip_and_sound_is_read() -> None:
    load_sources()
    there = {path for path in DATA.glob("*/**/*") if path.suffix in SUFFIXES}
    read = {
        item.data
        for name, folder, _ in SETS
        for item in READERS[name].read(DATA / folder)
        if isinstance(item, MediaItem) and isinstance(item.data, Path)
    }
    assert len(read) > 5000
    unnamed = {"000000000250.jpg", "000000000508.jpg"}  # coco128's annotations say nothing of them
    assert {path.name for path in there - read} == unnamed


@pytest.mark.parametrize(
    ("name", "folder", "split", "task"),
    [
        ("coco_captions", "coco", "val", "caption"),
        ("vqav2", "coco", "val", "vqa"),
        ("refcoco", "coco", "train", "grounding"),
        ("snli_ve", "flickr8k_1000", "test", "entailment"),
    ],
)
def test_tsv_both_ways(name: str, folder: str, split: str, task: str, tmp_path: Path) -> None:
    """Rows -> the original's TSV with base64 images -> rows."""
    import_dataset(name, DATA / folder, tmp_path / "first")
    (tmp_path / "tsv").mkdir()
    number = write_tsv(tmp_path / "first" / split, task, tmp_path / "tsv" / f"{split}.tsv")
    import_dataset("ofa_tsv", tmp_path / "tsv", tmp_path / "second", expect={f"{split}/{task}": number})
    pairs = [
        (read_records(tmp_path / place / split, task), MediaStore(tmp_path / place / split))
        for place in ("first", "second")
    ]
    for ours, theirs in zip(*(records for records, _ in pairs), strict=True):
        same = ("id", "image", "text", "box")
        assert [getattr(ours, field) for field in same] == [getattr(theirs, field) for field in same]
        if task == "caption":  # one caption of val2017 has a line break
            assert [" ".join(text.split()) for text in ours.references] == [
                " ".join(text.split()) for text in theirs.references
            ]
        assert [a.text for a in ours.answers] == [a.text for a in theirs.answers]
        assert pairs[0][1].bytes(ours.image or "") == pairs[1][1].bytes(theirs.image or "")
    assert write_tsv(tmp_path / "second" / split, task, tmp_path / "again.tsv") == number
    assert (tmp_path / "again.tsv").read_bytes() == (tmp_path / "tsv" / f"{split}.tsv").read_bytes() or (
        task == "entailment"  # an explanation instead of a premise is not part of the TSV
    )


def benchmark(name: str, out: Path) -> dict[str, Any]:
    values = yaml.safe_load((BENCHMARKS / f"{name}.yaml").read_text())
    values.pop("set", None)
    values["options"]["size"] = "smoke"
    settings = config.build(PrepareConfig, values, name)
    return prepare(settings, source_of(settings), out / name)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("digits")
    return out / "digits", benchmark("digits", out)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("photos")
    return out / "photos", benchmark("photos", out)


SEVEN = ("caption", "vqa", "grounding", "entailment", "video_caption", "video_qa", "audio_caption")
MORE = ("matching", "grounded_caption", "video_matching", "audio_qa")


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_every_task_in_every_split(name: str, request: pytest.FixtureRequest) -> None:
    _, description = request.getfixturevalue(name)
    assert description["rejected"] == 0
    for split in ("train", "val", "test"):
        assert set(description["splits"][split]["rows"]) == {*SEVEN, *MORE}


def rows(folder: Path, splits: tuple[str, ...]) -> dict[str, list[Record]]:
    return {
        split: [
            record
            for path in sorted((folder / split).glob("*.parquet"))
            if path.stem != "media"
            for record in read_records(folder / split, path.stem)
        ]
        for split in splits
    }


def test_digits_share_no_sample_between_splits(digits: tuple[Path, dict[str, Any]]) -> None:
    splits = ("train", "val", "test", "ood-handwriting", "ood-speakers")
    samples = {
        split: {sample for record in records for sample in record.extra["samples"].split()}
        for split, records in rows(digits[0], splits).items()
    }
    for first in splits:
        for second in splits:
            assert first == second or not samples[first] & samples[second]
    assert all(sample.startswith("usps:") for sample in samples["ood-handwriting"])


def test_digits_labels_are_those_of_the_sources(digits: tuple[Path, dict[str, Any]]) -> None:
    from unival.data.sources.digit_sets import NUMBERS, read_part

    labels = read_part(DATA / "mnist", "train")[1]
    for record in read_records(digits[0] / "test", "caption"):
        said = json.loads(record.facts)["digits"]
        drawn = [NUMBERS[labels[int(sample.split(":")[1])]] for sample in record.extra["samples"].split()]
        assert drawn == said == list(record.objects)


def test_digits_speakers(digits: tuple[Path, dict[str, Any]]) -> None:
    held_out = {
        record.extra["speaker"] for record in read_records(digits[0] / "ood-speakers", "audio_caption")
    }
    known = {record.extra["speaker"] for record in read_records(digits[0] / "train", "audio_caption")}
    assert held_out == {"theo"}
    assert "theo" not in known


def test_digits_statements_depend_on_the_picture(digits: tuple[Path, dict[str, Any]]) -> None:
    records = read_records(digits[0] / "train", "entailment")
    labels = [record.answers[0].text for record in records]
    assert all(0.25 < labels.count(label) / len(labels) < 0.42 for label in ("yes", "no", "maybe"))
    for record in records:
        assert json.loads(record.facts)["patch"] or record.answers[0].text != "maybe"


def test_photos_split_by_medium(photos: tuple[Path, dict[str, Any]]) -> None:
    splits = ("train", "val", "test")
    media = {
        split: {key for record in records for _, key in record.media()}
        for split, records in rows(photos[0], splits).items()
    }
    assert not (
        media["train"] & media["val"] or media["train"] & media["test"] or media["val"] & media["test"]
    )
    persons = {
        split: {key[:2] for key in keys if key.endswith(("_orig", "_mirror"))}
        for split, keys in media.items()
    }
    assert persons["test"] == {"p5"}
    assert persons["val"] == {"p4"}


def test_photos_labels_are_those_of_the_people(photos: tuple[Path, dict[str, Any]]) -> None:
    names = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
    with (DATA / "flickr8k_1000" / "esnlive_pairs.csv").open(newline="") as handle:
        truth = {row["pairID"]: names[row["gold_label"]] for row in csv.DictReader(handle)}
    for record in read_records(photos[0] / "test", "entailment"):
        assert record.answers[0].text == truth[record.id]


def test_the_papers_suite_runs_on_the_small_real_data(photos: tuple[Path, dict[str, Any]]) -> None:
    """Every task of the paper with its decoding (conf/edition/paper.yaml), by a model of random weights."""
    from unival.engine.inference.evaluate import evaluate_cell
    from unival.study.benchmark import Benchmark
    from unival.study.models import new_model
    from unival.tasks import TaskConfig

    conf = BENCHMARKS.parent
    paper = config.load(conf / "edition" / "paper.yaml")["evaluate"]["tasks"]
    tasks = {}
    for path in sorted((conf / "task").glob("*.yaml")):
        values, own = config.load(path), paper.get(path.stem, {})
        decode = {**values.get("decode", {}), **own.get("decode", {})}
        tasks[path.stem] = config.build(TaskConfig, {**values, **own, "decode": decode}, str(path))
    tiny = config.load(conf / "model" / "tiny.yaml")
    benchmark = Benchmark(photos[0], tasks)
    model, processor = new_model(tiny["config"], tiny["processor"], benchmark.tokenizer, 0)
    for name in (*SEVEN, *MORE):
        rows = benchmark.rows_of(name, tasks[name], processor, "test", 6)
        cell = evaluate_cell(model, processor, rows, batch_size=6, resamples=50)
        assert cell.n == len(rows.records) > 0
        value = cell.metrics[cell.primary]
        assert 0 <= value.low <= value.value <= value.high <= 10


def test_handwriting_for_the_world() -> None:
    load_sources()
    for name in ("usps", "mnist"):
        found = other_handwriting(DATA, name)
        assert found is not None
        images, labels = found
        assert images.shape == (2000, 16, 16)
        assert set(labels.tolist()) == set(range(10))
        assert other_handwriting(DATA / "fsdd", name) is None
