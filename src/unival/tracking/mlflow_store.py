"""The MLflow store: made whole, and found again where it was moved.

By default it is one SQLite file at the root of the main repository, with its artifacts in `mlartifacts/`.
Parallel writers on a store that does not exist yet lose runs to each other's schema migrations, and a kill
while the schema is made breaks it for good: so it is made under a lock, as another file that is renamed.
"""

import json
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unival import files, provenance
from unival.errors import UserError, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

KIND = "custom_model_development"
"""How the UI shows an experiment: as training runs rather than as traces of an agent."""
PRIMARY = {"pretrain": ("summary/loss", "false"), "finetune": ("best/score", "true")}
"""Experiment -> the metric by which its runs are ordered, and whether more is better."""
PRIMARY_TAG = "mlflow.experiment.primaryMetric"
VIEW, VIEW_TAG = "Parameters and scores", "mlflow.sharedViewState.scores"
"""A saved view of the list of runs, which has no parameter and no metric at first; its tag."""
COLUMNS = ("item", "train.seed", "train.steps", "train.optimizer.lr")
"""Parameters that the view shows."""
PARAMS, METRICS = 100, 1000
"""Of a call: MLflow's limits. One call costs as much as a training step of the tiny model."""
PLACES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
"""Table -> column with the absolute place of artifacts."""
SETTINGS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the spool is there to try again
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
SQLITE = "sqlite:///"
CONNECTING = threading.Lock()
"""Threads of one process cannot migrate two stores at once."""


def store_uri() -> str:
    """Where runs are stored. It may hold a password: `store_name` is for messages."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{provenance.root() / 'mlflow.db'}"


def store_name() -> str:
    """The store as it is told and noted: without user, password and options, which may be secrets.

    The default one has the same name in a checkout that was moved.
    """
    return without_password(os.environ.get("MLFLOW_TRACKING_URI") or "mlflow.db").partition("?")[0]


def store_file(uri: str = "") -> Path | None:
    """The file of a store that is one: of this one, or of another."""
    uri = uri or store_uri()
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def lock() -> Path:
    """Held while the store is made or moved."""
    return provenance.root() / "scratch" / "mlflow.lock"


def connect(experiment: str) -> tuple["MlflowClient", str]:
    """A client of the store and the id of the experiment, both created when missing.

    Raises:
        UserError: the store cannot be used.
    """
    client = opened()
    try:
        with CONNECTING, files.locked(lock()):
            found = client.get_experiment_by_name(experiment)
            if found is not None:
                return client, found.experiment_id
            location = None
            if path := store_file():
                folder = path.resolve().parent / "mlartifacts"
                folder.mkdir(0o700, exist_ok=True)
                location = (folder / experiment).as_uri()
            tags = {"mlflow.experimentKind": KIND}
            if experiment in PRIMARY:
                name, greater = PRIMARY[experiment]
                tags |= {f"{PRIMARY_TAG}.name": name, f"{PRIMARY_TAG}.greaterIsBetter": greater}
                tags[VIEW_TAG] = _view(name)
            return client, client.create_experiment(experiment, artifact_location=location, tags=tags)
    except Exception as error:  # each store has errors of its own
        raise _unusable(error) from error


def _view(metric: str) -> str:
    """A saved view as MLflow's page writes and reads it."""
    columns = [*(f"params.`{name}`" for name in COLUMNS), f"metrics.`{metric}`"]
    state = json.dumps({"selectedColumns": columns})
    return json.dumps({"name": VIEW, "createdAt": int(time.time() * 1000), "state": state})


