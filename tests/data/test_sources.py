"""Readers of official formats, on small files written here; what is damaged is named with its reason."""

import base64
import gzip
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from official import BOXES, JPG, PIXELS, PNG, REFS, archive, make, write

from unival import config
from unival.data import media
from unival.data.benchmarks.photos import source as photos
from unival.data.catalog import load_sources, source_of
from unival.data.importing import import_dataset
from unival.data.manifest import read_records
from unival.data.prepare import PrepareConfig
from unival.data.source import SOURCES, RowItem
from unival.data.sources import safe_pickle
from unival.data.sources.ofa_tsv import write_tsv
from unival.data.sources.reader import READERS, data_folder
from unival.data.sources.regions import corners
from unival.data.sources.splits import split_of
from unival.data.store import MediaStore
from unival.errors import UserError
from unival.record import Answer


def faults(out: Path) -> list[tuple[str, str, str]]:
    rows = pq.read_table(out / "rejected.parquet").to_pylist()
    return [(Path(row["file"]).name, row["row"], row["reason"]) for row in rows]


def coco(root: Path) -> Path:
    """Two photos with five captions each, and boxes of them."""
    make("coco_captions", root)
    write(root / "refcoco" / "instances.json", BOXES)
    return root


def test_coco_captions_keep_bytes_and_captions(tmp_path: Path) -> None:
    description = import_dataset("coco_captions", coco(tmp_path / "coco"), tmp_path / "out")
    assert description["splits"]["train"]["rows"] == {"caption": 2}
    assert description["complete"]["train/caption"] == {"rows": 2, "complete_set": 113_287}
    record = read_records(tmp_path / "out" / "train", "caption")[0]
    assert len(record.references) == 5
    assert MediaStore(tmp_path / "out" / "train").bytes("coco-1") == JPG


def test_karpathy_split_puts_restval_into_train(tmp_path: Path, beside: Path) -> None:
    write(tmp_path / "val2014" / "a.jpg", JPG)
    image = {"filename": "a.jpg", "cocoid": 5, "split": "restval", "sentences": [{"raw": "A dog. "}]}
    write(tmp_path / "dataset_coco.json", {"images": [image, {**image, "cocoid": 6, "split": "nowhere"}]})
    import_dataset("coco_captions", tmp_path, beside / "out", max_rejected=0.5)
    assert read_records(beside / "out" / "train", "caption")[0].references == ("A dog.",)
    assert "unknown split 'nowhere'" in faults(beside / "out")[0][2]


def refs(**changes: Any) -> list[dict[str, Any]]:
    return [{**REFS[0], **changes}]


def test_refcoco_reads_the_pickle_and_the_corners(tmp_path: Path) -> None:
    root = coco(tmp_path / "coco")
    write(root / "refcoco" / "refs(unc).p", pickle.dumps(refs(), protocol=2))
    import_dataset("refcoco", root, tmp_path / "out")
    record = read_records(tmp_path / "out" / "testA", "grounding")[0]
    assert (record.text, record.box, record.objects) == ("the dog 1", (1.0, 2.0, 11.5, 14.0), ("dog",))


def test_refcoco_takes_the_official_split_of_the_set_it_is_asked_for(tmp_path: Path) -> None:
    """REFER's folders lie side by side, two of them with two divisions of the same expressions."""
    root = coco(tmp_path / "refer")
    boxes = (root / "refcoco" / "instances.json").read_bytes()
    for name, divisions in {"refcoco": "unc google", "refcoco+": "unc", "refcocog": "google umd"}.items():
        write(root / name / "instances.json", boxes)
        for number, division in enumerate(divisions.split()):
            sentences = [{"sent": f"{name} by {division}", "sent_id": number}]
            write(root / name / f"refs({division}).p", pickle.dumps(refs(sentences=sentences, split="val")))
    for name, division in {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}.items():
        import_dataset(name, root, tmp_path / "out", max_rejected=0.0, expect={"val/grounding": 1})
        assert read_records(tmp_path / "out" / "val", "grounding")[0].text == f"{name} by {division}"


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/unival-bomb"),))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_execute_nothing(tmp_path: Path, protocol: int) -> None:
    root = coco(tmp_path / "coco")
    write(root / "refcoco" / "refs(unc).p", pickle.dumps([Bomb()], protocol=protocol))
    with pytest.raises(UserError, match=r"refs\(unc\)\.p: refused"):
        import_dataset("refcoco", root, tmp_path / "out")
    assert not Path("/tmp/unival-bomb").exists()


