"""The ablations as a stage."""

from pathlib import Path

import pytest

from unival import files
from unival.stages import ablate, base
from unival.tracking import Tracker

ROOT = Path(__file__).parents[2]


def test_no_study_leaves_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`studies: []` is how a person goes without ablations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    splits = {"train": {"digest": "a"}, "test": {"digest": "b"}}
    files.write_json(tmp_path / "data/benchmark.json", {"splits": splits})
    config = ablate.Config("ablate", None, "data", {}, {}, {}, [], {}, {}, [0], 10)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ablate.run(config, base.StageIO("ablate", None, {}, scratch, scratch, tmp_path, Tracker()))
    assert list((tmp_path / "reports/ablations").iterdir()) == []
