"""The model card: everything in it comes from the folder's records, and its head is the hub's."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from test_hub import folder

from unival import files
from unival.commands import card as command
from unival.engine.batches.mixture import MixtureConfig, StreamConfig
from unival.engine.settings import OptimizerConfig, TrainConfig
from unival.errors import UserError
from unival.merging import merge, verify
from unival.study import card, tables

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


def test_a_merge_with_a_card_is_merged_into_again(folder: Path, tmp_path: Path) -> None:
    """The card is the command's own file: its record lists it. A file of another hand is still kept."""
    experts, out = {"a": folder, "b": folder}, tmp_path / "both"
    merge({"method": "average", "models": ["a", "b"]}, experts, folder, out)
    command.main([str(out), "--write"])
    merge({"method": "average", "models": ["a", "b"]}, experts, folder, out)
    command.main([str(out), "--write"])
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        merge({"method": "average", "models": ["a", "b"]}, experts, folder, out)


def test_scores_of_the_study_are_on_the_card(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of this model alone; the card that the pipeline wrote, before there were scores, has none."""
    expert = trained(folder, tmp_path / "models/finetune/vqa")
    row: Any = {"metric": "vqa_accuracy", "low": 0.7, "high": 0.9, "n": 500}
    place: Any = {"kind": "finetuned", "split": "test", "shift": "", "severity": None, "primary": True}
    mine = tables.CellScore(model="finetune/vqa", task="vqa", value=0.8125, **place, **row)
    shifted = replace(mine, shift="blur", severity=3, value=0.5)
    other = replace(mine, model="merged/all", value=0.25)
    caption = replace(mine, task="caption", metric="cider", value=4.5)
    metrics = tmp_path / "reports/metrics"
    metrics.mkdir(parents=True)
    tables.write(metrics / "cells.csv", tables.CellScore, [mine, shifted, other, caption])
    known = {"model": "finetune/vqa", "value": 0.8125, "blind": 0.31, "blind_kind": "swapped"}
    files.write_json(metrics / "tasks.json", {"vqa": {**row, **known, "majority": 0.12, "metrics": {}}})
    machine = {"ranks": 2, "threads": 3, "processor": "Some CPU"}
    run = tables.Run(stage="finetune", item="vqa", config_hash="", run_id=None, seconds=1200.0, peak_mib=1500)
    for name, seconds in (("pretrain-all", 600.0), ("finetune-vqa", 1200.0), ("finetune-caption", 7.0)):
        taken = replace(run, machine=machine, seconds=seconds)
        files.write_json(tmp_path / f"reports/runs/{name}.json", asdict(taken))
    capsys.readouterr()
    command.main([str(expert)])
    text = capsys.readouterr().out
    assert "| finetune-vqa | 1200 | 6 | 2.000 | Some CPU |" in text and "1,500 MiB" in text
    assert (
        "\n3.000 core hours" in text and "finetune-caption" not in text
    )  # what it started from, and no more
    assert "| vqa | test | vqa_accuracy | 0.812 | [0.700, 0.900] | 500 | 0.310 |" in text
    assert "| vqa | test, blur 3 | vqa_accuracy | 0.500 |" in text and "0.250" not in text
    data = ModelCard(text).data
    found = {result.task_name: (result.metric_type, result.metric_value) for result in data.eval_results}
    assert found == {"vqa": ("vqa_accuracy", 0.8125), "caption": ("cider", 4.5)}
    assert data.metrics == ["cider", "vqa_accuracy"]
    assert all(result.dataset_name == "world" for result in data.eval_results)
    assert "## Scores" not in (expert / card.CARD).read_text()

    command.main([str(expert), "--benchmark", "someone/world"])
    assert "## Scores" not in (expert / card.CARD).read_text()
    entries = parse_eval_result_entries(
        yaml.safe_load((expert / ".eval_results/someone-world.yaml").read_text())
    )
    assert {(entry.dataset_id, entry.task_id, entry.value) for entry in entries} == {
        ("someone/world", "vqa", 0.8125),
        ("someone/world", "caption", 4.5),
    }
    assert entries[0].notes == "vqa_accuracy on test, 95 % interval [0.700, 0.900], n=500"
    for name in ("world", "a/b/c", "someone/my world"):
        with pytest.raises(UserError, match="<owner>/<name>"):
            command.main([str(expert), "--benchmark", name])
    with pytest.raises(UserError, match="no scores of it"):
        command.main([str(trained(folder, tmp_path / "elsewhere")), "--benchmark", "someone/world"])


def test_a_merge_costs_what_its_models_did(folder: Path, tmp_path: Path) -> None:
    """Each process behind it once: its own, finetunings, and the pretraining that they share."""
    models = tmp_path / "models"
    experts = {name: trained(folder, models / f"finetune/{name}") for name in ("vqa", "caption")}
    out = models / "merged/both"
    merge({"method": "average", "models": list(experts)}, experts, folder, out)
    updates = {f"finetune/{name}": 40 for name in experts}
    files.write_json(out / card.NOTE, {"tasks": list(experts), "updates": updates})
    again = trained(out, models / "merged/again", start="models/merged/both")
    files.write_json(again / card.NOTE, {"tasks": list(experts), "updates": {"again": 40}})
    machine = {"ranks": 1, "threads": 2, "processor": "Some CPU"}
    taken = {"pretrain-all": 900, "finetune-vqa": 90, "finetune-caption": 45, "merge": 9, "finetune-x": 1e6}
    for name, seconds in taken.items():
        run = tables.Run(
            stage="", item=None, config_hash="", run_id=None, seconds=seconds, peak_mib=1, machine=machine
        )
        files.write_json(tmp_path / f"reports/runs/{name}.json", asdict(run))
    rows = [
        tables.CellScore(
            model=f"merged/{name}", task="vqa", value=0.5, metric="vqa_accuracy", low=0.4, high=0.6, n=9,
            kind="merged", split="test", shift="", severity=None, primary=True,
        )
        for name in ("both", "again")
    ]  # fmt: skip
    (tmp_path / "reports/metrics").mkdir()
    tables.write(tmp_path / "reports/metrics/cells.csv", tables.CellScore, rows)
    files.write_json(tmp_path / "reports/metrics/tasks.json", {})
    for place in (out, again):
        text = card.text(place, card.scores_of(place))
        for name in ("pretrain-all", "finetune-vqa", "finetune-caption", "merge"):
            assert text.count(f"| {name} |") == 1
        assert "\n0.580 core hours" in text and "finetune-x" not in text


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
