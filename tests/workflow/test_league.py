"""Models that are finetuned again around a merge, and the league table, at the smallest size."""

import csv
import json

import numpy as np
import pytest
import yaml

from unival.metrics.bootstrap import interval
from unival.stages import league
from unival.stages.cells import Result, Spec

PAIR = ["vqa", "grounding"]


def result(model, kind, task, scores, tmp_path, split="test"):
    scores = np.asarray(scores, dtype=float)
    metrics = {"score": interval(scores, resamples=200)}
    return Result(
        Spec(model, kind, task, split, len(scores)), "score", metrics, len(scores), scores, {}, tmp_path
    )


def test_lines_of_the_league(tmp_path, monkeypatch):
    """The expert's share is 1 without spread; a copy of it too; half the score is half the share."""
    monkeypatch.setattr(league, "_updates", lambda task: 10)
    rng = np.random.default_rng(0)
    found = []
    for task in PAIR:
        own = rng.random(50)
        found += [result(f"finetune/{task}", "finetuned", task, own, tmp_path)]
        found += [result("merged/copy", "merged", task, own, tmp_path)]
        found += [result("merged/half", "merged", task, own / (2 if task == "vqa" else 1), tmp_path)]
    tasks = {"copy": PAIR, "half": PAIR}
    lines = [dict(zip(league.COLUMNS, row, strict=True)) for row in league.rows(found, tasks, 200)]
    experts, copy, half = lines
    assert [line["model"] for line in lines] == ["experts", "merged/copy", "merged/half"]
    for line in (experts, copy):
        assert (line["share"], line["share_low"], line["share_high"], line["worst"]) == (1, 1, 1, 1)
        assert line["mean_low"] < line["mean"] < line["mean_high"] and line["updates"] == 20
    assert (half["worst"], half["worst_low"], half["worst_high"], half["worst_task"]) == (
        0.5,
        0.5,
        0.5,
        "vqa",
    )
    assert half["share"] == 0.75


@pytest.mark.slow
def test_fusing_ratatouille_and_joint_finetuning_run(clone, run):
    params = yaml.safe_load((clone / "params.yaml").read_text())
    params["tasks"] = PAIR
    recipes = {"merges": ["average"], "recipes": {"average": {"models": PAIR}}}
    again = {
        "fusing_vqa": {"recipe": "average", "tasks": ["vqa"]},
        "ratatouille_vqa": {"recipe": "average", "tasks": ["vqa"], "each": True},
        "joint": {"tasks": PAIR},
    }
    params["set"]["merge"] = {**recipes, "again": again}
    params["set"]["evaluate"] = {
        **recipes,
        "pretrained_tasks": [],
        "interpolation": {"pairs": []},
        "shifted_pretrained": True,
    }
    (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run("dvc", "repro", "evaluate")
    with (clone / "reports/metrics/league.csv").open() as handle:
        lines = {(row["model"], row["tasks"], row["part"]): row for row in csv.DictReader(handle)}
    both = "vqa grounding"
    wanted = {"experts": 8, "pretrain/video_text": 0, "merged/average": 8, "merged/joint": 8}
    assert {model: int(lines[model, both, "id"]["updates"]) for model in wanted} == wanted
    assert ("pretrain/video_text", both, "ood") in lines
    for model, updates in (("merged/fusing_vqa", 12), ("merged/ratatouille_vqa", 16)):
        assert (
            int(lines[model, "vqa", "id"]["updates"]) == int(lines[model, "vqa", "ood"]["updates"]) == updates
        )
    record = json.loads((clone / "models/merged/ratatouille_vqa/merge.json").read_text())
    experts = {name: clone / "models/finetune" / name / "model.safetensors" for name in PAIR}
    assert record["recipe"]["models"] == sorted(PAIR) and all(path.is_file() for path in experts.values())
