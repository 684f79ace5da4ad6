"""What a spool holds, sent to the store: in order, and each item once."""

import json
import platform
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from unival import files
from unival.errors import UserError
from unival.tracking import models
from unival.tracking.mlflow_store import (
    CONNECTING,
    METRICS,
    connect,
    follow,
    lock,
    log,
    reason,
    store_file,
    store_name,
)
from unival.tracking.spool import Item, Spool, State, spools

if TYPE_CHECKING:
    from mlflow import MlflowClient

SPOOL, CHILD = "unival.spool", "unival.child"
"""Tags by which a run is found again whose making was not answered."""


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
            log(client, run_id, metrics=metrics)
        elif kind == "params":
            log(client, run_id, [Param(key, value) for key, value in item["values"].items()])
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
        metrics = [
            Metric(key, value, item["time"], step)
            for step, values in ((0, item["values"]), *item.get("curves", ()))
            for key, value in values.items()
        ]
        log(self.client, run_id, params, metrics)
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
        with CONNECTING, files.locked(lock()):
            follow(path.resolve())
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
        values = len(item["values"]) if item.get("do") == "metrics" else METRICS
        if held and (size + values > METRICS or held[0].get("do") != "metrics"):
            yield begin, end, held
            held, size = [], 0
        begin = begin if held else start
        held.append(item)
        size, end = size + values, stop
    if held:
        yield begin, end, held
