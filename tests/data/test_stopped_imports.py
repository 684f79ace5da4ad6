"""A stopped import goes on with what is still as it was, and gives the bytes of an undisturbed one."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official import PIXELS, archive, write

from unival.data import media, store
from unival.data.importing import import_dataset
from unival.data.store import MediaStore

PHOTOS = 40


def photo(number: int) -> bytes:
    return media.encode_image(np.roll(PIXELS, number), ".jpg")


def make(root: Path) -> Path:
    for number in range(PHOTOS):
        write(root / f"{number:02d}.jpg", photo(number))
    lines = "".join(f"{number:02d}.jpg,photo {number}\n" for number in range(PHOTOS))
    write(root / "captions.txt", "image,caption\n" + lines)
    return root


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(autouse=True)
def many_small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.ShardWriter.__init__, "__defaults__", (4096, False))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # nothing is decoded ahead


def stopped(name: str, root: Path, out: Path, after: int) -> Path:
    """An import that ends before its photo `after`; the folder that it leaves."""
    describe, decoded = media.describe, []

    def failing(*arguments: Any) -> tuple[int, int]:
        decoded.append(arguments)
        if len(decoded) > after:
            raise KeyboardInterrupt
        return describe(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(media, "describe", failing)
        import_dataset(name, root, out, split="train")
    return out.with_name(f".{out.name}.part") / "train"


def flipped(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def renumbered(path: Path) -> None:
    """Another offset of a medium in the notes."""
    content = json.loads(path.read_text())
    content["notes"][0][0][4] += 512
    path.write_text(json.dumps(content))


HARM: dict[str, Callable[[Path], None]] = {
    "a shard is cut": lambda left: cut(left / "media-00002.tar"),
    "a shard is missing": lambda left: (left / "media-00002.tar").unlink(),
    "a pixel is flipped": lambda left: flipped(left / "media-00002.tar", 0.6),
    "a tar header is flipped": lambda left: flipped(left / "media-00002.tar", 0.001),
    "notes are cut": lambda left: cut(left / "media-00002.journal.json"),
    "notes are empty": lambda left: (left / "media-00002.journal.json").write_text(""),
    "notes are no object": lambda left: (left / "media-00002.journal.json").write_text("[1]"),
    "notes are deep": lambda left: (left / "media-00002.journal.json").write_text("[" * 100_000),
    "a number in the notes": lambda left: renumbered(left / "media-00002.journal.json"),
    "notes are missing": lambda left: (left / "media-00002.journal.json").unlink(),
    "the last notes are torn": lambda left: cut(sorted(left.glob("*.journal.json"))[-1]),
    "half a shard is left": lambda left: (left / ".media-00009.tar.1.part").write_bytes(b"half"),
    "rows of another time": lambda left: (left / "vqa.parquet").write_bytes(b"old"),
    "nothing": lambda left: None,
}


@pytest.mark.fault
@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_damage_in_between_is_found(harm: Callable[[Path], None], tmp_path: Path) -> None:
    root = make(tmp_path / "photos")
    import_dataset("flickr8k", root, tmp_path / "whole", split="train")
    left = stopped("flickr8k", root, tmp_path / "out", 30)
    assert len(list(left.glob("*.tar"))) > 4
    harm(left)
    description = import_dataset("flickr8k", root, tmp_path / "out", split="train")
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert 1 < description["taken_over"] < 30
    assert not list(tmp_path.glob(".out*"))


def changed(path: Path, same: str) -> None:
    """Another photo, of the same number of bytes or of the same time."""
    times = path.stat()
    if same == "size":
        flipped(path, 0.9)
        return
    path.write_bytes(media.encode_image(PIXELS[::-1], ".jpg"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.fault
@pytest.mark.parametrize("same", ["size", "time"])
@pytest.mark.parametrize("number", [0, 13, 27])
def test_files_that_changed_in_between_are_read_again(same: str, number: int, tmp_path: Path) -> None:
    root = make(tmp_path / "photos")
    stopped("flickr8k", root, tmp_path / "out", 30)
    changed(root / f"{number:02d}.jpg", same)
    description = import_dataset("flickr8k", root, tmp_path / "out", split="train")
    shown = MediaStore(tmp_path / "out" / "train")
    assert {name: shown.bytes(name) for name in shown.keys()} == {  # noqa: SIM118
        path.stem: path.read_bytes() for path in root.glob("*.jpg")
    }
    assert description.get("taken_over", 0) <= number
    import_dataset("flickr8k", root, tmp_path / "whole", split="train")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_photo_that_is_gone_in_between_is_reported(tmp_path: Path) -> None:
    root = make(tmp_path / "photos")
    stopped("flickr8k", root, tmp_path / "out", 30)
    (root / "03.jpg").unlink()
    description = import_dataset("flickr8k", root, tmp_path / "out", split="train", max_rejected=0.5)
    assert description["splits"]["train"]["media"] == {"image": PHOTOS - 1} and description["rejected"] == 2


def test_a_photo_that_lies_elsewhere_in_between_is_that_one(tmp_path: Path) -> None:
    """A file nearer to the annotation than the one that was taken."""
    root = tmp_path / "photos"
    for number in range(PHOTOS):
        write(root / "all" / f"{number:02d}.jpg", photo(number))
    make(tmp_path / "other")
    (root / "captions.txt").write_bytes((tmp_path / "other" / "captions.txt").read_bytes())
    stopped("flickr8k", root, tmp_path / "out", 30)
    write(root / "05.jpg", photo(70))
    import_dataset("flickr8k", root, tmp_path / "out", split="train")
    assert MediaStore(tmp_path / "out" / "train").bytes("05") == photo(70)


def test_media_inside_archives_are_compared_by_their_bytes(tmp_path: Path) -> None:
    def tar(change: int) -> None:
        members = {}
        for number in range(PHOTOS):
            pixels = number + (change if number == 11 else 0)
            members |= {f"{number:02d}.jpg": photo(pixels), f"{number:02d}.txt": b"a photo"}
        write(tmp_path / "in" / "train-0.tar", archive(**members))

    tar(0)
    stopped("webdataset", tmp_path / "in", tmp_path / "out", 30)
    tar(50)
    description = import_dataset("webdataset", tmp_path / "in", tmp_path / "out", split="train")
    shown = MediaStore(tmp_path / "out" / "train")
    assert shown.bytes("train-0-11") == photo(61) and shown.bytes("train-0-12") == photo(12)
    assert description["taken_over"] > 15