def test_safe_pickle_gives_plain_data_back() -> None:
    value = [{"a": (1, 2.5, None, True, "é"), "b": [10**12]}]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert safe_pickle.loads(pickle.dumps(value, protocol), "x") == value
    for damaged in (b"", b"\x80", b"garbage", pickle.dumps([1] * 100)[:40], b"\x80\x04" + b"\xff" * 20):
        with pytest.raises(UserError, match="not a readable pickle"):
            safe_pickle.loads(damaged, "x")


def test_corners_of_a_box() -> None:
    assert corners([-1, 3, 10, 40]) == (-1.0, 3.0, 9.0, 43.0)
    for bad in ([0, 0, 0, 5], [0, 0, 5, -1], "1,2,3,4", [1, 2, 3], [1, 2, 3, None]):
        with pytest.raises(UserError):
            corners(bad)


def with_box(name: str, root: Path, box: tuple[float, float, float, float]) -> None:
    """A data set of one box on a photo of 32 x 24 pixels."""
    (x0, y0, x1, y1), photo = box, {"id": 1, "image_id": 1, "file_name": "1.jpg"}
    size = [x0, y0, x1 - x0, y1 - y0]
    write(root / "photos" / "1.jpg", JPG)
    if name == "refcoco":
        instances = {**BOXES, "images": [photo], "annotations": [{"id": 7, "image_id": 1, "bbox": size}]}
        write(root / "refcoco" / "instances.json", instances)
        write(root / "refcoco" / "refs.json", refs(split="val"))
    elif name == "visual_genome":
        region = dict(zip(("x", "y", "width", "height"), size, strict=True))
        regions = [{"region_id": 1, "phrase": "a dog", **region}]
        write(root / "region_descriptions.json", [{"id": 1, "regions": regions}])
    elif name == "ofa_tsv":
        inline = base64.b64encode(JPG).decode()
        write(root / "val.tsv", f"1\tk\ta dog\t{','.join(map(str, box))}\t{inline}\n")
    else:
        row = {"id": "1", "image": "1.jpg", "text": "a dog", "box": list(box)}
        write(root / "val" / "grounding.jsonl", json.dumps(row))


@pytest.mark.parametrize("name", ["refcoco", "visual_genome", "ofa_tsv", "table"])
@pytest.mark.parametrize("over", [0.0, 0.5, 1.0, 1.5, 9.0])
def test_every_reader_cuts_boxes_at_the_border(name: str, over: float, tmp_path: Path) -> None:
    """A pixel over it is how annotators' tools round; further out the box belongs to something else."""
    with_box(name, tmp_path / "in", (-over, 2.0, 32.0 + over, 24.0))
    description = import_dataset(name, tmp_path / "in", tmp_path / "out", max_rejected=1.0)
    if over > 1:
        assert all(
            "[-" in reason and "outside the 32x24" in reason for _, _, reason in faults(tmp_path / "out")
        )
        assert description["rejected"] and not description["cut_boxes"]
    else:
        split = "train" if name == "visual_genome" else "val"
        assert read_records(tmp_path / "out" / split, "grounding")[0].box == (0.0, 2.0, 32.0, 24.0)
        assert bool(description["cut_boxes"]) == (over > 0) and not description["rejected"]


