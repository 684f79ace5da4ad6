"""The MLflow store: made whole, found again where it was moved, and sent what a spool holds.

By default it is one SQLite file at the root of the main repository, with its artifacts in `mlartifacts/`.
Parallel writers on a store that does not exist yet lose runs to each other's schema migrations, and a kill
while the schema is made breaks it for good: so it is made under a lock, as another file that is renamed.
"""

import json
import os
import platform
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unival import files, provenance
from unival.errors import UserError, without_password
from unival.tracking import models
from unival.tracking.spool import Item, Spool, State, spools

if TYPE_CHECKING:
    from mlflow import MlflowClient

KIND = "custom_model_development"
"""How the UI shows an experiment: as training runs rather than as traces of an agent."""
PRIMARY = {"pretrain": ("summary/loss", "false"), "finetune": ("best/score", "true")}
"""Experiment -> the metric by which its runs are ordered, and whether more is better."""
PRIMARY_TAG = "mlflow.experiment.primaryMetric"
VIEW, VIEW_TAG = "Parameters and scores", "mlflow.sharedViewState.scores"
"""A saved view of the list of runs, which has no parameter and no metric at first; its tag."""
COLUMNS = ("item", "train.seed", "train.steps", "train.optimizer.lr")
"""Parameters that the view shows."""
BATCH = 1000
"""Metrics of a call: MLflow's limit. One call costs as much as a training step of the tiny model."""
SPOOL, CHILD = "unival.spool", "unival.child"
"""Tags by which a run is found again whose making was not answered."""
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


def _lock() -> Path:
    return provenance.root() / "scratch" / "mlflow.lock"


def connect(experiment: str) -> tuple["MlflowClient", str]:
    """A client of the store and the id of the experiment, both created when missing.

    Raises:
        UserError: the store cannot be used.
    """
    client = opened()
    try:
        with CONNECTING, files.locked(_lock()):
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

    try:
        with CONNECTING, files.locked(_lock()):
            path = store_file(other)
            if path is not None:
                if other and not path.is_file():
                    raise UserError(f"no file {path}")
                _make(path)
                _check_version(path)
                _follow(path.resolve())
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


def _follow(path: Path) -> None:
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


