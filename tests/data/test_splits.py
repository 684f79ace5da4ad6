"""Which split a row belongs to: what the set itself says, or what the user says, and never a guess."""

from pathlib import Path
from typing import Any

import pytest
from official import JPG, MP4, make, table, write

from unival.data.importing import import_dataset
from unival.data.manifest import read_records
from unival.data.sources.splits import listed, split_of
from unival.errors import UserError

SPLITS = ("train", "val", "test")
PHOTOS = {f"photos/{name}.jpg": JPG for name in SPLITS}
TOKENS = "".join(f"{name}.jpg#{n}\tphoto {n} of {name}\n" for name in SPLITS for n in range(2))
KARPATHY = {
    "images": [
        {"filename": f"{name}.jpg", "split": name, "sentences": [{"raw": "one"}, {"raw": "two"}]}
        for name in SPLITS
    ]
}
LISTS = {
    f"text/Flickr_8k.{name}Images.txt": f"{name.replace('dev', 'val')}.jpg\n"
    for name in ("train", "dev", "test")
}
CLIPS = {f"clips/{name}.mp4": MP4 for name in SPLITS}
DESCRIPTIONS = "".join(f"{name} a clip\n" for name in SPLITS)
DIVIDED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Flickr8k's lists": ("flickr8k", "caption", {**PHOTOS, **LISTS, "text/Flickr8k.token.txt": TOKENS}),
    "Flickr8k by Karpathy": (
        "flickr8k", "caption", {**PHOTOS, "dataset_flickr8k.json": KARPATHY, "captions.txt": ""},
    ),
    "Flickr30k by Karpathy": (
        "flickr30k", "caption",
        {**PHOTOS, "dataset_flickr30k.json": KARPATHY, "results_20130124.token.txt": TOKENS},
    ),
    "MSVD's lists": (
        "msvd", "video_caption",
        {**CLIPS, "AllVideoDescriptions.txt": DESCRIPTIONS,
         **{f"{name}_list.txt": f"{name}\n" for name in SPLITS}},
    ),
    "MSVD's numbers": (
        "msvd", "video_caption",
        {**CLIPS, "AllVideoDescriptions.txt": DESCRIPTIONS,
         "youtube_mapping.txt": "train vid1200\nval vid1300\ntest vid1301\n"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "task", "files"), DIVIDED.values(), ids=DIVIDED)
def test_official_splits_are_read(name: str, task: str, files: dict[str, Any], tmp_path: Path) -> None:
    for file, content in files.items():
        write(tmp_path / "in" / file, content)
    import_dataset(name, tmp_path / "in", tmp_path / "out", max_rejected=0.0)
    for split in SPLITS:
        (record,) = read_records(tmp_path / "out" / split, task)
        assert (record.image or record.video) == split


UNDIVIDED: dict[str, tuple[dict[str, Any], str]] = {
    "flickr8k": ({**PHOTOS, "Flickr8k.token.txt": TOKENS}, "Flickr_8k.{train,dev,test}Images.txt"),
    "flickr30k": ({**PHOTOS, "results_20130124.token.txt": TOKENS}, "dataset_flickr30k.json"),
    "msvd": ({**CLIPS, "AllVideoDescriptions.txt": DESCRIPTIONS}, "youtube_mapping.txt"),
    "webvid": ({**CLIPS, "results.csv": table("videoid|name", *(f"{n}|a clip" for n in SPLITS))}, "*.csv"),
    "vatex": (
        {**CLIPS, "vatex.json": [{"videoID": n, "enCap": ["a clip"]} for n in SPLITS]},
        "vatex_{training",
    ),
    "msrvtt_qa": (
        {**CLIPS, "qa.json": [{"id": 1, "video_id": "train", "question": "what?", "answer": "a clip"}]},
        "{train,val,test}_qa.json",
    ),
}


@pytest.mark.parametrize(("name", "case"), UNDIVIDED.items())
def test_a_split_that_is_not_told_is_no_training_data(
    name: str, case: tuple[dict[str, Any], str], tmp_path: Path
) -> None:
    files, expected = case
    for file, content in files.items():
        write(tmp_path / "in" / file, content)
    with pytest.raises(UserError, match="its split is not known") as raised:
        import_dataset(name, tmp_path / "in", tmp_path / "out")
    assert expected in str(raised.value)
    description = import_dataset(name, tmp_path / "in", tmp_path / "out", max_rejected=0.0, split="test")
    assert list(description["splits"]) == ["test"]


def test_an_unknown_word_for_a_split_is_a_fault(tmp_path: Path) -> None:
    make("msrvtt", tmp_path / "in")
    notes = tmp_path / "in" / "train_val_videodatainfo.json"
    notes.write_text(notes.read_text().replace("validate", "holdout"))
    description = import_dataset("msrvtt", tmp_path / "in", tmp_path / "out", max_rejected=0.5)
    assert description["splits"]["train"]["rows"] == {"video_caption": 1} and description["rejected"] == 1


def test_a_photo_in_no_list_is_left_out_and_listed(tmp_path: Path) -> None:
    make("flickr8k", tmp_path / "in")
    write(tmp_path / "in" / "Flickr_8k.devImages.txt", "other.jpg\n")
    description = import_dataset("flickr8k", tmp_path / "in", tmp_path / "out", max_rejected=0.5)
    assert list(description["splits"]) == ["train"] and description["rejected"] == 1


def test_lists_say_each_name_once(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"Flickr_8k.{name}Images.txt", "a.jpg\n") for name in ("train", "test")]
    with pytest.raises(UserError, match=r"testImages\.txt: line 1: 'a\.jpg' is in the split 'train' too"):
        listed(paths)
    with pytest.raises(UserError, match="says no split"):
        listed([write(tmp_path / "Flickr_8k.moreImages.txt", "b.jpg\n")])
    assert listed([]) is None and split_of("nothing") == ""