def test_vqav2_joins_questions_and_annotations(tmp_path: Path, beside: Path) -> None:
    write(tmp_path / "val2014" / "COCO_val2014_000000000042.jpg", JPG)
    question = {"image_id": 42, "question": "Is it?", "question_id": 420}
    given = [{"answer": "yes", "answer_confidence": "yes", "answer_id": n} for n in range(10)]
    annotation = {"question_id": 420, "image_id": 42, "question_type": "is it", "answers": given}
    write(
        tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json",
        {"questions": [question, {**question, "question_id": 1}]},
    )
    write(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": [annotation]})
    import_dataset("vqav2", tmp_path, beside / "out", max_rejected=0.5)
    record = read_records(beside / "out" / "val", "vqa")[0]
    assert (record.text, record.answers[0].text, record.form) == ("Is it?", "yes", "is it")
    assert len(json.loads(record.extra["answers"])) == 10
    assert "question 1 is not in" in faults(beside / "out")[0][2]


@pytest.mark.parametrize("name", ["vqav2", "vizwiz"])
def test_a_blank_answer_among_many_keeps_the_question(name: str, tmp_path: Path, beside: Path) -> None:
    """As in the official evaluation: the blank one agrees with no answer, and no one is taught to give it."""
    given = {1: ["red"] * 8 + ["", "  "], 2: ["the"] * 2 + ["Left"] * 8, 3: [""] * 10}
    write(tmp_path / "val2014" / "COCO_val2014_000000000042.jpg", JPG)
    rows = {
        number: {
            "image_id": 42, "image": f"{number}.jpg", "question": "Which?", "question_id": number,
            "answers": [{"answer": text} for text in texts],
        }
        for number, texts in given.items()
    }  # fmt: skip
    if name == "vqav2":
        write(tmp_path / "OpenEnded_mscoco_val2014_questions.json", {"questions": list(rows.values())})
        write(tmp_path / "mscoco_val2014_annotations.json", {"annotations": list(rows.values())})
    else:
        for number in rows:
            write(tmp_path / "val" / f"{number}.jpg", JPG)
        write(tmp_path / "val.json", list(rows.values()))
    import_dataset(name, tmp_path, beside / "out", max_rejected=0.5)
    records = list(read_records(beside / "out" / "val", "vqa"))
    answers = [[(answer.text, answer.weight) for answer in record.answers] for record in records]
    assert answers == [[("red", 1.0)], [("left", 1.0), ("the", 0.6)]]
    assert json.loads(records[0].extra["answers"]) == given[1]
    assert [reason for _, _, reason in faults(beside / "out")] == ["all answers are blank"]


ASKED = {
    "vqav2": ("OpenEnded_mscoco_test2015_questions.json", "test2015/COCO_test2015_{:012d}.jpg"),
    "vizwiz": ("test.json", "test/VizWiz_test_{:08d}.jpg"),
    "nocaps": ("nocaps_test_image_info.json", "photos/{:016d}.jpg"),
    "coco_captions": ("image_info_test2014.json", "test2014/COCO_test2014_{:012d}.jpg"),
}
"""File of a test split without answers, and how its photos are called."""


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("photos", [True, False])
def test_a_test_split_without_answers_is_there_to_be_submitted(
    name: str, photos: bool, tmp_path: Path
) -> None:
    root, (annotations, called) = tmp_path / "data", ASKED[name]
    asked = [
        {"image_id": n, "id": n, "question_id": n, "image": Path(called.format(n)).name, "question": "Which?",
         "file_name": Path(called.format(n)).name}
        for n in (1, 2)
    ]  # fmt: skip
    under = {"vqav2": {"questions": asked}, "nocaps": {"images": asked}, "coco_captions": {"images": asked}}
    write(root / annotations, under.get(name, asked))
    if name == "vqav2":  # a part of the same questions
        write(root / annotations.replace("test2015", "test-dev2015"), {"questions": asked[:1]})
    for n in (1, 2) if photos else ():
        write(root / called.format(n), JPG)
    if not photos:
        with pytest.raises(UserError, match="its first medium is not there: left out"):
            import_dataset(name, root, tmp_path / "out", max_rejected=0.1)
        return
    import_dataset(name, root, tmp_path / "out", max_rejected=0.5)
    task, key = {"vqav2": ("vqa", "question_id"), "vizwiz": ("vqa", "image")}.get(
        name, ("caption", "image_id")
    )
    records = list(read_records(tmp_path / "out" / "test", task))
    assert [record.extra[key] for record in records] == [str(row[key]) for row in asked]
    assert not any(record.labelled for record in records)


def test_a_test_split_has_answers_in_all_rows_or_in_none(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root / "test" / "a.jpg", JPG)
    row = {"image": "a.jpg", "text": "Which?", "answers": [{"text": "red"}]}
    bare = {"image": "a.jpg", "text": "Which?"}
    for first, second, reason in (
        (row, bare, "empty, and task 'vqa' needs it"),
        (bare, row, "has answers, and the first row of this split has none: leave such rows out"),
    ):
        lines = [json.dumps({"id": str(number), **fields}) for number, fields in enumerate((first, second))]
        write(root / "test" / "vqa.jsonl", "\n".join(lines))
        import_dataset("table", root, tmp_path / reason[:5], max_rejected=0.5)
        assert [found for _, _, found in faults(tmp_path / reason[:5])] == [reason]


def test_blank_answers_of_tables_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "tsv" / "x.jpg", JPG)
    lines = ["1\ti\twhat?\t0.9|!+dog&&0.3|!+\t\tx.jpg", "2\ti\twhat?\t0.9|!+ \t\tx.jpg"]
    write(tmp_path / "tsv" / "vqa_val.tsv", "\n".join(lines))
    import_dataset("ofa_tsv", tmp_path / "tsv", tmp_path / "out", max_rejected=0.5)
    assert [row.answers for row in read_records(tmp_path / "out" / "val", "vqa")] == [(Answer("dog", 0.9),)]
    assert [reason for _, _, reason in faults(tmp_path / "out")] == ["an empty answer"]


