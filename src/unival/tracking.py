"""MLflow, and nothing else imports it.

The store is one SQLite file at the root of the main repository (`MLFLOW_TRACKING_URI` changes it). Parallel
writers on a store that does not exist yet lose runs to each other's schema migrations, so the first client of
every process is made under a file lock. Metrics are buffered and written in batches: one call costs as much
as a training step of the tiny model. A run that was killed goes on under the same id, kept in the stage's
scratch folder; steps that are already stored are not stored again.
"""

import json
import math
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from unival import files, provenance
from unival.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

KIND = "custom_model_development"
"""How the UI shows an experiment: as training runs rather than as traces of an agent."""
FLUSH_SECONDS = 5.0
MAX_PARAM_CHARACTERS = 500
TABLE_ROWS = 200
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Of the databases that a store may be in, where its address names none."""


class Tracker:
    """What a stage may log; this one logs nothing: ranks other than 0, tests, `UNIVAL_TRACKING=off`.

    All of it is optional knowledge: no result is read back from here.
    """

    run_id: str | None = None
    resumed = False

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None: ...
    def params(self, values: Mapping[str, Any]) -> None: ...
    def tags(self, values: Mapping[str, str]) -> None: ...
    def dataset(self, name: str, digest: str, source: str, context: str) -> None: ...
    def table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None: ...
    def child(self, name: str, tags: Mapping[str, str], metrics: Mapping[str, float]) -> None: ...
    def text(self, text: str, name: str) -> None: ...
    def artifact(self, path: Path, folder: str) -> None: ...
    def flush(self) -> None: ...
    def end(self, status: str) -> None: ...


def store_uri() -> str:
    """Where runs are stored."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{provenance.root() / 'mlflow.db'}"


def shown_uri() -> str:
    """The store as messages name it: without user, password and options, which may be secrets."""
    return _public(store_uri()).partition("?")[0]


def _public(text: str) -> str:
    """A message without the user and password of an address in it."""
    return re.sub(r"://\S*@", "://", text)


def unreachable(seconds: float) -> str:
    """Why the store does not answer within some seconds; empty where it does. Nothing is written to it.

    An MLflow server is asked for its health, a database for a connection; the folder of a file must be there.
    """
    answers: list[str] = []
    asked = Thread(target=lambda: answers.append(_knock(store_uri(), seconds)), daemon=True)
    asked.start()
    asked.join(seconds)  # looking a name up has no limit of its own
    return answers[0] if answers else f"no answer within {seconds:g} s"


def _knock(text: str, seconds: float) -> str:
    try:
        uri = urlsplit(text)
        kind, host = uri.scheme.partition("+")[0], uri.netloc.rpartition("@")[2]
        if kind in ("http", "https"):
            urlopen(f"{kind}://{host}{uri.path.rstrip('/')}/health", timeout=seconds).close()
        elif kind in PORTS:
            socket.create_connection((uri.hostname or "localhost", uri.port or PORTS[kind]), seconds).close()
        else:  # sqlite:///here.db and sqlite:////there/here.db
            folder = Path(uri.path.removeprefix("/") if kind == "sqlite" else uri.path).parent
            return "" if folder.is_dir() else f"no folder {folder}"
    except HTTPError as error:
        return f"its server answers {error.code}"
    except OSError as error:
        return str(getattr(error, "reason", error))
    except (ValueError, HTTPException):  # whose messages may hold a password
        return "no address of a store, or another kind of server"
    return ""


def _artifact_location(experiment: str) -> str | None:
    """Beside a local store; a server knows its own place."""
    if not store_uri().startswith("sqlite:///"):
        return None
    return (Path(store_uri().removeprefix("sqlite:///")).parent / "mlartifacts" / experiment).as_uri()


def connect(experiment: str) -> tuple["MlflowClient", str]:
    """A client of the store and the id of the experiment, both created when missing.

    Raises:
        UserError: the store cannot be used.
    """
    os.environ.pop("MLFLOW_RUN_ID", None)  # with it set, MLflow resumes that run whatever is asked for
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with files.locked(provenance.root() / "scratch" / "mlflow.lock"):
            client = MlflowClient(store_uri())
            found = client.get_experiment_by_name(experiment)
            if found is not None:
                return client, found.experiment_id
            location, tags = _artifact_location(experiment), {"mlflow.experimentKind": KIND}
            return client, client.create_experiment(experiment, artifact_location=location, tags=tags)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = _public(str(error).splitlines()[0])
        fix = "set MLFLOW_TRACKING_URI to another store, or UNIVAL_TRACKING=off to go on without"
        raise UserError(f"MLflow store {shown_uri()}: cannot be used: {reason}: {fix}") from error


