"""Searched coefficients, models refinetuned around a merge, and the tables about merged models."""

import csv
import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from tests.engine.standins import tiny
from unival.engine.batches.mixture import MixtureConfig, StreamConfig
from unival.engine.settings import OptimizerConfig, TrainConfig
from unival.files import write_json
from unival.merging import Recipe, verify
from unival.metrics.bootstrap import interval
from unival.stages import evaluate
from unival.study import leaderboard
from unival.study.cells import CellSpec, Result
from unival.study.merge_settings import Refinetuning
from unival.study.merges import Workshop
from unival.tracking import Tracker

PAIR = ["vqa", "grounding"]


def result(model, kind, task, scores, tmp_path, split="test", **shift):
    scores = np.asarray(scores, dtype=float)
    metrics = {"score": interval(scores, resamples=200)}
    spec = CellSpec(model, kind, task, split, len(scores), **shift)
    rows = [str(row) for row in range(len(scores))]
    return Result(spec, "score", metrics, len(scores), scores, rows, rows, {}, tmp_path)


def test_lines_of_the_leaderboard(tmp_path, monkeypatch):
    """The expert's share is 1 without spread; a copy of it too; half the score is half the share."""
    monkeypatch.setattr(leaderboard, "_updates", lambda task: 10)
    monkeypatch.chdir(tmp_path)
    note = tmp_path / "models/merged/copy/made.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"tasks": PAIR, "updates": {"finetune/vqa": 10, "copy": 4}}))
    rng = np.random.default_rng(0)
    found = []
    for task in PAIR:
        own = rng.random(50)
        for split in ("test", "ood-crowding"):
            found += [
                result(f"finetune/{task}", "finetuned", task, own, tmp_path, split),
                result("pretrain/p", "pretrained", task, own / 4, tmp_path, split),
                result("merged/copy", "merged", task, own, tmp_path, split),
                result("merged/half", "merged", task, own / (2 if task == "vqa" else 1), tmp_path, split),
            ]
    tasks = {"copy": PAIR, "half": PAIR, "absent": PAIR}
    lines = leaderboard.standings(found, tasks, 200)
    experts, pretrained, copy, half = lines[:4]
    order = ["experts", "pretrain/p", "merged/copy", "merged/half"]
    assert [line.model for line in lines] == order * 2
    assert [line.part for line in lines] == ["id"] * 4 + ["ood"] * 4
    for line in (experts, copy):
        assert line.share == line.worst == (1, 1, 1)
        assert line.mean.low < line.mean.value < line.mean.high and line.front
    assert [line.updates for line in lines[:4]] == [20, 0, 14, 0]
    assert (half.worst, half.worst_task) == ((0.5, 0.5, 0.5), "vqa")
    assert (half.share.value, half.front, pretrained.share.value) == (0.75, False, 0.25)
    assert [line.robustness for line in lines[4:]] == pytest.approx([0, 0, 0, 0], abs=1e-6)


def test_corruptions_of_the_same_rows_are_no_more_rows(tmp_path, monkeypatch):
    """The mean over twelve equal cells is known as well as one of them."""
    monkeypatch.setattr(leaderboard, "_updates", lambda task: 1)
    scores = np.random.default_rng(0).random(60)
    spreads = []
    for severities in ([1], range(1, 13)):
        found = [
            result("finetune/vqa", "finetuned", "vqa", scores, tmp_path, shift="blur", severity=severity)
            for severity in severities
        ]
        (line,) = leaderboard.standings(found, {"average": ["vqa"]}, 200)
        spreads.append(line.mean[1:])
    assert spreads[0] == spreads[1]


def test_scores_of_all_models_are_flat_for_dvc(tmp_path):
    """A number per model and place, with the rows behind it; the interval of one cell is its own."""
    rng = np.random.default_rng(0)
    own, near, far = (rng.random(40) for _ in range(3))
    found = [
        result("finetune/vqa", "finetuned", "vqa", own, tmp_path),
        result("merged/average", "merged", "vqa", near, tmp_path),
        result("pretrain/p", "pretrained", "vqa", far, tmp_path),
        result("finetune/vqa", "finetuned", "vqa", near, tmp_path, shift="blur", severity=1),
        result("finetune/vqa", "finetuned", "vqa", far, tmp_path, split="ood-crowding"),
    ]
    scores = leaderboard.scores(found, 200)
    assert list(scores) == ["vqa", "vqa_ood"]
    inside, outside = scores["vqa"], scores["vqa_ood"]
    assert list(inside) == ["expert", "merged.average", "pretrained", "n", "interval"]
    assert [inside["expert"], *inside["interval"]["expert"]] == list(found[0].value.rounded())
    assert inside["n"] == 40 and outside["n"] == 80
    assert outside["expert"] == pytest.approx(np.mean([near, far]), abs=1e-6)
    low, high = outside["interval"]["expert"]
    assert low < outside["expert"] < high
    assert high - low < min(cell.value.high - cell.value.low for cell in found[3:])