def test_snli_ve_labels_and_premise(tmp_path: Path, beside: Path) -> None:
    write(tmp_path / "flickr30k" / "12.jpg", JPG)
    row = {
        "gold_label": "neutral",
        "pairID": "12.jpg#1",
        "sentence1": "A.",
        "sentence2": "B.",
        "Flikr30kID": "12",
    }
    rows = [row, {**row, "gold_label": "-", "pairID": "2"}]
    write(tmp_path / "snli_ve_dev.jsonl", "\n".join(map(json.dumps, rows)) + "\nnot json\n")
    import_dataset("snli_ve", tmp_path, beside / "out", max_rejected=0.6)
    record = read_records(beside / "out" / "val", "entailment")[0]
    assert (record.answers[0].text, record.text, record.extra["premise"]) == ("maybe", "B.", "A.")
    assert [row for _, row, _ in faults(beside / "out")] == ["line 2", "line 3"]


def test_msvd_qa_maps_numbers_to_clips(tmp_path: Path, beside: Path) -> None:
    clip = media.encode_video(np.zeros((4, 16, 16, 3), np.uint8))
    write(tmp_path / "clips" / "abc_1_2.mp4", clip)
    write(tmp_path / "youtube_mapping.txt", "abc_1_2 vid7\n")
    row = {"id": 3, "video_id": 7, "question": "what?", "answer": "cat"}
    write(tmp_path / "test_qa.json", [row, {**row, "video_id": 8, "id": 4}])
    import_dataset("msvd_qa", tmp_path, beside / "out", max_rejected=0.5)
    assert read_records(beside / "out" / "test", "video_qa")[0].video == "abc_1_2"
    assert "vid8 is not in" in faults(beside / "out")[0][2]


def test_audiocaps_groups_captions_and_finds_sounds(tmp_path: Path, beside: Path) -> None:
    write(tmp_path / "val" / "Yxyz.wav", media.encode_wav(np.zeros(800, np.float32) + 0.1, 8000))
    lines = ["audiocap_id,youtube_id,start_time,caption", *(f'{n},xyz,30,"a, {n}"' for n in range(5))]
    write(tmp_path / "val.csv", "\n".join(lines))
    import_dataset("audiocaps", tmp_path, beside / "out")
    assert read_records(beside / "out" / "val", "audio_caption")[0].references[4] == "a, 4"
    import_dataset("audiocaps", tmp_path, beside / "text", text_only=True, expect={"val/text": 5})


def test_media_are_read_from_zips(tmp_path: Path, beside: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images/0.png", PNG)
    write(tmp_path / "train" / "images.zip", buffer.getvalue())
    write(
        tmp_path / "train" / "questions.json",
        [["what?", "circle", 0], ["what?", 3, 0], ["what?", "circle", 1]],
    )
    import_dataset("easy_vqa", tmp_path, beside / "out", max_rejected=0.9)
    assert MediaStore(beside / "out" / "train").bytes("easy-0") == PNG
    assert len(faults(beside / "out")) == 3  # a wrong type, a missing image, and the row that needs it


def test_webdataset(tmp_path: Path, beside: Path) -> None:
    members = {"1.jpg": JPG, "1.txt": b"\xef\xbb\xbfa dog", "2.txt": b"alone", "3.jpg": JPG, "3.txt": b"b"}
    write(tmp_path / "cc-train-0.tar", archive(**members))
    import_dataset("webdataset", tmp_path, beside / "out", max_rejected=0.5)
    captions = [record.references for record in read_records(beside / "out" / "train", "caption")]
    assert captions == [("a dog",), ("b",)]  # without the byte order mark of some editors
    assert faults(beside / "out")[0][1] == "2"
    (tmp_path / "val").mkdir()
    (tmp_path / "cc-train-0.tar").rename(tmp_path / "val" / "00000.tar")  # the folder tells the split
    import_dataset("webdataset", tmp_path, beside / "out", max_rejected=0.5, expect={"val/caption": 2})


def mnist(root: Path, count: int = 3, cut: int = 0, label: int = 4) -> Path:
    pixels = np.random.default_rng(1).integers(0, 255, (count, 28, 28), dtype=np.uint8).tobytes()
    data = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28) + pixels
    write(root / "train-images-idx3-ubyte.gz", gzip.compress(data[: len(data) - cut]))
    write(root / "train-labels-idx1-ubyte", struct.pack(">4BI", 0, 0, 8, 1, count) + bytes([label] * count))
    return root


