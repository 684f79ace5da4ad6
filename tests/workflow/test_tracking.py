"""The MLflow store and the way there: nothing is lost, nothing is stored twice, nothing holds a run up."""

import errno
import fcntl
import json
import math
import multiprocessing
import os
import platform
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from unival import cli, config, files, tracking
from unival.errors import UserError, without_password
from unival.stages import base
from unival.study import model_rows, study_run
from unival.tracking import machine_load, mlflow_store, spool, tracker
from unival.tracking.delivery import Delivery
from unival.tracking.spool import Spool


@pytest.fixture
def by_hand(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is sent or logged but by the test."""
    for thread in (tracker.Sender, tracker.MachineLoad):
        monkeypatch.setattr(thread, "start", lambda self: None)
    return place


ROOT = Path(__file__).parents[2]
SCORES = [
    tracking.ModelScore("vqa", 0.5, "test-noise-3", "e" * 64),
    tracking.ModelScore("vqa", 0.75, "test", "f" * 64),
]


def rows(**order: Any) -> list[Any]:
    """Logged models."""
    client, number = tracking.connect("finetune")
    return list(client.search_logged_models([number], **order))


def begin(place: Path, name: str = "run") -> tracking.MlflowTracker:
    return tracking.MlflowTracker("finetune", name, place / f"{name}.json", {"unival.item": "vqa"})


def stored(experiment: str = "finetune") -> dict[str, Any]:
    """What the store has: run name -> run."""
    client, number = tracking.connect(experiment)
    runs = client.search_runs([number])
    assert len({run.info.run_name for run in runs}) == len(runs), "a run is there twice"
    return {run.info.run_name: run for run in runs}


def history(run: Any, key: str) -> list[tuple[int, float]]:
    client, _ = tracking.connect("finetune")
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))


def artifact(run: Any, name: str) -> str:
    return (Path(run.info.artifact_uri.removeprefix("file://")) / name).read_text()


def log_everything(run: tracking.MlflowTracker, until: int = 4) -> None:
    """All that a stage may log; `until`: the step at which the process ends."""
    run.params({"train.steps": 10, "long": "x" * 9000})
    run.text("resolved", "config/resolved.yaml")
    run.dataset("world-train", "0123456789abcdef" * 4, "data/processed/world/train", "train")
    for step in range(1, until + 1):
        run.metrics({"train/loss": 1 / step}, step)
    if until == 4:
        run.metrics({"val/score": 0.5, "acc@0.5": 0.25, "bad": math.nan}, 4)
        run.table([{"id": "a", "score": math.inf}, {"id": "b", "score": 1.0}], "predictions/vqa")
        run.table([{"id": "a"}], "predictions/caption")
        run.child("merged/average", {"unival.kind": "merged"}, {"vqa/low": 0.5})
        curve = {2: {"cosine": -0.5}, 4: {"cosine": 0.5, "bad": math.nan}}
        run.child("merged/ties", {"unival.kind": "merged"}, {"vqa/low": 0.25}, curve)
        run.model("finetune/vqa", "finetuned", {tracking.DIGEST: "d" * 64}, None, SCORES)
        run.tags({"skipped.soup+1": "no model"})
        files.write_text("figure.txt", "drawn")
        run.artifact(Path("figure.txt"), "figures")


def assert_everything() -> None:
    """Each item is there, once."""
    runs = stored()
    run = runs["run"]
    assert set(runs) == {"run", "merged/average", "merged/ties", "finetune/vqa"}
    assert runs["finetune/vqa"].data.metrics == {"vqa": 0.75}, "that of the last data set"
    (model,) = rows()
    assert (model.name, model.source_run_id) == ("finetune-vqa", runs["finetune/vqa"].info.run_id)
    assert sorted((metric.dataset_name, metric.value) for metric in model.metrics) == [
        ("test", 0.75),
        ("test-noise-3", 0.5),
    ]
    assert run.info.status == "FINISHED" and run.data.tags["unival.item"] == "vqa"
    assert run.data.params["train.steps"] == "10" and len(run.data.params["long"]) <= 6000
    assert history(run, "train/loss") == [(step, 1 / step) for step in (1, 2, 3, 4)]
    assert history(run, "val/score") == [(4, 0.5)]
    assert run.data.metrics["acc_at_0.5"] == 0.25 and run.data.tags["skipped.soup_1"] == "no model"
    assert "bad" not in run.data.metrics and run.data.metrics["nan_count"] == 1
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["world-train"]
    assert (
        artifact(run, "config/resolved.yaml") == "resolved" and artifact(run, "figures/figure.txt") == "drawn"
    )
    table = json.loads(artifact(run, "predictions/vqa.json"))
    assert table == {"columns": ["id", "score"], "data": [["a", None], ["b", 1.0]]}
    shown = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert [entry["path"] for entry in shown] == ["predictions/vqa.json", "predictions/caption.json"]
    for name, value in (("merged/average", 0.5), ("merged/ties", 0.25)):
        child = runs[name]
        assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
        assert child.info.status == "FINISHED" and child.data.params == {"kind": "merged"}
        assert child.data.metrics["vqa/low"] == value and "bad" not in child.data.metrics
    assert history(runs["merged/ties"], "cosine") == [(2, -0.5), (4, 0.5)]


def test_a_lock_keeps_others_out_until_it_is_left(tmp_path: Path) -> None:
    place = tmp_path / "scratch/store.lock"
    with files.locked(place), place.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with place.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("shared", [False, True])
def test_a_lock_is_taken_as_nfs_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """flock(2): NFS makes it one of bytes, for which the file must be open for reading or for writing."""
    taken = []

    def flock(handle: Any, kind: int) -> None:
        mode = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE
        lacking = {fcntl.LOCK_SH: os.O_WRONLY, fcntl.LOCK_EX: os.O_RDONLY}.get(kind & ~fcntl.LOCK_NB)
        if mode == lacking:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        taken.append(kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.locked(tmp_path / "lock", shared=shared):
        assert len(taken) == 1


def test_a_run_holds_what_was_logged_beside_the_repository(place: Path) -> None:
    run = begin(place)
    log_everything(run)
    run.end("FINISHED")
    assert_everything()
    assert stored()["run"].info.run_id == run.run_id
    assert (place / "mlflow.db").is_file() and (place / "mlartifacts/finetune").is_dir()
    assert not list((place / "mlspool").iterdir())


@pytest.mark.resume
@pytest.mark.parametrize("until", range(5))
def test_a_killed_run_goes_on_under_its_id(by_hand: Path, until: int) -> None:
    """Killed after its start, its parameters, or any step; with nothing sent, or all of it."""
    log_everything(begin(by_hand), until) if until else begin(by_hand)
    if until % 2:
        (left,) = spool.spools()
        Delivery(left).send()
    again = begin(by_hand)
    log_everything(again)
    again._add("status", status="FINISHED")
    for _ in tracking.send_all():
        pass
    assert_everything()


@pytest.mark.resume
def test_tags_are_those_of_the_process_that_goes_on(by_hand: Path) -> None:
    tags = {"git.commit": "first", "unival.item": "vqa"}
    tracking.MlflowTracker("finetune", "run", by_hand / "run.json", tags)
    again = tracking.MlflowTracker(
        "finetune", "run", by_hand / "run.json", {"git.commit": "second", "git.began": "first"}
    )
    again.end("FINISHED")
    list(tracking.send_all())
    found = stored()["run"].data.tags
    assert [found[key] for key in ("git.commit", "git.began", "unival.item")] == ["second", "first", "vqa"]


@pytest.mark.fault
def test_a_kill_while_sending_repeats_and_omits_nothing(
    by_hand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item before every note of what has been sent is sent again: the answer to it was lost."""
    run = begin(by_hand)
    log_everything(run)
    run._add("status", status="FINISHED")
    (left,) = spool.spools()
    save, kills = Spool.save, 0

    def killed(self: Spool, state: Any) -> None:
        nonlocal kills
        if state.sent != (self.state() or spool.State("")).sent:  # not the note before a run is made
            kills += 1
            if kills % 2:
                raise KeyboardInterrupt
        save(self, state)

    monkeypatch.setattr(Spool, "save", killed)
    while left.waiting():
        try:
            Delivery(left).send()
        except KeyboardInterrupt:
            continue
    assert kills > 20
    assert_everything()


@pytest.mark.resume
def test_a_run_whose_process_was_killed_is_closed_as_such(by_hand: Path) -> None:
    run = begin(by_hand)
    run.metrics({"loss": 1.0}, 1)
    list(tracking.send_all())
    assert stored()["run"].info.status == "RUNNING"
    run._alive.close()  # as the end of a process does
    list(tracking.send_all())
    assert stored()["run"].info.status == "KILLED"
    assert list(tracking.send_all()) == []
    again = begin(by_hand)
    list(tracking.send_all())
    assert stored()["run"].info.status == "RUNNING"
    again.end("FINISHED")


def test_the_next_run_sends_what_others_left(by_hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the store was too slow for, and one that was killed; not one whose process goes on, nor one
    of another machine, whose locks may not be seen here."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(platform, "node", lambda: "another")
        begin(by_hand, "of another machine")._alive.close()
    begin(by_hand, "ended").end("FINISHED")
    begin(by_hand, "killed")._alive.close()
    going_on = begin(by_hand, "going on")
    assert stored() == {}
    run = begin(by_hand)
    sender = run._sender
    rounds: list[float] = []

    def wait(period: float) -> None:
        rounds.append(period)
        sender._stopped = len(rounds) == 4

    monkeypatch.setattr(sender._woken, "wait", wait)
    sender.run()
    statuses = {name: one.info.status for name, one in stored().items()}
    assert statuses == {"run": "RUNNING", "ended": "FINISHED", "killed": "KILLED"}
    assert going_on._spool.waiting() and not run._spool.close()
    list(tracking.send_all())  # a person decides
    assert stored()["of another machine"].info.status == "KILLED"


@pytest.mark.resume
def test_a_run_that_goes_on_while_it_is_closed_is_not_closed_again(by_hand: Path) -> None:
    begin(by_hand)._alive.close()
    (left,) = spool.spools()
    with ThreadPoolExecutor() as pool:
        with files.locked(left.folder / "alive"):
            again = pool.submit(begin, by_hand)
            time.sleep(0.5)
            assert not again.done()
        assert not again.result()._spool.close()


@pytest.mark.fault
def test_half_a_line_and_a_damaged_one_cost_only_themselves(by_hand: Path) -> None:
    run = begin(by_hand)
    run.metrics({"loss": 1.0}, 1)
    run.metrics({"loss": 2.0}, 2)
    (left,) = spool.spools()
    text = left.items.read_bytes()
    left.items.write_bytes(text.replace(b'"loss": 1.0', b'"loss": 1,0') + b'{"do": "metr')
    again = begin(by_hand)
    again.metrics({"loss": 2.0}, 2)
    again.metrics({"loss": 3.0}, 3)
    Delivery(left).send()
    assert history(stored()["run"], "loss") == [(2, 2.0), (3, 3.0)]


@pytest.mark.fault
@pytest.mark.parametrize("written", [0, 5, 1000])
def test_an_item_that_a_signal_broke_into_is_there_once(
    by_hand: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    kept, opened = Spool("broken"), Path.open
    kept.mend()
    kept.append({"do": "start"})

    def broken(path: Path, mode: str = "r") -> Any:
        if mode == "ab":
            with opened(path, mode) as handle:
                handle.write(b'{"do": "params"}\n'[:written])
            raise KeyboardInterrupt
        return opened(path, mode)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "open", broken)
        kept.append({"do": "params"})
    kept.append({"do": "status"})
    assert [item["do"] for _, _, item in kept.read()] == ["start", "params", "status"]


@pytest.mark.fault
def test_a_damaged_start_is_named(by_hand: Path) -> None:
    begin(by_hand).metrics({"loss": 1.0}, 1)
    (left,) = spool.spools()
    left.items.write_bytes(left.items.read_bytes().replace(b'"start"', b'"stArt"'))
    with pytest.raises(UserError, match=r"items\.jsonl: the first line is damaged: delete"):
        list(tracking.send_all())


@pytest.mark.fault
def test_what_the_store_refuses_holds_nothing_back(by_hand: Path, capsys: Any) -> None:
    run = begin(by_hand)
    run._add("params", values={"steps": "1"})
    run._add("params", values={"steps": "2"})
    run.metrics({"loss": 1.0}, 1)
    Delivery(spool.spools()[0]).send()
    assert "MLflow refuses params" in capsys.readouterr().err
    assert stored()["run"].data.params == {"steps": "1"} and stored()["run"].data.metrics == {"loss": 1.0}


def test_a_run_that_was_deleted_or_is_in_another_store_is_sent_anew(
    by_hand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(by_hand)
    run.metrics({"loss": 1.0}, 1)
    (left,) = spool.spools()
    Delivery(left).send()
    first = stored()["run"].info.run_id
    tracking.connect("finetune")[0].delete_run(first)
    run.metrics({"loss": 2.0}, 2)
    Delivery(left).send()
    assert stored()["run"].info.run_id != first
    assert history(stored()["run"], "loss") == [(1, 1.0), (2, 2.0)]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{by_hand}/other.db")
    with pytest.raises(UserError, match=r"mlflow\.db"):
        run.metrics({"loss": 3.0}, 3)
        list(tracking.send_all())  # it belongs to the first
    begin(by_hand)
    Delivery(left).send()  # but this process goes on with it here
    assert history(stored()["run"], "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]


OUTAGES = {
    "nobody answers": "http://alice:S3cret-word@127.0.0.1:9",
    "no such store": "nonsense://alice:S3cret-word@host",
    "a folder": "sqlite:///{place}",
    "no database": "sqlite:///{place}/text.db",
}


@pytest.mark.fault
@pytest.mark.parametrize("outage", OUTAGES)
def test_a_store_that_fails_costs_a_line_and_nothing_is_lost(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, outage: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", OUTAGES[outage].format(place=place))
    (place / "text.db").write_text("no database" * 100)
    run = begin(place)
    log_everything(run)
    assert run.run_id is None
    run.end("FINISHED")
    said = capfd.readouterr().err
    assert said.count("the run goes on") == 1 and "`unival sync`" in said
    kept = "".join(path.read_text(errors="replace") for path in (place / "mlspool").rglob("*.js*"))
    assert "S3cret-word" not in said + kept

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    cli.main(["sync"])
    assert "items sent" in capfd.readouterr().out
    assert_everything()
    cli.main(["sync"])
    assert "nothing to send" in capfd.readouterr().out
    assert_everything()


@pytest.mark.fault
def test_a_store_that_stays_locked_is_told_in_a_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """MLflow raises after 20 seconds, and adds nothing of its own."""
    tracking.connect("finetune")
    capfd.readouterr()

    def locked(_: Session) -> None:
        raise OperationalError("commit", None, sqlite3.OperationalError("database is locked"))

    with monkeypatch.context() as patch:
        patch.setattr(Session, "commit", locked)
        run = begin(place)
        run.end("FAILED")
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 2 and "database is locked" in told[0] and "`unival sync`" in told[1]


@pytest.mark.fault
def test_a_locked_store_is_not_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    tracking.connect("finetune")
    monkeypatch.setattr(tracker, "PATIENCE", 1.0)
    with sqlite3.connect(place / "mlflow.db", isolation_level=None) as other:
        other.execute("begin exclusive")
        run = begin(place)
        log_everything(run)
        run.end("FINISHED")
        other.execute("rollback")
    assert "`unival sync`" in capfd.readouterr().err
    run._sender.join(300)
    list(tracking.send_all())
    assert_everything()


@pytest.mark.fault
def test_a_slow_store_holds_nothing_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send, answers = Delivery._send_one, threading.Event()
    monkeypatch.setattr(Delivery, "_send_one", lambda *words: answers.wait(300) and send(*words))
    monkeypatch.setattr(tracker, "PATIENCE", 0.1)
    run = begin(place)
    for step in range(100):
        run.metrics({"loss": 1.0}, step)
    run.flush()
    run.end("FINISHED")
    answers.set()
    run._sender.join(300)
    list(tracking.send_all())
    assert len(history(stored()["run"], "loss")) == 100


@pytest.mark.fault
def test_a_full_disk_of_the_spool_is_written_later(by_hand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(by_hand)
    run.metrics({"loss": 1.0}, 1)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        run.metrics({"loss": 2.0}, 2)
    run.metrics({"loss": 3.0}, 3)
    Delivery(spool.spools()[0]).send()
    assert history(stored()["run"], "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]


@pytest.mark.fault
def test_a_store_that_is_none_is_named_with_the_way_out(place: Path) -> None:
    (place / "mlflow.db").write_text("no database" * 100)
    with pytest.raises(UserError, match=r"mlflow\.db: cannot be used: .*UNIVAL_TRACKING=off"):
        tracking.connect("finetune")


@pytest.mark.fault
@pytest.mark.parametrize("when", ["schema", "rename"])
def test_a_kill_while_the_store_is_made_leaves_none(
    place: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    from mlflow.store.db import utils

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*((utils, "_upgrade_db", killed) if when == "schema" else (Path, "rename", killed)))
        tracking.connect("finetune")
    assert not (place / "mlflow.db").exists()
    assert list(place.glob("mlflow.db*.part"))
    assert stored() == {}
    assert [path.name for path in place.glob("mlflow.db*")] == ["mlflow.db"]


@pytest.mark.parametrize("how", ["renamed", "copied"])
def test_artifacts_lie_beside_the_store_wherever_it_is(
    place: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    first, second = place / "first", place / "second"
    monkeypatch.setenv("DVC_ROOT", str(first))
    run = begin(first)
    log_everything(run)
    run.end("FINISHED")
    before = sorted(first.rglob("*"))
    shutil.copytree(first, second) if how == "copied" else first.rename(second)
    monkeypatch.setenv("DVC_ROOT", str(second))
    assert list(tracking.send_all()) == []
    with sqlite3.connect(second / "mlflow.db") as moved:  # as `make ui` opens it
        places = [place for (place,) in moved.execute("select artifact_uri from runs")]
    assert len(places) == 4 and all(place.startswith(second.as_uri()) for place in places)
    assert_everything()
    for found in stored().values():
        assert found.info.artifact_uri.startswith((second / "mlartifacts").as_uri())
    other = begin(second, "other")
    other.text("written here", "note.txt")
    other.end("FINISHED")
    assert artifact(stored()["other"], "note.txt") == "written here"
    assert sorted(first.rglob("*")) == (before if how == "copied" else [])


def test_nothing_touches_the_folder_of_a_run_that_has_ended(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late its threads come to know of the end."""
    send, wait = Delivery.send, tracker.Sender.wait

    def slow(self: Delivery) -> int:
        sent = send(self)
        time.sleep(0.3)
        return sent + send(self)

    def measured(self: tracker.Sender, *values: Any) -> None:
        run.metrics({tracker.LOAD: 1.0}, 5)
        wait(self, *values)

    monkeypatch.setattr(Delivery, "send", slow)
    run = begin(place)
    monkeypatch.setattr(tracker.Sender, "wait", measured)
    run.end("FINISHED")
    assert not run._sender.is_alive() and list((place / "mlspool").iterdir()) == []
    (found,) = stored().values()
    assert found.info.status == "FINISHED" and found.data.metrics == {}


def test_what_is_logged_is_the_users_alone(place: Path) -> None:
    before = os.umask(0)
    try:
        run = begin(place)
        log_everything(run)
        run.end("FINISHED")
    finally:
        os.umask(before)
    modes = {name: (place / name).stat().st_mode & 0o777 for name in ("mlflow.db", "mlspool", "mlartifacts")}
    assert modes == {"mlflow.db": 0o600, "mlspool": 0o700, "mlartifacts": 0o700}


def test_an_exported_run_id_does_not_capture_children(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = begin(place, "parent")
    monkeypatch.setenv("MLFLOW_RUN_ID", str(parent.run_id))
    monkeypatch.setenv("UNIVAL_PARENT_RUN", str(parent.run_id))
    child = begin(place, "child")
    assert child.run_id != parent.run_id
    assert stored()["child"].data.tags["mlflow.parentRunId"] == parent.run_id
    child.end("FINISHED")


def write_one(folder: str, number: int) -> None:
    os.environ["DVC_ROOT"] = folder
    tracker.PATIENCE = 300.0
    run = tracking.MlflowTracker("finetune", f"job {number}", Path(folder) / f"run{number}.json", {})
    run.metrics({"value": float(number)}, 1)
    run.end("FINISHED")


def test_parallel_writers_on_a_fresh_store_lose_nothing(place: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_one, args=(str(place), number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
        assert worker.exitcode == 0
    assert sorted(run.data.metrics["value"] for run in stored().values()) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://alice:word@host:5000/x", "http://***@host:5000/x"),
        ("two http://a:p@/?ss@h and s3://key:secret@b/c?d=e", "two http://***@h and s3://***@b/c?d=e"),
        ("https://token@host", "https://***@host"),
        (
            'alice@example.org, http://host:80/x, "sqlite:///a", b@c',
            'alice@example.org, http://host:80/x, "sqlite:///a", b@c',
        ),
    ],
)
def test_passwords_in_addresses_are_left_out(text: str, shown: str) -> None:
    assert without_password(text) == shown


def test_models_are_ranked_on_a_shift_and_equal_weights_are_one_row(place: Path) -> None:
    """Nothing of a model is copied; a second run that scores the same weights adds to its row."""
    run = begin(place)
    for name, inside, outside in (("a", 0.9, 0.3), ("b", 0.8, 0.7)):
        scores = [SCORES[0]._replace(value=outside), SCORES[1]._replace(value=inside)]
        run.model(f"merged/{name}", "merged", {tracking.DIGEST: name * 64}, None, scores)
    run.end("FINISHED")
    for data, best in (("test", "merged-a"), ("test-noise-3", "merged-b")):
        order = {"field_name": "metrics.vqa", "dataset_name": data, "ascending": False}
        assert rows(datasets=[{"dataset_name": data}], order_by=[order])[0].name == best
    again = begin(place, "again")
    again.model("merged/a", "merged", {tracking.DIGEST: "a" * 64}, None, SCORES)
    again.end("FINISHED")
    assert len(rows()) == 2
    stored_files = [path for path in (place / "mlartifacts").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in stored_files) < 5000


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ({"prediction": "two", "answers": {"two": 1.0}}, {"two": 1.0}),
        (
            {"prediction": "a cat", "references": ["a cat", "the cat"], "box": [1, 2, 3, 4]},
            ["a cat", "the cat"],
        ),
        ({"prediction": [1, 2, 3, 5], "references": ["the cat"], "box": [1, 2, 3, 4]}, [1, 2, 3, 4]),
        ({"prediction": None, "references": ["the cat"], "box": [1, 2, 3, 4]}, [1, 2, 3, 4]),
        ({"prediction": "two"}, None),
        ({"prediction": "two", "references": ["one\u2028two\x85"]}, ["one\u2028two\x85"]),
    ],
)
def test_an_example_stands_beside_what_is_right(tmp_path: Path, row: Any, reference: Any) -> None:
    """Of a box that is a box, though its phrases are there too."""
    lines = [
        json.dumps({"id": str(number), "text": "?", "scores": {"m": 0.5}, **row}, ensure_ascii=False)
        for number in range(3)
    ]
    files.write_text(tmp_path / "made.jsonl", "\n".join(lines))
    result: Any = SimpleNamespace(predictions=tmp_path / "made.jsonl", primary="m")
    first, second = model_rows.examples(result, 2)
    assert (first["id"], second["id"], first["m"]) == ('"0"', '"1"', "0.5")
    assert json.loads(first["reference"]) == reference


def test_a_model_whose_files_changed_is_not_registered(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = place / "models/merged/average"
    for name in model_rows.READ:
        files.write_text(folder / name, name)
    monkeypatch.chdir(place)
    run = tracking.MlflowTracker("evaluate", "run", place / "run.json", {})
    run.model("merged/average", "merged", model_rows.tags(Path("models/merged/average")), None, SCORES)
    run.end("FINISHED")
    for _ in range(2):  # the same weights are one version
        cli.main(["register", "models/merged/average", "--alias", "champion"])
        assert "models:/unival/1 (champion)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["register", "models/merged/average", "--alias", "the best"])
    assert "--alias the best: Invalid alias name" in capsys.readouterr().err
    client, _ = tracking.connect("evaluate")
    found = client.get_model_version_by_alias("unival", "champion")
    assert found.tags["unival.folder"] == "models/merged/average"
    files.write_text(folder / "model.safetensors", "other")
    with pytest.raises(SystemExit):
        cli.main(["register", "models/merged/average", "--alias", "champion"])
    assert "no evaluated model has these files" in capsys.readouterr().err
    assert len(client.search_model_versions("name = 'unival'")) == 1


def test_the_load_of_the_machine_goes_on_where_a_killed_run_was(
    by_hand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits on disk as all else does, and a store that fails ends no run."""
    monkeypatch.setattr(machine_load, "PERIOD", 0.05)
    for status, number in (("KILLED", 2), ("FINISHED", 5)):
        run = begin(by_hand)
        threading.Thread.start(run._load)
        while run._steps.get(tracker.LOAD, -1) < number:
            time.sleep(0.01)
        run.end(status)
        run._load.join()  # as with the process
    list(tracking.send_all())
    (found,) = stored().values()
    for key in ("cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_usage_percentage"):
        steps = [step for step, _ in history(found, f"system/{key}")]
        assert len(steps) > 5 and steps == list(range(len(steps)))


def test_a_study_joins_what_was_chosen_with_what_came_out(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    chosen = {
        "edition": "quick",
        "tasks": ["vqa"],
        "set": {"finetune": {"train": {"steps": 40}}, "merge": {}},
    }
    files.write_text("params.yaml", json.dumps(chosen))
    scores = {"vqa": {"expert": 0.5, "merged.average": 0.25, "n": 8, "interval": {"expert": [0, 1]}}}
    files.write_json(Path("reports/metrics/scores.json"), scores)
    files.write_text(Path("reports") / study_run.PICTURE, "drawn")
    run = begin(place)
    study_run.log(["One **expert** is good."], run)
    run.end("FINISHED")
    (found,) = stored().values()
    assert found.data.params == {"edition": "quick", "tasks": "vqa", "set.finetune.train.steps": "40"}
    assert {key: value for key, value in found.data.metrics.items() if "/" in key} == {
        "vqa/expert": 0.5,
        "vqa/merged.average": 0.25,
    }
    assert "- One **expert** is good." in found.data.tags["mlflow.note.content"]
    assert found.info.run_id in found.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    ("stage", "item", "experiment", "name", "part"),
    [
        ("finetune", "vqa", "", "finetune-vqa", {"unival.task": "vqa"}),
        ("pretrain", "image_text", "lr1", "pretrain-image_text lr1", {"unival.phase": "image_text"}),
        ("report", None, "lr1", "study lr1 world tiny quick 3", {}),
    ],
)
def test_runs_have_names_and_tags_that_tell_them_apart(
    place: Path, monkeypatch: pytest.MonkeyPatch, stage: str, item: str | None, experiment: str,
    name: str, part: dict[str, str],
) -> None:  # fmt: skip
    monkeypatch.chdir(place)
    monkeypatch.delenv("UNIVAL_TRACKING", raising=False)
    monkeypatch.setenv("DVC_EXP_NAME", experiment)
    chosen = {"benchmark": "world", "model": "tiny", "edition": "quick", "seed": 0}
    files.write_text("params.yaml", json.dumps(chosen))
    monkeypatch.setenv("UNIVAL_OVERRIDES", "seed=3")
    base._tracker(stage, item, place, "hash", {}).end("FINISHED")
    ((found, run),) = stored(stage).items()
    assert found == name
    wanted = {"unival.benchmark": "world", "unival.edition": "quick", "unival.seed": "3", **part}
    assert wanted.items() <= run.data.tags.items()


@pytest.mark.parametrize(("stage", "item"), [("pretrain", "image_text"), ("finetune", "vqa")])
def test_a_saved_view_has_columns_of_its_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, stage: str, item: str
) -> None:
    monkeypatch.delenv("UNIVAL_TRACKING", raising=False)
    resolved = config.load(ROOT / f"build/config/{stage}/{item}.yaml")
    run = base._tracker(stage, item, place, "hash", resolved)
    run.metrics({mlflow_store.PRIMARY[stage][0]: 0.5})
    run.end("FINISHED")
    ((_, found),) = stored(stage).items()
    known = {f"params.`{name}`" for name in found.data.params}
    known |= {f"metrics.`{name}`" for name in found.data.metrics}
    client, experiment = mlflow_store.connect(stage)
    view = json.loads(client.get_experiment(experiment).tags[mlflow_store.VIEW_TAG])
    columns = json.loads(view["state"])["selectedColumns"]
    assert len(columns) == 5 and {*columns} <= known
