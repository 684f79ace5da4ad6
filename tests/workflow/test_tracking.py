"""The MLflow store: parallel writers on a fresh one, resuming, batches, what never reaches it."""

import fcntl
import json
import math
import multiprocessing
import os
from pathlib import Path

import pytest

from unival import files, tracking
from unival.errors import UserError


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def history(tracker: tracking.MlflowTracker, key: str) -> list[tuple[int, float]]:
    found = tracker.client.get_metric_history(tracker.run_id, key)
    return sorted((point.step, point.value) for point in found)


def test_a_lock_keeps_others_out_until_it_is_left(tmp_path: Path) -> None:
    place = tmp_path / "scratch/store.lock"
    with files.locked(place), place.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with place.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_run_holds_what_was_logged_beside_the_repository(store: Path) -> None:
    tracker = tracking.MlflowTracker("finetune", "finetune-vqa", store / "run.json", {"unival.item": "vqa"})
    tracker.params({"train.steps": 10, "long": "x" * 9000})
    tracker.metrics({"train/loss": 2.0}, step=1)
    tracker.metrics({"train/loss": 1.0, "acc@0.5": 0.25, "bad": math.nan}, step=2)
    tracker.dataset("world-train", "0123456789abcdef" * 4, "data/processed/world/train", "train")
    tracker.table([{"id": "a", "prediction": "two"}, {"id": "b", "prediction": "red"}], "predictions/vqa")
    tracker.child("merged/average", {"unival.kind": "merged"}, {"vqa/low": 0.5})
    tracker.end("FINISHED")

    query = f"tags.mlflow.parentRunId = '{tracker.run_id}'"
    (child,) = tracker.client.search_runs([tracker.experiment_id], query)
    assert child.info.run_name == "merged/average" and child.info.status == "FINISHED"
    assert child.data.params == {"kind": "merged"} and child.data.metrics == {"vqa/low": 0.5}
    run = tracker.client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["unival.item"] == "vqa"
    assert run.data.params["train.steps"] == "10" and len(run.data.params["long"]) <= 6000
    assert history(tracker, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert run.data.metrics["acc_at_0.5"] == 0.25
    assert "bad" not in run.data.metrics and run.data.metrics["nan_count"] == 1
    assert run.inputs.dataset_inputs[0].dataset.name == "world-train"
    assert (store / "mlflow.db").is_file()
    assert list((store / "mlartifacts/finetune").rglob("vqa.json"))


def test_a_killed_run_goes_on_under_its_id_and_no_step_is_stored_twice(store: Path) -> None:
    first = tracking.MlflowTracker("pretrain", "p", store / "run.json", {})
    for step in (1, 2, 3):
        first.metrics({"loss": float(step)}, step)
    first.flush()
    first.metrics({"loss": 4.0}, 4)  # lost: never flushed

    again = tracking.MlflowTracker("pretrain", "p", store / "run.json", {})
    again.params({"steps": 1})
    assert again.resumed and again.run_id == first.run_id
    for step in (2, 3, 4, 5):
        again.metrics({"loss": float(step)}, step)
    again.end("FINISHED")
    assert history(again, "loss") == [(step, float(step)) for step in (1, 2, 3, 4, 5)]


def test_a_run_deleted_in_between_starts_anew(store: Path) -> None:
    first = tracking.MlflowTracker("pretrain", "p", store / "run.json", {})
    first.client.delete_run(first.run_id)
    again = tracking.MlflowTracker("pretrain", "p", store / "run.json", {})
    assert not again.resumed and again.run_id != first.run_id


@pytest.mark.fault
def test_a_store_that_is_none_is_named_with_the_way_out(store: Path) -> None:
    (store / "mlflow.db").write_text("no database" * 100)
    with pytest.raises(UserError, match=r"mlflow\.db: cannot be used: .*UNIVAL_TRACKING=off"):
        tracking.connect("finetune")


def test_an_exported_run_id_does_not_capture_children(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tracking.MlflowTracker("finetune", "parent", store / "parent.json", {})
    monkeypatch.setenv("MLFLOW_RUN_ID", str(parent.run_id))
    monkeypatch.setenv("UNIVAL_PARENT_RUN", str(parent.run_id))
    child = tracking.MlflowTracker("finetune", "child", store / "child.json", {})
    assert child.run_id != parent.run_id
    assert child.client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


def write_one(folder: str, number: int) -> None:
    os.environ["DVC_ROOT"] = folder
    tracker = tracking.MlflowTracker("sweep", f"job {number}", Path(folder) / f"run{number}.json", {})
    tracker.metrics({"value": float(number)}, 1)
    tracker.end("FINISHED")


def test_parallel_writers_on_a_fresh_store_lose_nothing(store: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_one, args=(str(store), number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    client, experiment = tracking.connect("sweep")
    runs = client.search_runs([experiment])
    assert sorted(run.data.metrics["value"] for run in runs) == [0.0, 1.0, 2.0]
    assert all(json.loads((store / f"run{number}.json").read_text())["run_id"] for number in range(3))


def test_flatten() -> None:
    assert tracking.flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [3]}) == {"a.b": 1, "a.c.d": 2, "e": [3]}