def test_mnist(tmp_path: Path) -> None:
    import_dataset("mnist", mnist(tmp_path / "m"), tmp_path / "out")
    assert read_records(tmp_path / "out" / "train", "caption")[0].references[0] == "a handwritten four"
    for changes, reason in (({"cut": 5}, "the header says"), ({"label": 12}, "is not a digit")):
        with pytest.raises(UserError, match=reason):
            import_dataset("mnist", mnist(tmp_path / "bad", **changes), tmp_path / "out2")


ROWS = [
    {"id": "1", "image": "a.png", "references": ["a dog", "one dog"]},
    {"id": "2", "image": "a.png", "references": ["a cat"], "objects": ["cat"]},
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_tables(tmp_path: Path, beside: Path, suffix: str) -> None:
    import pyarrow as pa

    write(tmp_path / "media" / "a.png", PNG)
    path = tmp_path / "val" / f"caption.{suffix}"
    if suffix == "jsonl":
        write(path, "\n".join(map(json.dumps, ROWS)))
    elif suffix == "csv":
        write(path, 'id,image,references\n1,a.png,"[""a dog"", ""one dog""]"\n2,a.png,"[""a cat""]"\n')
    else:
        path.parent.mkdir()
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    import_dataset("table", tmp_path, beside / "out", expect={"val/caption": 2})
    assert read_records(beside / "out" / "val", "caption")[0].references == ("a dog", "one dog")


def test_a_table_says_its_split(tmp_path: Path, beside: Path) -> None:
    write(tmp_path / "mine" / "caption.jsonl", "\n".join(map(json.dumps, ROWS)))
    with pytest.raises(UserError, match=r"mine/caption\.jsonl: its split is not known: .* <split>/<task>"):
        import_dataset("table", tmp_path, beside / "out")


def test_ofa_tsv_both_ways(tmp_path: Path) -> None:
    image = base64.urlsafe_b64encode(JPG).decode()
    lines = {
        "caption_val.tsv": ["1", "i1", "a dog&&one dog", "dog&&ball", image],
        "vqa_val.tsv": ["2", "i2", "what?", "0.9|!+dog&&0.3|!+cat", "dog", image],
        "refcoco_val.tsv": ["3", "i3", "the dog", "1e-05,2.0,10.0,12.0", image],
        "snli_ve_val.tsv": ["4", "i4", image, "B", "A", "neutral"],
    }
    for name, columns in lines.items():
        write(tmp_path / "tsv" / name, "\t".join(columns) + "\n")
    import_dataset("ofa_tsv", tmp_path / "tsv", tmp_path / "out")
    tasks = ("caption", "vqa", "grounding", "entailment")
    for task, (name, columns) in zip(tasks, lines.items(), strict=True):
        assert write_tsv(tmp_path / "out" / "val", task, tmp_path / name) == 1
        assert (tmp_path / name).read_text() == "\t".join(columns) + "\n"


@pytest.mark.parametrize("task", ["caption", "vqa", "entailment"])
def test_rows_to_predict_only_have_no_tsv_form(task: str, tmp_path: Path) -> None:
    """Nobody could read them back, and a label that is not there has no name."""
    write(tmp_path / "in" / "dog.jpg", JPG)
    write(tmp_path / "in" / f"test_{task}.jsonl", json.dumps({"id": "1", "image": "dog.jpg", "text": "it?"}))
    import_dataset("table", tmp_path / "in", tmp_path / "out")
    with pytest.raises(UserError, match=f"test: row '1' of '{task}' has no answers"):
        write_tsv(tmp_path / "out" / "test", task, tmp_path / "test.tsv")
    assert not (tmp_path / "test.tsv").exists()


def test_ofa_pretraining_tsv(tmp_path: Path, beside: Path) -> None:
    write(tmp_path / "img" / "x.jpg", JPG)
    rows = [
        ["1", "img/x.jpg", "a dog", "", "", "dog", "coco", "caption"],
        ["2", "img/x.jpg", "", "what?", "1.0|!+dog", "", "vqa", "qa"],
        ["3", "img/x.jpg", "the dog", "", "1,2,30,20", "", "refcoco", "visual_grounding"],
        ["4", "img/x.jpg", "the dog", "", "1,2,30", "", "refcoco", "visual_grounding"],
        ["5", "img/x.jpg", "", "what?", "dog", "", "vqa", "qa"],
        ["6", "img/x.jpg", "a", "", "", "", "coco", "captions"],
        ["7", "too few"],
        ["8", "k", "a dog", "", "%%%not base64"],
    ]
    write(tmp_path / "vision_language_train.tsv", "\n".join("\t".join(row) for row in rows) + "\n")
    import_dataset("ofa_tsv", tmp_path, beside / "out", max_rejected=0.6)
    found = faults(beside / "out")
    assert [row for _, row, _ in found] == ["line 4", "line 5", "line 6", "line 7", "line 8"]
    assert "did you mean 'caption'" in found[2][2]
    assert read_records(beside / "out" / "train", "grounding")[0].box == (1.0, 2.0, 30.0, 20.0)


DAMAGE: dict[str, Any] = {
    "truncated JSON": '{"images": [',
    "a list": [],
    "no annotations": {"images": []},
    "not UTF-8": b'{"images": "\xff\xfe"}',
    "empty": b"",
    "deep": "[" * 100_000,
}


@pytest.mark.fault
@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_damaged_annotations_name_the_file(tmp_path: Path, content: Any) -> None:
    root = coco(tmp_path / "coco")
    write(root / "annotations" / "captions_train2017.json", content)
    with pytest.raises(UserError, match=r"captions_train2017\.json"):
        import_dataset("coco_captions", root, tmp_path / "out")


BAD_CAPTIONS: dict[str, Any] = {
    "no object": 5,
    "no image": {"id": 1, "caption": "x"},
    "other image": {"id": 1, "image_id": 77, "caption": "x"},
    "number": {"id": 1, "image_id": 1, "caption": 3},
    "null": {"id": 1, "image_id": 1, "caption": None},
    "blank": {"id": 1, "image_id": 1, "caption": "  "},
    "true": {"id": 1, "image_id": True, "caption": "x"},
}


@pytest.mark.fault
@pytest.mark.parametrize("row", BAD_CAPTIONS.values(), ids=BAD_CAPTIONS)
def test_bad_rows_are_listed(tmp_path: Path, row: Any) -> None:
    root = coco(tmp_path / "coco")
    path = root / "annotations" / "captions_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"].insert(3, row)
    write(path, content)
    import_dataset("coco_captions", root, tmp_path / "out", max_rejected=0.5)
    ((file, where, reason),) = faults(tmp_path / "out")
    assert (file, where) == ("captions_train2017.json", "annotations[3]")
    assert reason


