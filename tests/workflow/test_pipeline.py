"""The tools together, in scratch clones: what reruns, what goes on after a kill, what a queue imports."""

import csv
import hashlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest
import yaml
from conftest import environment
from test_compose import with_high_resolution

from tests.faults.commands import SETTINGS

pytestmark = pytest.mark.slow


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stored(clone: Path) -> sqlite3.Connection:
    """MLflow's store, once it has all that the runs have logged: their ends do not wait long for it."""
    command = [sys.executable, "-m", "unival", "sync"]
    subprocess.run(command, cwd=clone, env=environment(PYTHONPATH="src"), check=True)
    return sqlite3.connect(clone / "mlflow.db")


def runs(clone: Path) -> list[tuple[str, str, str]]:
    """(experiment, run, status)"""
    with stored(clone) as store:
        return sorted(
            store.execute(
                "select e.name, r.name, r.status from runs r join experiments e using (experiment_id)"
            ).fetchall()
        )


def test_the_whole_study(clone, run) -> None:
    """Runs, is complete, does nothing the second time, and reruns what an edit touches."""
    first = ran(run("dvc", "repro").stdout)
    assert len(first) == 15
    summary = json.loads((clone / "reports/summary.json").read_text())
    assert len(summary["tasks"]) == 11  # the seven experts, four tasks of the pretrained model
    assert all(summary[part] for part in ("ood", "merges", "ablations", "stages", "provenance"))
    for name, stage in summary["stages"].items():
        assert stage["peak_mib"] > 0 and stage["seconds"] > 0 and stage["run_id"], name
    ends_are_the_experts(clone / "reports")
    names = {name for experiment, name, status in runs(clone) if status == "FINISHED"}
    assert {"finetune-vqa", "merged/average", "finetune/vqa", "pretrain-image_text"} <= names
    for experiment in ("prepare", "pretrain", "finetune", "merge", "evaluate", "ablate", "report"):
        assert any(found[0] == experiment for found in runs(clone))

    assert ran(run("dvc", "repro").stdout) == []
    task = clone / "conf/task/vqa.yaml"
    task.write_text("# a remark\n" + task.read_text())
    assert ran(run("dvc", "repro").stdout) == ["compose"]
    params = yaml.safe_load((clone / "params.yaml").read_text())
    params["set"]["finetune"] = {"items": {"audio_caption": {"train": {"steps": 2}}}}
    (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    planned = ran(run("dvc", "repro", "--dry").stdout)
    assert planned[0] == "compose"
    again = ran(run("dvc", "repro").stdout)
    assert again[:2] == ["compose", "finetune@audio_caption"]
    assert not {"prepare", "pretrain@image_text", "finetune@vqa", "ablate"} & set(again)


def test_figures_follow_the_code(clone, run) -> None:
    """There and back, by `dvc repro` alone; a remark is no change, and a proof spares the rerun."""
    path = clone / "params.yaml"
    params = yaml.safe_load(path.read_text()) | SETTINGS | {"tasks": [*SETTINGS["tasks"], "video_qa"]}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    run("dvc", "repro", "evaluate")
    scores, metric = clone / "reports/metrics/tasks.json", clone / "src/unival/tasks/question_answering.py"
    before, whole = scores.read_bytes(), metric.read_text()
    note = json.loads((clone / "reports/runs/evaluate.json").read_text())["code"]
    shown = run("git", "diff", "--stat", note["commit"], note["uncommitted"]).stdout
    assert "params.yaml" in shown and "reports" not in shown, "params.yaml was not committed"

    exact = "float(str(value).strip() == likeliest(record.answers).text)"
    change(metric, exact, "0.5")
    told = run("python", "-m", "unival", "compose", PYTHONPATH="src").stdout
    assert "the code of pretrain, finetune, merge, evaluate, ablate, report has changed" in told
    status = run("dvc", "status").stdout
    assert "evaluate:" in status and "finetune@video_qa:" in status and "prepare:" not in status
    again = ran(run("dvc", "repro", "evaluate").stdout)
    assert "evaluate" in again and "prepare" not in again
    assert json.loads(scores.read_bytes())["video_qa"]["value"] == 0.5

    metric.write_text(whole)
    run("dvc", "repro", "evaluate")
    assert scores.read_bytes() == before
    metric.write_text(f"# a remark\n{whole}")
    assert ran(run("dvc", "repro", "evaluate").stdout) == ["compose"]

    change(metric, exact, "float(likeliest(record.answers).text == str(value).strip())")
    run("python", "-m", "unival", "prove", PYTHONPATH="src")
    assert ran(run("dvc", "repro", "evaluate").stdout) == ["compose"]
    change(metric, "float(likeliest(record.answers).text == str(value).strip())", "0.5")
    refused = run("python", "-m", "unival", "prove", "evaluate", check=False, PYTHONPATH="src")
    assert refused.returncode == 2 and "tasks.json" in refused.stderr
    assert "evaluate:" in run("dvc", "status").stdout


def ends_are_the_experts(reports: Path) -> None:
    """The points 0 and 1 of a curve score as the stored predictions of the experts on the same rows."""
    with (reports / "metrics/interpolation.csv").open() as handle:
        ends = [row for row in csv.DictReader(handle) if row["metric"] != "cider"]
    compared = 0
    for row in ends:
        if (row["task"], float(row["alpha"])) in ((row["first"], 0.0), (row["second"], 1.0)):
            lines = (reports / f"predictions/finetune/{row['task']}/{row['task']}/test.jsonl").open()
            scores = [json.loads(line)["scores"][row["metric"]] for line in lines][: int(row["n"])]
            assert sum(scores) / len(scores) == pytest.approx(float(row["value"]), abs=1e-5)
            compared += 1
    assert compared


@pytest.mark.distributed
def test_ranks_evaluate_and_ablate_to_the_same_bytes(clone, run) -> None:
    """What one process computes, those that torchrun starts share; nothing is taken from a cache."""
    stages, ranks = ("evaluate", "ablate"), clone / "conf/runtime/ddp.yaml"
    run("dvc", "repro", *stages, UNIVAL_RUNTIME="cpu")

    def written() -> dict[Path, str]:
        found = clone.glob("reports/*/**/*")
        return {path: digest(path) for path in found if path.is_file() and path.parent.name != "runs"}

    alone = written()
    for number in (1, 3):
        ranks.write_text(f"{{device: cpu, threads: 1, launcher: torchrun, processes: {number}}}")
        for stage in stages:
            shutil.rmtree(clone / "scratch" / stage)
        told = run("dvc", "repro", "--force", "--single-item", *stages, UNIVAL_RUNTIME="ddp").stderr
        assert all(f"{stage}: torchrun, {number} processes on each node" in told for stage in stages)
        assert written() == alone and len(alone) > 20


def test_a_high_resolution_phase_carries_its_sizes_on(clone, run) -> None:
    path = clone / "params.yaml"
    params = yaml.safe_load(with_high_resolution(path.read_text()))
    params["tasks"] = ["caption", "video_caption", "video_qa"]
    merges = ["average_video"]
    params["set"] |= {"merge": {"merges": merges}, "evaluate": {"merges": merges, "shifted_merges": merges}}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    stages = ran(run("dvc", "repro", "evaluate").stdout)
    assert "pretrain@high_resolution" in stages and "evaluate" in stages
    larger = yaml.safe_load((clone / "conf/model/tiny.yaml").read_text())["high_resolution"]

    def sizes(model: str) -> dict[str, int]:
        settings = json.loads((clone / "models" / model / "processor_config.json").read_text())
        return {key: settings[key] for key in larger}

    assert sizes("pretrain/video_text") != larger
    for model in (
        "pretrain/high_resolution",
        "finetune/caption",
        "finetune/video_qa",
        "merged/average_video",
    ):
        assert sizes(model) == larger, model


@pytest.mark.resume
def test_a_killed_run_goes_on_to_the_same_bytes(clone, run) -> None:
    weights = clone / "models/pretrain/image_text/model.safetensors"
    run("dvc", "repro", "prepare")
    run("dvc", "repro", "pretrain@image_text")
    undisturbed = digest(weights)
    killed = run("dvc", "repro", "-f", "-s", "pretrain@image_text", check=False, UNIVAL_FAIL_AT_STEP="4")
    assert killed.returncode and not weights.exists()
    # not forced, DVC would only bring back the outputs of the undisturbed run
    resumed = run("dvc", "repro", "-f", "-s", "pretrain@image_text")
    assert "resumes from step 3" in resumed.stderr + resumed.stdout
    assert digest(weights) == undisturbed
    statuses = [status for experiment, _, status in runs(clone) if experiment == "pretrain"]
    assert statuses == ["FINISHED", "FINISHED"], "the killed run was continued, not started anew"


def test_a_queued_experiment_imports_the_code_beside_it(clone, run) -> None:
    """An editable install would import the main tree: the queue's copy must use its own."""
    run("dvc", "repro", "compose")
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
    run(*git, "add", "-A")
    run(*git, "commit", "-qm", "composed")
    source = clone / "src/unival/stages/prepare.py"
    change(source, "io.tracker.metrics({", 'io.tracker.tags({"beside": "yes"})\n    io.tracker.metrics({')
    run("dvc", "exp", "run", "--queue", "--name", "beside", "prepare")
    source.write_text(source.read_text().replace('"yes"', '"no"'))  # after queueing: must not be seen
    run("dvc", "queue", "start")
    follow(run, "beside")
    with stored(clone) as store:
        values = store.execute("select value from tags where key = 'beside'").fetchall()
    assert values == [("yes",)], "in the main repository's store, written by the queued copy of the code"


PAIRS = {
    "seeds": ("seed={}", 1, 2),
    "steps of an expert": ("++set.finetune.items.caption.train.steps={}", 2, 4),
    "the rate of pretraining": ("++set.pretrain.train.optimizer.lr={}", 0.002, 0.003),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_experiments_side_by_side_are_those_one_after_another(clone, run, pair: str) -> None:
    """Two workers on experiments whose later stages have equal configurations, and other inputs."""
    params = yaml.safe_load((clone / "params.yaml").read_text())
    (clone / "params.yaml").write_text(yaml.safe_dump(params | SETTINGS, sort_keys=False))
    run("dvc", "repro", "compose")
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
    run(*git, "add", "-A")
    run(*git, "commit", "-qm", "composed")
    change, *values = PAIRS[pair]
    words = [("-S", change.format(value), "evaluate", "ablate") for value in values]
    for number, given in enumerate(words):
        run("dvc", "exp", "run", "--queue", "-n", f"beside{number}", *given)
    run("dvc", "queue", "start", "-j", "2")
    for number in range(2):
        follow(run, f"beside{number}")
    shutil.rmtree(clone / "scratch")
    for number, given in enumerate(words):
        # of stages with outs in Git DVC keeps no runs; if it did, it would give back what the workers made
        shutil.rmtree(clone / ".dvc/cache/runs", ignore_errors=True)
        run("dvc", "exp", "run", "-n", f"alone{number}", *given)
        assert outs(run, clone, f"beside{number}") == outs(run, clone, f"alone{number}")
    beside, alone = ([curves(clone, f"{name}{n}") for n in range(2)] for name in ("beside", "alone"))
    # what both need is made once: it is the run of one of them
    assert beside[0] <= alone[0] and alone[1] <= beside[1]
    assert beside[0] | beside[1] == alone[0] | alone[1] != set()
    assert outs(run, clone, "alone0")["models/merged"] != outs(run, clone, "alone1")["models/merged"]


def follow(run, experiment: str) -> None:
    """Until a queued experiment has ended; DVC refuses to follow it before a worker has begun it."""
    limit = time.monotonic() + 3600
    while run("dvc", "queue", "logs", experiment, "-f", check=False).returncode:
        assert time.monotonic() < limit, f"{experiment} was not begun"
        time.sleep(1)


def curves(clone: Path, experiment: str) -> set[tuple[str, tuple[tuple[int, float], ...]]]:
    """Name, and steps and values of the training loss, of each run that MLflow has of an experiment."""
    with stored(clone) as store:
        points = store.execute(
            "select run_uuid, replace(runs.name, tags.value, ''), metrics.step, metrics.value from metrics "
            "join tags using (run_uuid) join runs using (run_uuid) where tags.key = 'dvc.exp' and "
            "tags.value = ? and metrics.key = 'train/loss' order by 1, 3",
            (experiment,),
        )
        runs = groupby(points, key=itemgetter(0, 1))
        return {(name, tuple((step, value) for *_, step, value in curve)) for (_, name), curve in runs}


def outs(run, clone: Path, experiment: str) -> dict[str, str]:
    """Digest of every out of an experiment, but for the notes of its runs."""
    refs = run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    (ref,) = (ref for ref in refs if ref.endswith(f"/{experiment}"))
    lock = yaml.safe_load(run("git", "show", f"{ref}:dvc.lock").stdout)
    found = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
    return {out["path"]: out["md5"] for out in found if not out["path"].startswith("reports/runs/")}


def test_a_sweep_has_one_parent_and_all_children(clone, run) -> None:
    run("dvc", "repro", "prepare")
    command = (
        "python -m unival sweep -m stage=pretrain item=image_text set.pretrain.train.steps=1,2 seed=0,1 "
        "hydra/launcher=joblib hydra.launcher.n_jobs=2"
    )
    (clone / "mlflow.db").unlink()
    run(*command.split(), PYTHONPATH="src")
    with stored(clone) as store:
        parents = store.execute("select value from tags where key = 'mlflow.parentRunId'").fetchall()
        total = store.execute("select count(*) from runs where status = 'FINISHED'").fetchone()[0]
    assert len(parents) == 4 and len(set(parents)) == 1 and total == 5
    assert len([*clone.glob("mlartifacts/pretrain/*/artifacts/examples/caption.json")]) == 4


@pytest.mark.fault
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
@pytest.mark.parametrize("ended", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_ended_ends_its_jobs_and_runs(clone, run, launcher: str, ended: int) -> None:
    run("dvc", "repro", "prepare")
    (clone / "mlflow.db").unlink()
    command = (
        "python -m unival sweep -m stage=pretrain item=image_text set.pretrain.train.steps=5000 seed=0,1 "
        f"hydra/launcher={launcher} {'hydra.launcher.n_jobs=2' * (launcher == 'joblib')}"
    )
    sweep = subprocess.Popen(
        command.split(), cwd=clone, env=environment(PYTHONPATH="src"), stderr=subprocess.PIPE, text=True
    )
    jobs = 2 if launcher == "joblib" else 1
    limit = time.monotonic() + 300
    while sum("grad_norm" in path.read_text() for path in clone.glob("multirun/*/*/log.txt")) < jobs:
        assert sweep.poll() is None and time.monotonic() < limit, sweep.communicate()
        time.sleep(0.5)
    sweep.send_signal(ended)
    sweep.communicate(timeout=600)
    assert sweep.returncode == 128 + ended
    left = subprocess.run(["pgrep", "-f", str(next(clone.glob("multirun/*")).name)], capture_output=True)
    assert not left.stdout, "a job goes on"
    with stored(clone) as store:
        statuses = store.execute("select status from runs").fetchall()
    assert statuses == [("KILLED",)] * (1 + jobs)
    assert all("run again" in path.read_text() for path in clone.glob("multirun/*/*/log.txt"))