class MlflowTracker(Tracker):
    """One run; `state` is the file that lets the next process go on with it."""

    run_id: str

    def __init__(self, experiment: str, name: str, state: Path, tags: Mapping[str, str]) -> None:
        self.client, self.experiment_id = connect(experiment)
        self.state, self._buffer, self._flushed_at = state, [], time.monotonic()  # type: tuple[Path, list[Any], float]
        saved = self._saved()
        self._last_step: int = saved.get("last_step", -1)
        self._resumed_until = self._last_step
        resumed = bool(saved) and self._exists(saved["run_id"])
        if resumed:
            self.run_id = str(saved["run_id"])
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            self._last_step = self._resumed_until = -1
            parent = os.environ.get("UNIVAL_PARENT_RUN")
            nested = {"mlflow.parentRunId": parent} if parent else {}
            run = self.client.create_run(self.experiment_id, run_name=name, tags={**tags, **nested})
            self.run_id = run.info.run_id
        self.resumed = resumed
        self._save()

    def _saved(self) -> dict[str, Any]:
        return json.loads(self.state.read_text()) if self.state.exists() else {}

    def _save(self) -> None:
        files.write_json(self.state, {"run_id": self.run_id, "last_step": self._last_step})

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Buffer numbers of a step. NaN and infinity would hide the last good value in the UI's tables."""
        from mlflow.entities import Metric

        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        if len(finite) < len(values):
            finite["nan_count"] = float(len(values) - len(finite))
        now = int(time.time() * 1000)
        if step > self._resumed_until or step == 0:
            self._buffer += [Metric(_name(key), float(value), now, step) for key, value in finite.items()]
            self._last_step = max(self._last_step, step)
        if time.monotonic() - self._flushed_at > FLUSH_SECONDS or len(self._buffer) >= 500:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        for start in range(0, len(self._buffer), 1000):
            self.client.log_batch(self.run_id, metrics=self._buffer[start : start + 1000])
        self._buffer, self._flushed_at = [], time.monotonic()
        self._save()

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters of the run, once: MLflow refuses to change one, so a resumed run keeps its own."""
        from mlflow.entities import Param

        if not self.resumed:
            entries = [Param(key, str(value)[:MAX_PARAM_CHARACTERS]) for key, value in values.items()]
            for start in range(0, len(entries), 100):
                self.client.log_batch(self.run_id, params=entries[start : start + 100])

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Note a data set that was read; `digest` is that of its files."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, digest[:36], "local", json.dumps({"uri": source}))
        self.client.log_inputs(
            self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
        )

    def table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """A table of samples, shown in the UI under Artifacts and in the evaluation view."""
        if rows:
            columns = {key: [row.get(key) for row in rows[:TABLE_ROWS]] for key in rows[0]}
            self.client.log_table(self.run_id, columns, f"{name}.json")

    def child(self, name: str, tags: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """A finished run below this one: one model of an evaluation, one variant of an ablation."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        nested = {**tags, "mlflow.parentRunId": str(self.run_id)}
        run_id = self.client.create_run(self.experiment_id, run_name=name, tags=nested).info.run_id
        # parameters too: the UI compares runs and groups them by these
        self.client.log_batch(run_id, params=[Param(k.split(".")[-1], v) for k, v in tags.items()])
        entries = [Metric(_name(key), float(value), now, 0) for key, value in metrics.items()]
        for start in range(0, len(entries), 1000):
            self.client.log_batch(run_id, metrics=entries[start : start + 1000])
        self.client.set_terminated(run_id)

    def text(self, text: str, name: str) -> None:
        self.client.log_text(self.run_id, text, name)

    def artifact(self, path: Path, folder: str) -> None:
        self.client.log_artifact(self.run_id, str(path), folder)

    def end(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        self.flush()
        self.client.set_terminated(self.run_id, status)


def _name(key: str) -> str:
    """MLflow refuses `@` and `=` in names of metrics."""
    return key.replace("@", "_at_").replace("=", "_")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + str(key)] = value
    return flat