BAD_IMAGES: dict[str, Any] = {
    "without a caption": {"id": 77, "file_name": "000000000001.jpg"},
    "an id twice": {"id": 1, "file_name": "000000000002.jpg"},
}


@pytest.mark.fault
@pytest.mark.parametrize("row", BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_photos_without_captions_and_ids_with_two_photos_are_listed(tmp_path: Path, row: Any) -> None:
    root = coco(tmp_path / "coco")
    path = root / "annotations" / "captions_train2017.json"
    content = json.loads(path.read_text())
    content["images"].append(row)
    write(path, content)
    description = import_dataset("coco_captions", root, tmp_path / "out", max_rejected=0.5)
    assert description["splits"]["train"]["rows"] == {"caption": 2}
    assert len(faults(tmp_path / "out")) == 1


BAD_PHOTOS = {
    "empty": b"",
    "text": b"not a photo",
    "truncated": JPG[:200],
    "other": media.encode_wav(np.zeros(10, np.float32), 8000),
    "huge": PNG[:16] + struct.pack(">II", 10**6, 10**6) + PNG[24:],
}


@pytest.mark.fault
@pytest.mark.parametrize("data", [*BAD_PHOTOS.values(), None], ids=[*BAD_PHOTOS, "missing"])
def test_bad_photos_are_listed(tmp_path: Path, data: bytes | None) -> None:
    root = coco(tmp_path / "coco")
    path = root / "photos" / "000000000001.jpg"
    path.unlink()
    if data is not None:
        write(path, data)
    import_dataset("coco_captions", root, tmp_path / "out", max_rejected=0.5)
    (photo, row) = faults(tmp_path / "out")
    assert photo[0] == path.name
    assert "was rejected" in row[2]


def test_counts_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train/caption: 2 rows, expected 3"):
        import_dataset(
            "coco_captions", coco(tmp_path / "coco"), tmp_path / "out", expect={"train/caption": 3}
        )


def test_missing_things_are_named(tmp_path: Path, beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean 'coco_captions'"):
        import_dataset("coco_caption", tmp_path, beside / "out")
    with pytest.raises(UserError, match="no such folder"):
        import_dataset("coco_captions", tmp_path / "nothing", beside / "out")
    with pytest.raises(UserError, match=r"no file .*captions_\*\.json"):
        import_dataset("coco_captions", tmp_path, beside / "out")
    load_sources()
    options: dict[str, Any] = {"root": None}
    monkeypatch.delenv("UNIVAL_DATA", raising=False)
    with pytest.raises(UserError, match="UNIVAL_DATA is not set"):
        source_of(PrepareConfig("x", "mnist", options, 0.0))
    monkeypatch.setenv("UNIVAL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no such folder"):
        data_folder()


SPLIT_NAMES = {
    "train2017": "train",
    "clotho_captions_evaluation": "test",
    "clotho_captions_development": "train",
    "validation": "val",
    "dev": "val",
    "instances_minival2014": "val",
    "gqa/testdev_balanced_questions": "test",
    "Train_GCC-training": "train",
    "test/00012": "test",
    "latest/captions": "",
    "coco_testset": "test",
    "annotations/valset": "val",
    "medieval_interval": "",
    "val/device_train": "train",
}


@pytest.mark.parametrize(("name", "split"), SPLIT_NAMES.items())
def test_split_words(name: str, split: str) -> None:
    assert split_of(name) == split


def test_coco_of_two_years_is_refused(tmp_path: Path) -> None:
    """Both divide the same photos: val2014 has photos of train2017."""
    root = coco(tmp_path / "coco")
    first = root / "annotations" / "captions_train2017.json"
    (root / "annotations" / "captions_val2014.json").write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=r"captions_train2017\.json and .*captions_val2014\.json divide"):
        import_dataset("coco_captions", root, tmp_path / "out")
    first.unlink()
    (root / "annotations" / "captions_train2017_textonly.json").write_text("[]")  # is not read
    import_dataset("coco_captions", root, tmp_path / "out", expect={"val/caption": 2})


def test_quotes_in_tab_separated_files_are_text(tmp_path: Path, beside: Path) -> None:
    """An inch sign at the start of a caption is no CSV quote that swallows the lines after it."""
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        write(tmp_path / name, JPG)
    captions = ('"a dog', 'a "cat"', '24" screen')
    lines = [f"{text}\thttp://x/{name}.jpg\n" for text, name in zip(captions, "abc", strict=True)]
    write(tmp_path / "train.tsv", "".join(lines))
    import_dataset("cc3m", tmp_path, beside / "out", max_rejected=0.0)
    records = read_records(beside / "out" / "train", "caption")
    assert [record.references for record in records] == [(text,) for text in captions]


def test_two_lists_of_numbered_photos_have_folders_of_their_own(tmp_path: Path, beside: Path) -> None:
    colors = {"train": 10, "val": 200}
    for split, color in colors.items():
        write(tmp_path / split / f"{split}.tsv", f"a {split} photo\thttp://x/a.jpg\n")
        write(tmp_path / split / "000000000.jpg", media.encode_image(np.full((8, 8, 3), color, np.uint8)))
    import_dataset("cc3m", tmp_path, beside / "out", max_rejected=0.0)
    for split, color in colors.items():
        assert MediaStore(beside / "out" / split).image("000000000")[0, 0, 0] == color
    (tmp_path / "val" / "val.tsv").rename(tmp_path / "train" / "val.tsv")
    with pytest.raises(UserError, match="give each list a folder of its own"):
        import_dataset("cc3m", tmp_path, beside / "out")


def test_photo_folders_may_be_links(tmp_path: Path) -> None:
    root = coco(tmp_path / "coco")
    (root / "photos").rename(tmp_path / "elsewhere")
    (root / "photos").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "around").symlink_to(root)
    import_dataset("coco_captions", root, tmp_path / "out", max_rejected=0.0, expect={"train/caption": 2})