def test_pairs_have_barriers_the_middle_and_a_front(tmp_path):
    """A score that dips, and one that rises, between two models."""
    heights = {"vqa": {0.0: 0.8, 0.5: 0.5, 1.0: 0.6}, "grounding": {0.0: 0.2, 0.5: 0.9, 1.0: 0.6}}
    noise = np.random.default_rng(0).normal(0, 0.01, 100)
    points = [
        ("a", "b", place, result("a-b", "interpolated", task, height + noise, tmp_path))
        for task, line in heights.items()
        for place, height in line.items()
    ]
    lines = leaderboard.lines_of(points, 200)
    vqa, grounding = leaderboard.pair_scores(lines)
    assert vqa.barrier == pytest.approx((0.2, 0.2, 0.2)) and vqa.barrier_at == 0.5  # shared noise: paired
    assert grounding.barrier.value == 0
    assert (vqa.minus_best.value, grounding.minus_best.value) == pytest.approx((-0.3, 0.3))
    assert (vqa.minus_mean.value, grounding.minus_mean.value) == pytest.approx((-0.2, 0.5))
    assert vqa.p == grounding.p == pytest.approx(4 / 201, abs=1e-6)  # twice 2 / 201, after Holm
    equal = [("a", "b", t, result("a-b", "interpolated", "vqa", noise, tmp_path)) for t in (0.0, 0.5, 1.0)]
    (row,) = leaderboard.pair_scores(leaderboard.lines_of(equal, 200))
    assert (row.minus_best.value, row.p, row.barrier.value) == (0, 1, 0)
    (front,) = leaderboard.fronts(lines)
    assert (front.on_front, front.points) == (3, 3)
    assert front.area_of_ends == pytest.approx(0.6 * 0.6 + 0.2 * 0.2, abs=0.01)
    assert front.area == pytest.approx(front.area_of_ends + 0.5 * 0.3, abs=0.01)


def test_experts_of_earlier_choices_are_not_used(tmp_path, monkeypatch, capsys):
    """A task taken out of params.yaml leaves its model on disk: no merge and no curve reads it."""
    monkeypatch.chdir(tmp_path)
    for task in ("vqa", "caption"):
        (tmp_path / "models/finetune" / task).mkdir(parents=True)
        (tmp_path / "models/finetune" / task / "config.json").touch()
    experts = SimpleNamespace(experts=tmp_path / "models/finetune", tracker=Tracker())
    workshop = Workshop(tmp_path / "merged", tmp_path, tmp_path, experts, ["vqa"], {})
    assert workshop._found(("vqa", "caption"), "average") is None
    assert "average is left out: there is no model caption" in capsys.readouterr().out
    assert list(workshop._found(("vqa",), "alone")) == ["vqa"]
    pairs = SimpleNamespace(pairs=[["vqa", "caption"], ["vqa", "vqa"]])
    assert evaluate._pairs(SimpleNamespace(experts=["vqa"], interpolation=pairs)) == [["vqa", "vqa"]]


def test_one_model_on_all_tasks_takes_its_own_rows_and_steps(tmp_path, monkeypatch):
    """From the recipe's merge, with its quotas; tasks without one have the rows of the first expert."""
    expert = TrainConfig(9, MixtureConfig(8, [StreamConfig("vqa", 8)]), OptimizerConfig(1e-3), 0)
    record = {"steps": 9, "train": json.loads(json.dumps(asdict(expert)))}
    for task, heard in zip(PAIR, (["audio"], ["image"]), strict=True):
        write_json(tmp_path / task / "training.json", {**record, "media": heard})
        (tmp_path / task / "config.json").touch()
    given, started, model = [], [], SimpleNamespace(learned=None)
    monkeypatch.setattr(
        "unival.study.models.load_model", lambda start: started.append(start) or (model, None)
    )
    monkeypatch.setattr("unival.study.train.train_on", lambda *words: given.append(words[4]))
    fit = SimpleNamespace(experts=tmp_path, tasks=dict.fromkeys(PAIR), benchmark=None)
    workshop = Workshop(tmp_path, tmp_path, tmp_path / "scratch", fit, PAIR, {})
    new = Refinetuning(PAIR, recipe="average", steps=5, rows={PAIR[1]: 3})
    merged = [tmp_path / task for task in PAIR]
    _, updates = workshop._train(new, tmp_path / "average", "unival", "model", merged)
    assert model.learned == {"image", "audio"}, "of its experts: the merge's record names places of later"
    (settings,) = given
    assert started == [tmp_path / "average"]
    assert [(stream.task, stream.rows) for stream in settings.mixture.streams] == [(PAIR[0], 8), (PAIR[1], 3)]
    assert (settings.steps, settings.mixture.rows, updates) == (5, 11, 10)


