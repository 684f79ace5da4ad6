"""The model card: everything in it comes from the folder's records, and its head is the hub's."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from test_hub import folder

from unival import files
from unival.commands import card as command
from unival.engine.batches.mixture import MixtureConfig, StreamConfig
from unival.engine.settings import OptimizerConfig, TrainConfig
from unival.errors import UserError
from unival.merging import merge, verify
from unival.study import card

__all__ = ["folder"]


class World:
    """What a card says of a prepared benchmark."""

    folder = Path("/somewhere/data/processed/world")

    def digest(self, split: str) -> str:
        return f"digest-of-{split}"


def trained(source: Path, out: Path, start: str | None = "/elsewhere/models/pretrain/all") -> Path:
    """A folder as a stage leaves it."""
    shutil.copytree(source, out)
    settings = TrainConfig(40, MixtureConfig(8, [StreamConfig("vqa", 8)]), OptimizerConfig(1e-3), 0)
    record = {
        "identity": {},
        "train": json.loads(json.dumps(asdict(settings))),
        "rows": {"vqa": 321},
        "steps": 40,
        "best_step": 30,
        "score": 0.625,
        "damaged": 0,
    }
    files.write_json(out / card.TRAINING, record)
    world: Any = World()
    card.write_trained(out, world, start)
    return out


def test_trained_model_names_data_start_and_training(folder: Path, tmp_path: Path) -> None:
    expert = trained(folder, tmp_path / "vqa")
    text = (expert / card.CARD).read_text()
    head = ModelCard(text).data
    assert head.library_name == "transformers" and head.pipeline_tag == "any-to-any"
    assert head.datasets == ["world"] and head.base_model == ["all"] and head.license == "apache-2.0"
    for fact in (
        "Tasks: vqa.",
        "| vqa | 321 |",
        "`train`: digest `digest-of-train`",
        "step 30, the best on validation rows (score 0.6250)",
        "Started from `pretrain/all`.",
        "lr:",
    ):
        assert fact in text, fact
    assert "/somewhere" not in text and "/elsewhere" not in text
    fresh = trained(folder, tmp_path / "new", start=None)
    assert ModelCard((fresh / card.CARD).read_text()).data.base_model is None
    record = files.read_json(fresh / card.TRAINING) | {"score": None, "best_step": 40}
    files.write_json(fresh / card.TRAINING, record)
    assert "validation rows" not in card.text(fresh)  # nothing was selected


def test_merged_model_names_its_models_and_stays_as_recorded(folder: Path, tmp_path: Path) -> None:
    experts = {name: trained(folder, tmp_path / name) for name in ("vqa", "caption")}
    recipe = {"method": "average", "models": list(experts)}
    out = tmp_path / "both"
    record = merge(recipe, experts, folder, out)
    files.write_json(out / "made.json", {"tasks": ["vqa", "caption"], "updates": {}})
    weights = (out / "model.safetensors").read_bytes()
    command.main([str(out), "--write"])
    text = (out / card.CARD).read_text()
    head = ModelCard(text).data
    assert head.base_model == ["caption", "vqa"] and "merge" in head.tags
    assert "Tasks: vqa, caption." in text and record["recipe_digest"] in text
    for digests in record["inputs"].values():
        assert all(digest in text for digest in digests.values())
    assert (out / "model.safetensors").read_bytes() == weights
    verify(out)


def test_equal_folders_have_equal_cards(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expert = trained(folder, tmp_path / "one/vqa")
    other = trained(folder, tmp_path / "two/vqa")
    capsys.readouterr()
    command.main([str(expert)])
    assert capsys.readouterr().out == (expert / card.CARD).read_text() == (other / card.CARD).read_text()


def test_damaged_records_are_named(folder: Path, tmp_path: Path) -> None:
    expert = trained(folder, tmp_path / "vqa")
    for damaged in ({"steps": 3}, [], {"rows": [], "train": None}):
        files.write_json(expert / card.TRAINING, damaged)
        with pytest.raises(UserError, match=r"vqa.*again"):
            card.text(expert)
    with pytest.raises(UserError, match="no model there"):
        command.main([str(tmp_path)])