def test_every_reader_says_what_it_expects() -> None:
    load_sources()
    assert len(READERS.names()) >= 30
    for name in READERS.names():
        assert READERS[name].expects and READERS[name].licence


def test_a_stopped_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unival.data import store

    monkeypatch.setattr(store.ShardWriter.__init__, "__defaults__", (4096, False))  # many small shards
    for number in range(40):
        write(tmp_path / "photos" / f"{number}.jpg", media.encode_image(np.roll(PIXELS, number), ".jpg"))
    lines = "".join(f"{number}.jpg,photo {number}\n" for number in range(40))
    write(tmp_path / "photos" / "captions.txt", "image,caption\n" + lines)
    whole = import_dataset("flickr8k", tmp_path / "photos", tmp_path / "whole", split="train")
    assert len(list((tmp_path / "whole" / "train").glob("*.tar"))) > 3

    decoded: list[str] = []
    describe = media.describe

    def failing(kind: Any, data: bytes, name: str, part: Any) -> tuple[int, int]:
        decoded.append(name)
        if len(decoded) == 25:
            raise KeyboardInterrupt
        return describe(kind, data, name, part)

    monkeypatch.setattr(media, "describe", failing)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # nothing is decoded ahead
    with pytest.raises(KeyboardInterrupt):
        import_dataset("flickr8k", tmp_path / "photos", tmp_path / "out", split="train")
    assert not (tmp_path / "out").exists()
    again = import_dataset("flickr8k", tmp_path / "photos", tmp_path / "out", split="train")
    assert again["splits"] == whole["splits"]  # with the digests of all files
    assert len(decoded) < 25 + 40 - 15
    assert not list(tmp_path.glob(".out*"))