@pytest.mark.fault
def test_a_merge_that_was_stopped_is_made_anew(tmp_path):
    """What the stopped run added to the merged model is no other's work, whatever of it is there."""
    for name in [*PAIR, "base"]:
        tiny(len(name)).save_pretrained(tmp_path / "models" / name)
        write_json(tmp_path / "models" / name / "training.json", {"steps": 2, "train": {}})
    fit = SimpleNamespace(experts=tmp_path / "models", base=tmp_path / "models/base", tracker=Tracker())
    recipes = {"average": Recipe("average", tuple(PAIR))}
    workshop = Workshop(tmp_path / "merged", tmp_path, tmp_path / "scratch", fit, PAIR, recipes)

    def made():
        workshop.merge("average")
        return {path.name: path.read_bytes() for path in (tmp_path / "merged/average").iterdir()}

    whole = made()
    assert {"merge.json", "made.json", "README.md", "model.safetensors"} <= whole.keys()
    for left in ("made.json", "README.md"):
        (tmp_path / "merged/average" / left).unlink()
        assert made() == whole


REFINETUNE = {
    "fusing_vqa": {"recipe": "average", "tasks": ["vqa"]},
    "ratatouille_vqa": {"recipe": "average", "tasks": ["vqa"], "each": True},
    "ratatouille_grounding": {"recipe": "average", "tasks": ["grounding"], "each": True},
    "joint": {"tasks": PAIR},
}
SEARCH = {
    "task_arithmetic": {"over": {"scale": [0.2, 0.4]}, "rows": 4},
    "lines": {"strategy": "coordinate", "over": {"vqa": [0.0, 1.0]}, "rows": 4, "budget": 2},
    "greedy_soup": {"strategy": "greedy", "rows": 4},
    "regmean": {"over": {"alpha": [0.5, 0.9]}, "rows": 4},
    "adamerging": {"strategy": "entropy", "rows": 4, "budget": 3},
}


@pytest.mark.slow
def test_fusing_ratatouille_joint_searches_and_statistics_run(clone, run):
    """Every kind of recipe, on two tasks that saw one phase of pretraining."""
    params = yaml.safe_load((clone / "params.yaml").read_text())
    start = "models/pretrain/image_text"
    params |= {"tasks": PAIR, "pretrained": start}
    params["phases"] = {"image_text": params["phases"]["image_text"]}
    names = ["average", *SEARCH, "fisher", "ratatouille"]
    recipes = {name: {"models": PAIR} for name in names}
    recipes["ratatouille"]["models"] = ["ratatouille_vqa", "ratatouille_grounding"]
    params["set"]["merge"] = {
        "merges": names, "recipes": recipes, "refinetune": REFINETUNE, "search": SEARCH, "statistics_rows": 4,
        "batch_norm": ["average"],
    }  # fmt: skip
    params["set"]["evaluate"] = {
        "merges": names, "pretrained_tasks": [], "shifted_pretrained": True,
        "interpolation": {"pairs": [["ratatouille_vqa", "ratatouille_grounding"]]},
    }  # fmt: skip
    (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run("dvc", "repro", "evaluate")

    def read(name):
        with (clone / f"reports/metrics/{name}.csv").open() as handle:
            return list(csv.DictReader(handle))

    lines = {(row["model"], row["tasks"], row["part"]): row for row in read("leaderboard")}
    both = " ".join(PAIR)
    wanted = {"experts": 8, start.removeprefix("models/"): 0, "merged/average": 8, "merged/joint": 8}
    wanted |= {"merged/regmean": 8, "merged/ratatouille": 16}
    assert {model: int(lines[model, both, "id"]["updates"]) for model in wanted} == wanted
    assert (start.removeprefix("models/"), both, "ood") in lines
    for model in ("fusing_vqa", "ratatouille_vqa"):  # 2 experts, and once more on the target
        for part in ("id", "ood"):
            assert int(lines[f"merged/{model}", "vqa", part]["updates"]) == 12
    assert {(row["first"], row["task"]) for row in read("pairs")} == {("ratatouille_vqa", t) for t in PAIR}
    assert len(read("fronts")) == 1
    assert {row["second"] for row in read("geometry")} == set(PAIR)
    merged = clone / "models/merged"
    for name in names:
        record = json.loads((merged / name / "merge.json").read_text())
        assert record["recipe"]["method"] == {"fisher": "fisher", "regmean": "regmean"}.get(
            name, "average" if name in ("average", "greedy_soup", "ratatouille") else "task_arithmetic"
        )
        verify(merged / name)
    chosen = json.loads((merged / "adamerging/merge.json").read_text())["recipe"]["modules"]
    assert len({tuple(rule["weights"].values()) for rule in chosen}) > 1
    assert "mean taken" in " ".join(json.loads((merged / "regmean/merge.json").read_text())["notes"])
