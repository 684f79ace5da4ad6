"""Names that data give never lead outside: neither what is read nor what is written."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from official import PNG, lines, write

from unival.data import remote
from unival.data.benchmarks.digits.source import _ready_clips
from unival.data.importing import import_dataset
from unival.data.source import BadItem
from unival.data.sources.digit_sets import read_groups
from unival.errors import UserError
from unival.files import inside

OUTSIDE = ["../x", "a/../../x", "/etc/x", "..", "..\\x", "C:/x", "C:x", "\\\\host\\x", "", "."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_leads_outside_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="leads out of data"):
        inside(Path("data"), name)


@pytest.mark.parametrize("name", ["x", "a/b.jpg", "..x", "a..b/c", "a b", "…"])
def test_other_names_are_paths_below(name: str) -> None:
    assert inside(Path("data"), name) == Path("data") / name


@pytest.mark.parametrize("name", ["../private/photo.png", "in/../../private/photo.png"])
@pytest.mark.parametrize("absolute", [False, True])
def test_no_annotation_reads_a_file_elsewhere(name: str, absolute: bool, tmp_path: Path) -> None:
    write(tmp_path / "private" / "photo.png", PNG)
    name = str(tmp_path / "private" / "photo.png") if absolute else name
    row = {"id": "1", "image": name, "references": ["x"]}
    write(tmp_path / "in" / "val" / "caption.jsonl", lines(row))
    import_dataset("table", tmp_path / "in", tmp_path / "out", max_rejected=1.0)
    (fault,) = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert "leads out of" in fault["reason"] and fault["row"] == "line 1"
    assert not list((tmp_path / "out").rglob("*.tar"))


def test_no_key_becomes_a_name_outside_in_a_shard(tmp_path: Path) -> None:
    import base64

    image = base64.b64encode(PNG).decode()
    write(tmp_path / "in" / "caption_val.tsv", f"1\t../../x\ta dog\t\t{image}\n2\tok\ta dog\t\t{image}\n")
    import_dataset("ofa_tsv", tmp_path / "in", tmp_path / "out", max_rejected=0.5)
    faults = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert "'../../x' leads out of" in faults[0]["reason"]


def test_no_clip_of_digits_lies_elsewhere(tmp_path: Path) -> None:
    head = "file,word,motion,source_index\n"
    write(tmp_path / "labels_mnist_train.csv", f"{head}../../a.mp4,zero,left,1\n/a.mp4,one,left,2\n")
    found = list(_ready_clips(tmp_path))
    assert [type(item) for item in found] == [BadItem, BadItem]
    assert all("leads out of" in item.reason for item in found if isinstance(item, BadItem))


class Store:
    """An object store whose keys are what a stranger chose."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def find(self, root: str) -> list[str]:
        return [f"{root}/{key}" for key in self.keys]

    def get_file(self, name: str, path: str) -> None:
        Path(path).write_text("foreign")


@pytest.mark.parametrize("key", ["../../code.py", "train/../../../code.py", "..\\code.py", ".."])
def test_keys_of_a_store_stay_in_the_cache(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    system = Store(["benchmark.json", key])
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: (system, "bucket/world"))
    with pytest.raises(UserError, match="leads out of"):
        remote.mirror("s3://bucket/world", tmp_path / "deep" / "cache")
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= {"benchmark.json"}


def hdf5(path: Path, kind: str, other: Path) -> Path:
    """Handwritten digits, whose pixels are kept in another file."""
    pixels = np.zeros((3, 256), np.uint8)
    other.write_bytes(pixels.tobytes())
    with h5py.File(path, "w") as file:
        file["train/target"] = np.zeros(3, np.int64)
        if kind == "external":
            file.create_dataset("train/data", pixels.shape, "u1", external=[(str(other), 0, pixels.nbytes)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(pixels.shape, "u1")
            layout[:] = h5py.VirtualSource(str(other), "data", pixels.shape)
            file.create_virtual_dataset("train/data", layout)
        elif kind == "link":
            file["train/data"] = h5py.ExternalLink(str(other), "/data")
        elif kind == "linked group":
            file["test"] = h5py.ExternalLink(str(other), "/test")
        elif kind == "soft":
            file["train/data"] = h5py.SoftLink("/elsewhere")
    return path


@pytest.mark.parametrize("kind", ["external", "virtual", "link", "linked group", "soft"])
def test_hdf5_reads_no_other_file(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"usps\.h5: .*(is a link|is kept in another file)"):
        read_groups(hdf5(tmp_path / "usps.h5", kind, tmp_path / "other"))


def test_hdf5_that_claims_much_is_refused(tmp_path: Path) -> None:
    """Nothing of it is stored."""
    with h5py.File(tmp_path / "usps.h5", "w") as file:
        file.create_dataset("train/data", (2**32, 256), "u1", chunks=(64, 256))
        file["train/target"] = np.zeros(3, np.int64)
    with pytest.raises(UserError, match="claims 1099511627776 bytes"):
        read_groups(tmp_path / "usps.h5")


@pytest.mark.parametrize("name", ["../../x", "/x", "."])
@pytest.mark.parametrize("field", ["recipes", "refinetune"])
def test_no_recipe_is_named_like_a_folder_elsewhere(name: str, field: str) -> None:
    from unival import config
    from unival.stages.merge import Config

    resolved: dict[str, Any] = config.load(Path(__file__).parents[2] / "build" / "config" / "merge.yaml")
    given = next(iter(resolved[field].values()), None) or {"tasks": ["caption"]}
    with pytest.raises(UserError, match="is not a name of a folder"):
        config.build(Config, {**resolved, field: {name: given}}, "merge.yaml")