def test_nothing_but_an_earlier_import_is_replaced(tmp_path: Path) -> None:
    root = coco(tmp_path / "shelf" / "coco")
    notes = write(tmp_path / "shelf" / "thesis.txt", "mine")
    before = sorted(tmp_path.rglob("*"))
    for out in (root, root.parent, root / "imported", root / "photos"):
        with pytest.raises(UserError):
            import_dataset("coco_captions", root, out)
    assert sorted(tmp_path.rglob("*")) == before and notes.read_text() == "mine"


def test_a_good_import_outlives_those_that_fail(tmp_path: Path) -> None:
    root = coco(tmp_path / "coco")
    import_dataset("coco_captions", root, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(UserError, match="train/caption: 2 rows, expected 3"):
        import_dataset("coco_captions", root, tmp_path / "out", expect={"train/caption": 3})
    (root / "photos").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"out\.rejected\.parquet: 4 of 4 rows and media are bad"):
        import_dataset("coco_captions", root, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert pq.read_table(tmp_path / "out.rejected.parquet").num_rows == 4
    (tmp_path / "elsewhere").rename(root / "photos")
    import_dataset("coco_captions", root, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"coco", "out"}


def test_captions_of_parts_of_a_video_are_about_these(tmp_path: Path) -> None:
    """ActivityNet's captions describe seconds; a part that is none is a fault of its own."""
    levels = (10, 130, 250)
    frames = np.repeat(np.array(levels, np.uint8), 8)[:, None, None, None]
    clip = media.encode_video(np.broadcast_to(frames, (24, 32, 32, 3)).copy(), 8)
    write(tmp_path / "in" / "videos" / "v_one.mp4", clip)
    times = [[0, 1], [1, 2], [2, 3], [0.5, 2.5], [7, 9], [2, 1]]
    sentences = ["dark", "grey", "light", "all", "none", "back"]
    notes = {"duration": 3.0, "timestamps": times, "sentences": sentences}
    write(tmp_path / "in" / "train.json", {"v_one": notes})
    import_dataset("activitynet", tmp_path / "in", tmp_path / "out", max_rejected=0.5)
    out = tmp_path / "out" / "train"
    records, store = read_records(out, "video_caption"), MediaStore(out)
    frames_of = {record.references[0]: store.video(record.video or "", 4) for record in records}
    seen = {name: (shown.mean((1, 2, 3)) / 10).round().tolist() for name, shown in frames_of.items()}
    assert seen == {"dark": [1] * 4, "grey": [13] * 4, "light": [25] * 4, "all": [1, 13, 13, 25]}
    assert records[1].extra == {"start": "1", "end": "2"} and store.bytes("v_one-1") == clip
    assert sum(path.stat().st_size for path in out.glob("*.tar")) < 2 * len(clip) + 4096
    reasons = [reason for _, _, reason in faults(tmp_path / "out")]
    assert sum("is not a part of its 3.00 s" in reason for reason in reasons) == 2


def test_the_benchmark_of_photos_has_no_rows_to_predict_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COCO's own folder also lists the photos of its test split, whose captions nobody has."""
    make("coco_captions", tmp_path / "coco")
    unseen = {"id": 3, "file_name": "000000000003.jpg", "width": 32, "height": 24}
    write(tmp_path / "coco" / "annotations" / "image_info_test2014.json", {"images": [unseen]})
    write(tmp_path / "coco" / "photos" / "000000000003.jpg", JPG)
    monkeypatch.setattr(photos, "PARTS", (("coco", "coco_captions"),))
    options = config.load(Path(__file__).parents[2] / "conf/benchmark/photos.yaml")["options"]
    load_sources()
    items = list(SOURCES["photos"](options | {"root": str(tmp_path)}, "here").items)
    rows = [item for item in items if isinstance(item, RowItem)]
    assert {row.row.media()[0][1] for row in rows} == {"coco-1", "coco-2"}
