"""Which file is the medium that an annotation names: by its name, its place and its modality."""

from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from official import JPG, MP4, PNG, WAV, lines, write, zipped

from unival.data import media
from unival.data.importing import import_dataset
from unival.data.manifest import read_records
from unival.data.source import MediaItem
from unival.data.sources.media_folder import MediaFolder
from unival.data.store import MediaStore
from unival.errors import UserError
from unival.record import Modality


def found(root: Path, modality: Modality, name: str, split: str = "train", beside: str = "") -> str:
    """The file that is taken, below the root."""
    (item,) = MediaFolder(root).item(split, modality, "key", name, root / beside)
    assert isinstance(item, MediaItem) and item.read_as == modality
    return str(Path(item.file or str(item.data)).relative_to(root))


def files(root: Path, *names: str) -> Path:
    for name in names:
        write(root / name, b"x")
    return root


NEAREST = [
    # files, modality, name in the annotation, folder of the annotation, what is meant
    (["masks/7.png", "photos/7.jpg"], "image", "7.jpg", "", "photos/7.jpg"),
    (["a/clip.wav", "b/clip.mp4", "c/clip.jpg"], "video", "clip", "", "b/clip.mp4"),
    (["a/clip.wav", "b/clip.mp4", "c/clip.jpg"], "audio", "clip", "", "a/clip.wav"),
    (["b/clip.webm", "c/clip.jpg"], "audio", "clip", "", "b/clip.webm"),
    (["b/clip.opus"], "audio", "clip", "", "b/clip.opus"),
    (["one/7.jpg", "two/7.jpg"], "image", "7.jpg", "two", "two/7.jpg"),
    (["one/img/7.jpg", "two/img/7.jpg"], "image", "7.jpg", "two", "two/img/7.jpg"),
    (["one/img/7.jpg", "two/img/7.jpg"], "image", "two/img/7.jpg", "one", "two/img/7.jpg"),
    (["one/img/7.jpg", "two/img/7.jpg"], "image", "img/7.jpg", "one", "one/img/7.jpg"),
    (["one/img/7.jpg", "two/img/7.jpg"], "image", "7.jpg", "two/notes", "two/img/7.jpg"),
    (["one/img/7.jpg", "two/img/7.jpg", "two/7.jpg"], "image", "img/7.jpg", "two/notes", "two/img/7.jpg"),
    (["7.JPG"], "image", "7.jpg", "", "7.JPG"),
    (["7.JPG", "7.jpg"], "image", "7.jpg", "", "7.jpg"),
    ([".7.jpg", "__MACOSX/7.jpg", "b/7.jpg"], "image", "7.jpg", "", "b/7.jpg"),
    (["a.b.mp4", "a.mp4"], "video", "a.b", "", "a.b.mp4"),
    (["photos/7.png"], "image", "7.jpg", "", "7.jpg"),  # missing: where it should be
    (["photos/other/7.jpg"], "image", "img/7.jpg", "", "img/7.jpg"),
    (["sounds/7.wav"], "video", "7", "", "7.mp4"),
]


@pytest.mark.parametrize(("there", "modality", "name", "beside", "meant"), NEAREST)
def test_name_place_and_kind(
    there: list[str], modality: Modality, name: str, beside: str, meant: str, tmp_path: Path
) -> None:
    assert found(files(tmp_path, *there), modality, name, beside=beside) == meant


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_splits_that_number_anew_keep_apart(split: str, tmp_path: Path) -> None:
    """Annotations in one folder, each split's photos in its own; train lacks a photo that the others have."""
    files(tmp_path, "notes/all.json", *(f"photos/{name}/1.jpg" for name in ("train", "valid", "test")))
    files(tmp_path, "photos/test/2.jpg", "photos/valid/2.jpg")
    folder = {"val": "valid"}.get(split, split)
    assert found(tmp_path, "image", "1.jpg", split, "notes") == f"photos/{folder}/1.jpg"
    missing = found(tmp_path, "image", "2.jpg", split, "notes")
    assert missing == ("2.jpg" if split == "train" else f"photos/{folder}/2.jpg")


def test_splits_may_share_photos(tmp_path: Path) -> None:
    """RefCOCO's val rows are about photos of COCO's train2014."""
    files(tmp_path, "train2014/COCO_train2014_000000000001.jpg", "refcoco/instances.json")
    name = "COCO_train2014_000000000001.jpg"
    assert found(tmp_path, "image", name, "val", "refcoco") == f"train2014/{name}"


def test_an_annotation_in_a_folder_of_its_split_takes_no_other(tmp_path: Path) -> None:
    files(tmp_path, "test/1.jpg", "train/rows.json")
    assert found(tmp_path, "image", "1.jpg", "train", "train") == "1.jpg"  # missing


def test_two_that_could_be_meant_are_both_named(tmp_path: Path) -> None:
    files(tmp_path, "large/1.jpg", "small/1.jpg", "clips/v.mp4", "clips/v.avi")
    for modality, name, both in (
        ("image", "1.jpg", "large/1.jpg and .*small/1.jpg"),
        ("video", "v", "v.avi and .*v.mp4"),
    ):
        with pytest.raises(UserError, match=both):
            list(MediaFolder(tmp_path).item("train", modality, "key", name, tmp_path))  # type: ignore[arg-type]


def test_links_to_one_file_are_one(tmp_path: Path) -> None:
    files(tmp_path, "large/1.jpg")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "1.jpg").symlink_to(tmp_path / "large" / "1.jpg")
    assert found(tmp_path, "image", "1.jpg") == "all/1.jpg"