class Delivery:
    """Sends what a spool holds; every item once, whoever else sends of it."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._connected: tuple[MlflowClient, str] | None = None

    def send(self) -> int:
        """Send what waits, in order; returns the number of items.

        Raises:
            UserError: the store cannot be used or failed; what it has taken is noted.
        """
        with files.locked(self.spool.lock):
            state = self.spool.state() or State(store_name())
            if not self.spool.waiting():
                return 0
            if self._connected is None:
                self._connected = connect(self._experiment())
                state = self._checked(state)
            try:
                return self._send(state)
            except Exception as error:  # each store has errors of its own
                raise UserError(f"MLflow store {store_name()}: {reason(error)}") from error

    def _experiment(self) -> str:
        """What the first item names.

        Raises:
            UserError: it is damaged.
        """
        for _, _, first in self.spool.read():
            if first.get("do") == "start":
                return str(first["experiment"])
            break
        folder = self.spool.folder
        raise UserError(f"{self.spool.items}: the first line is damaged: delete {folder} to go on without")

    @property
    def client(self) -> "MlflowClient":
        """The client of the store, once connected."""
        assert self._connected is not None
        return self._connected[0]

    def _checked(self, state: State) -> State:
        """From the start where the run was deleted, or is in another store."""
        from mlflow.exceptions import MlflowException

        if state.store != store_name():
            return State(store_name())
        try:
            if state.run_id is None or self.client.get_run(state.run_id).info.lifecycle_stage == "active":
                return state
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise UserError(f"MLflow store {store_name()}: {reason(error)}") from error
        return State(store_name())

    def _send(self, state: State) -> int:
        from mlflow.exceptions import MlflowException

        count = 0
        for begin, end, items in _together(self.spool.read(state.sent)):
            try:
                self._send_one(state, begin, items)
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
                print(f"MLflow refuses {items[0].get('do')}: {reason(error)}", file=sys.stderr)
            state.sent, count = end, count + len(items)
            self.spool.save(state)
        return count

    def _send_one(self, state: State, begin: int, items: list[Item]) -> None:
        """An item, or several of metrics."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        assert self._connected is not None
        item, client = items[0], self.client
        kind, run_id = item.get("do"), str(state.run_id)
        if kind == "start":
            state.run_id = self._made(state, begin, SPOOL, self.spool.folder.name, item)
        elif kind == "metrics":
            metrics = [
                Metric(key, value, one["time"], one["step"])
                for one in items
                for key, value in one["values"].items()
            ]
            for start in range(0, len(metrics), BATCH):
                client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        elif kind == "params":
            params = [Param(key, value) for key, value in item["values"].items()]
            for start in range(0, len(params), 100):
                client.log_batch(run_id, params=params[start : start + 100])
        elif kind == "tags":
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in item["values"].items()])
        elif kind == "dataset":
            dataset = Dataset(item["name"], item["digest"], "local", json.dumps({"uri": item["source"]}))
            context = InputTag("mlflow.data.context", item["context"])
            client.log_inputs(run_id, [DatasetInput(dataset, [context])])
        elif kind == "text":
            client.log_text(run_id, item["text"], item["name"])
        elif kind == "table":
            self._table(run_id, item)
        elif kind == "artifact":
            client.log_artifact(run_id, str(self.spool.folder / "files" / item["file"]), item["folder"])
        elif kind == "child":
            self._child(state, begin, item)
        elif kind == "model":
            models.log(*self._connected, self._child(state, begin, item), item)
        elif kind == "status" and item["status"] == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        elif kind == "status":
            client.set_terminated(run_id, item["status"], item["time"])

    def _made(self, state: State, begin: int, tag: str, value: str, item: Item) -> str:
        """The run of an item: made, or found where it was made before and the answer was lost."""
        assert self._connected is not None
        client, experiment = self._connected
        if state.tried == begin:
            found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
        state.tried = begin
        self.spool.save(state)
        tags = {**item["tags"], tag: value}
        run = client.create_run(experiment, start_time=item["time"], run_name=item["name"], tags=tags)
        return str(run.info.run_id)

    def _child(self, state: State, begin: int, item: Item) -> str:
        from mlflow.entities import Metric, Param

        nested = {**item, "tags": {**item["tags"], "mlflow.parentRunId": str(state.run_id)}}
        run_id = self._made(state, begin, CHILD, f"{self.spool.folder.name}/{item['id']}", nested)
        # parameters too: the UI compares runs and groups them by these
        params = [Param(key.split(".")[-1], value) for key, value in item["tags"].items()]
        self.client.log_batch(run_id, params=params)
        metrics = [Metric(key, value, item["time"], 0) for key, value in item["values"].items()]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        self.client.set_terminated(run_id, end_time=item["time"])
        return run_id

    def _table(self, run_id: str, item: Item) -> None:
        """As `log_table`, which would add the rows to a table that is there."""
        name, tag = f"{item['name']}.json", "mlflow.loggedArtifacts"
        self.client.log_text(run_id, json.dumps({"columns": item["columns"], "data": item["rows"]}), name)
        shown = json.loads(self.client.get_run(run_id).data.tags.get(tag, "[]"))
        entry = {"path": name, "type": "table"}
        if entry not in shown:
            self.client.set_tag(run_id, tag, json.dumps([*shown, entry]))


def send_all(everywhere: bool = True) -> Iterator[tuple[Spool, int]]:
    """Send the spools of all runs, and find the artifacts of a store that was moved.

    Yields each spool that had something to send, and how much.

    Args:
        everywhere: those of processes that go on, and of other machines, too: where these share the working
            folder but no locks, whether a process goes on is known on its machine alone.

    Raises:
        UserError: the store cannot be used or failed; or a run waits for another store.
    """
    path, others = store_file(), set()
    if path is not None and path.is_file():
        with CONNECTING, files.locked(_lock()):
            _follow(path.resolve())
    for spool in spools():
        state = spool.state()
        if state and state.run_id and state.store != store_name():
            others |= {state.store} if spool.waiting() else set()
            continue
        if not everywhere and spool.machine() != platform.node():
            continue
        if not spool.close() and not everywhere:
            continue
        sent = Delivery(spool).send()
        if spool.finished():
            spool.remove()
        if sent:
            yield spool, sent
    if others:
        raise UserError(f"runs wait for {', '.join(sorted(others))}: let MLFLOW_TRACKING_URI name it")


def _together(items: Iterator[tuple[int, int, Item]]) -> Iterator[tuple[int, int, list[Item]]]:
    """(begin, end, items): neighbouring items of metrics as one, up to a batch."""
    held: list[Item] = []
    begin = end = size = 0
    for start, stop, item in items:
        values = len(item["values"]) if item.get("do") == "metrics" else BATCH
        if held and (size + values > BATCH or held[0].get("do") != "metrics"):
            yield begin, end, held
            held, size = [], 0
        begin = begin if held else start
        held.append(item)
        size, end = size + values, stop
    if held:
        yield begin, end, held