def opened(other: str = "") -> "MlflowClient":
    """A client of the store, which is made where it is missing; or of another one.

    Raises:
        UserError: the store cannot be used, or a newer MLflow has written it.
    """
    os.environ.pop("MLFLOW_RUN_ID", None)  # with it set, MLflow resumes that run whatever is asked for
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # it writes a traceback of 40 lines to stderr beside an error that a line of ours tells
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        with CONNECTING, files.locked(lock()):
            path = store_file(other)
            if path is not None:
                if other and not path.is_file():
                    raise UserError(f"no file {path}")
                _make(path)
                _check_version(path)
                follow(path.resolve())
            client = MlflowClient(other or store_uri())
            client.get_experiment_by_name("Default")  # the first question opens the store
            return client
    except Exception as error:  # each store has errors of its own
        raise _unusable(error, other) from error


def _unusable(error: Exception, other: str = "") -> UserError:
    if other:
        return UserError(f"MLflow store {without_password(other)}: cannot be used: {reason(error)}")
    fix = "set MLFLOW_TRACKING_URI to another store, or UNIVAL_TRACKING=off to go on without"
    return UserError(f"MLflow store {store_name()}: cannot be used: {reason(error)}: {fix}")


def _make(path: Path) -> None:
    """Create the file with its schema, whole or not at all."""
    if path.exists():
        return
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def hasten(connection: Any, _: Any) -> None:  # a hundred migrations: the whole is synced at the end
        connection.execute("pragma synchronous = off")

    for left in path.parent.glob(f"{path.name}.*.part*"):  # of a process that was killed here
        left.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.{time.time_ns()}.part")  # MLflow keeps files open by their name
    event.listen(Engine, "connect", hasten)
    part.touch(0o600)  # as its artifacts and what waits for it: examples of private data are the user's
    try:
        MlflowClient(f"{SQLITE}{part}").get_experiment_by_name("Default")
    finally:
        event.remove(Engine, "connect", hasten)
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    part.rename(path)


def _check_version(path: Path) -> None:
    """An older file is moved to the schema of this MLflow, which locks the older MLflow out: say so before.

    Raises:
        UserError: a newer MLflow has written it.
    """
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.version import VERSION

    with sqlite3.connect(path, timeout=30) as store:
        there = store.execute("select name from sqlite_master where name = 'alembic_version'").fetchone()
        found = store.execute("select version_num from alembic_version").fetchone() if there else None
    store.close()
    script = ScriptDirectory.from_config(_get_alembic_config(""))
    if found and found[0] not in {revision.revision for revision in script.walk_revisions()}:
        raise UserError(f"a newer MLflow than {VERSION} has written it: install that one")
    if found and found[0] != script.get_current_head():
        note = f"MLflow {VERSION} moves {path} to its schema; an older one cannot open it any more"
        print(note, file=sys.stderr)


def follow(path: Path) -> None:
    """Let artifacts lie beside a file that was moved or copied: MLflow stores absolute places."""
    here = (path.parent / "mlartifacts").as_uri()
    with sqlite3.connect(path, timeout=30) as store:
        tables = {name for (name,) in store.execute("select name from sqlite_master where type = 'table'")}
        for table, column in PLACES.items():
            if table not in tables:
                continue
            moved = f"{column} like 'file:///%/mlartifacts/%' and {column} not like ? || '/%'"
            # what stands before the last /mlartifacts/ gives way
            rest = f"substr({column}, instr({column}, '/mlartifacts/') + {len('/mlartifacts')})"
            if store.execute(f"select 1 from {table} where {moved} limit 1", (here,)).fetchone():
                store.execute(f"update {table} set {column} = ? || {rest} where {moved}", (here, here))
    store.close()


def reason(error: BaseException) -> str:
    """The first line of an error, without what signs in."""
    return without_password((str(error).strip() or type(error).__name__).splitlines()[0])


def log(
    client: "MlflowClient", run_id: str, params: "Sequence[Param]" = (), metrics: "Sequence[Metric]" = ()
) -> None:
    """Log any number of them in as few calls as may be."""
    for start in range(0, len(params), PARAMS):
        client.log_batch(run_id, params=params[start : start + PARAMS])
    for start in range(0, len(metrics), METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS])
