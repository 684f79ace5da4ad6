"""Runs of one store in another: all they hold, once, however often and wherever a copy was cut short."""

from pathlib import Path

import pytest
from logged import logged
from test_tracking import begin, log_everything

from unival import cli, tracking
from unival.errors import UserError
from unival.tracking import mlflow_store


@pytest.fixture
def full(place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with a run that has all a run may have, its children and a model; another one is set."""
    run = begin(place)
    log_everything(run)
    run.end("FINISHED")
    going_on = begin(place, "later")
    going_on.metrics({"train/loss": 1.0}, 1)
    assert going_on.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/elsewhere/copy.db")
    (place / "elsewhere").mkdir()
    return f"sqlite:///{place}/mlflow.db"


def here(place: Path) -> list:
    return logged(mlflow_store.store_uri(), "finetune", place)


@pytest.mark.fault
def test_a_copy_holds_what_its_original_does_however_it_was_cut(
    full: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    wanted = [run for run in logged(full, "finetune", place) if run["status"] == "FINISHED"]
    assert len(wanted) == 1 and len(wanted[0]["below"]) == 3
    assert (wanted[0]["below"][0]["models"] or wanted[0]["files"]) and wanted[0]["points"]
    for call in (
        "create_run",
        "log_batch",
        "log_inputs",
        "log_artifact",
        "set_terminated",
        "finalize_logged_model",
    ):
        whole = getattr(MlflowClient, call)

        def cut(self: MlflowClient, *arguments: object, whole=whole, **named: object) -> None:
            whole(self, *arguments, **named)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(MlflowClient, call, cut)
            list(tracking.copy_all(full))
    list(tracking.copy_all(full))
    found = here(place)
    for run in found:
        for one in (run, *run["below"]):
            assert len(one["tags"].pop("unival.copy_of")) == 32
    assert found == wanted
    assert list(tracking.copy_all(full)) == []


def test_sync_copies_and_says_what(full: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["sync", "--from", full])
    assert "finetune: run copied" in capsys.readouterr().out
    cli.main(["sync", "--from", full])
    assert "nothing to send" in capsys.readouterr().out


@pytest.mark.fault
def test_stores_that_cannot_be_copied_are_named(place: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*gone\.db"):
        list(tracking.copy_all("sqlite:///gone.db"))
    assert not (place / "gone.db").exists()
    with pytest.raises(UserError, match="is this store"):
        list(tracking.copy_all(mlflow_store.store_uri()))
    with pytest.raises(UserError, match=r"cannot be used") as told:
        list(tracking.copy_all("nothing://user:secret@host/db"))
    assert "secret" not in str(told.value)