def test_files_come_before_zip_members(tmp_path: Path) -> None:
    write(tmp_path / "train.zip", zipped(**{"train/1.jpg": JPG, "train/2.jpg": JPG}))
    files(tmp_path, "train/1.jpg")
    assert found(tmp_path, "image", "1.jpg") == "train/1.jpg"
    assert found(tmp_path, "image", "2.jpg") == "train.zip/train/2.jpg"


@pytest.mark.parametrize(
    "name", ["../private/photo.png", "/etc/photo.png", "a/../../photo.png", "..\\photo.png", "C:\\photo.png"]
)
def test_names_stay_inside(name: str, tmp_path: Path) -> None:
    files(tmp_path, "private/photo.png", "photo.png", "root/rows.json")
    with pytest.raises(UserError, match="leads out of"):
        list(MediaFolder(tmp_path / "root").item("train", "image", "key", name, tmp_path / "root"))


def heard(path: Path, codec: str, form: str) -> None:
    """A second of a tone, alone in its container."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = (0.1 * np.sin(np.arange(48_000) / 10)).astype(np.float32)[None]
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate = 48_000
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        cut = av.AudioResampler(
            "fltp" if codec == "aac" else "flt", "mono", 48_000, frame_size=960 if codec != "aac" else 1024
        )
        for piece in (*cut.resample(frame), *cut.resample(None), None):
            container.mux(stream.encode(piece))


def test_sounds_in_containers_of_clips_are_heard(tmp_path: Path) -> None:
    containers = {".mp4": ("aac", "mp4"), ".webm": ("libopus", "webm"), ".opus": ("libopus", "ogg")}
    for number, (suffix, (codec, form)) in enumerate(containers.items()):
        heard(tmp_path / "in" / "sounds" / f"id{number}_000030{suffix}", codec, form)
    rows = "".join(f"id{number},30,a tone,test\n" for number in range(3))
    write(tmp_path / "in" / "vggsound.csv", rows)
    import_dataset(
        "vggsound", tmp_path / "in", tmp_path / "out", max_rejected=0.0, expect={"test/audio_qa": 3}
    )
    store = MediaStore(tmp_path / "out" / "test")
    for key in store.keys():  # noqa: SIM118
        assert store.modality(key) == "audio"
        assert store.audio(key, 16_000).size == pytest.approx(16_000, abs=1200)


@pytest.mark.parametrize("other", ["sounds/video1.wav", "a/video1.jpg", "video1.png"])
def test_other_kinds_of_the_same_name_do_not_shadow_a_clip(other: str, tmp_path: Path) -> None:
    content = {".wav": WAV, ".jpg": JPG, ".png": PNG}[Path(other).suffix]
    write(tmp_path / "in" / other, content)
    write(tmp_path / "in" / "clips" / "video1.mp4", MP4)
    notes = {
        "videos": [{"video_id": "video1", "split": "test"}],
        "sentences": [{"video_id": "video1", "caption": "a clip"}],
    }
    write(tmp_path / "in" / "test_videodatainfo.json", notes)
    import_dataset("msrvtt", tmp_path / "in", tmp_path / "out", max_rejected=0.0)
    assert MediaStore(tmp_path / "out" / "test").bytes("video1") == MP4


def test_a_mask_is_no_photo(tmp_path: Path) -> None:
    """Panoptic masks of COCO have the stems of its photos: none stands in for a photo that is missing."""
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in (1, 2)]
    captions = [{"id": n, "image_id": n, "caption": "x"} for n in (1, 2)]
    write(
        tmp_path / "in" / "annotations" / "captions_val2017.json", {"images": images, "annotations": captions}
    )
    write(tmp_path / "in" / "val2017" / "000000000001.jpg", JPG)
    for n in (1, 2):
        write(tmp_path / "in" / "annotations" / "panoptic_val2017" / f"{n:012d}.png", PNG)
    import_dataset("coco_captions", tmp_path / "in", tmp_path / "out", max_rejected=0.5)
    store = MediaStore(tmp_path / "out" / "val")
    assert store.keys() == ["coco-1"] and store.bytes("coco-1") == JPG


def test_tables_of_splits_with_photos_of_their_own(tmp_path: Path) -> None:
    levels = {"train": 10, "val": 120, "test": 230}
    for split, level in levels.items():
        photo = media.encode_image(np.full((8, 8, 3), level, np.uint8))
        write(tmp_path / "in" / split / "photos" / "0.png", photo)
        write(
            tmp_path / "in" / split / "caption.jsonl",
            lines({"id": "1", "image": "0.png", "references": ["x"]}),
        )
    import_dataset("table", tmp_path / "in", tmp_path / "out", max_rejected=0.0)
    for split, level in levels.items():
        (record,) = read_records(tmp_path / "out" / split, "caption")
        assert MediaStore(tmp_path / "out" / split).image(record.image or "")[0, 0, 0] == level


def test_rows_of_two_candidates_say_so(tmp_path: Path) -> None:
    for folder in ("large", "small"):
        write(tmp_path / "in" / folder / "0.png", PNG)
    write(tmp_path / "in" / "val_caption.jsonl", lines({"id": "1", "image": "0.png", "references": ["x"]}))
    import_dataset("table", tmp_path / "in", tmp_path / "out", max_rejected=1.0)
    (row,) = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert row["row"] == "line 1" and "large/0.png and" in row["reason"] and "small/0.png" in row["reason"]
