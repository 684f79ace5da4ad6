"""What a stage may log: nowhere (`Tracker`), or in a run of MLflow.

A run that was killed goes on under its id: `run.json` in its scratch folder names its spool, which knows what
has been logged, so nothing is logged twice and nothing is left out.
"""

import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unival import files
from unival.tracking.machine_load import MachineLoad
from unival.tracking.models import ModelScore
from unival.tracking.sender import SHORT_PATIENCE, Sender
from unival.tracking.spool import Spool, root

PATIENCE = 10.0
"""Seconds for which the end of a run waits for a store that takes what it is sent."""
LOAD = "system/cpu_utilization_percentage"
"""A metric that every measurement of the machine's load has."""
MAX_PARAM_CHARACTERS = 500
TABLE_ROWS = 200
Curves = Mapping[int, Mapping[str, float]]
"""Step -> metrics."""
NO_CURVES: Curves = {}


class Tracker:
    """What a stage may log; this one logs nothing: ranks other than 0, tests, `UNIVAL_TRACKING=off`."""

    @property
    def run_id(self) -> str | None:
        """The run's id in the store; None where there is none."""
        return None

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers of a step."""

    def params(self, values: Mapping[str, Any]) -> None:
        """What a run was started with; set once."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Words to filter runs by."""

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Rows that the run read: name, digest, where they lie, and what for (train, val, test)."""

    def table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Rows with equal keys."""

    def child(
        self, name: str, tags: Mapping[str, str], metrics: Mapping[str, float], curves: Curves = NO_CURVES
    ) -> None:
        """A run of its own below this one."""

    def model(
        self, name: str, kind: str, tags: Mapping[str, str], source: str | None, scores: Sequence[ModelScore]
    ) -> None:
        """A model that was scored, by reference: a row of its own, and a run below this one.

        Args:
            tags: of the row; `models.DIGEST` tells models apart.
            source: id of the run that made it; None: not known.
            scores: those of one data set together; the last one stands for the model in the run.
        """

    def text(self, text: str, name: str) -> None:
        """A text as a file of the run."""

    def artifact(self, path: Path, folder: str) -> None:
        """A file, copied into a folder of the run."""

    def flush(self) -> None:
        """Send what is buffered."""

    def end(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""


class MlflowTracker(Tracker):
    """One run; `state` is the file that lets the next process go on with it."""

    def __init__(self, experiment: str, name: str, state: Path, tags: Mapping[str, str]) -> None:
        import mlflow  # noqa: F401  here: were it the thread, processes forked meanwhile could wait for ever

        self._spool = Spool(_spool_of(state))
        files.write_json(state, {"spool": self._spool.folder.name})
        self._spool.mend()
        self._alive = self._spool.alive()
        self._writing = threading.Lock()  # the load of the machine comes from a thread
        self._ended = False
        self._steps: dict[str, int] = {}
        """Metric -> last step that has been logged."""
        self._params: set[str] = set()
        self._children: set[str] = set()
        for _, _, item in self._spool.read():
            self._note(item)
        if self._spool.items.is_file() and self._spool.items.stat().st_size:
            self._add("status", status="RUNNING")
            self.tags(tags)  # those of the process that goes on
        else:
            parent = os.environ.get("UNIVAL_PARENT_RUN")
            nested = {"mlflow.parentRunId": parent} if parent else {}
            self._add("start", experiment=experiment, name=name, tags={**tags, **nested})
        self._run_id: str | None = None
        self._sender = Sender(self._spool)
        self._sender.start()
        self._load = MachineLoad(self.metrics, self._steps.get(LOAD, -1) + 1)
        self._load.start()

    def _note(self, item: Mapping[str, Any]) -> None:
        """Remember what an item logs."""
        if item.get("do") == "metrics":
            self._steps |= {key: max(item["step"], self._steps.get(key, -1)) for key in item["values"]}
        elif item.get("do") == "params":
            self._params |= set(item["values"])
        elif item.get("do") in ("child", "model"):
            self._children.add(item["id"])

    def _add(self, kind: str, **values: Any) -> None:
        item = {"do": kind, "time": int(time.time() * 1000), **values}
        with self._writing:
            if self._ended:  # the load of the machine, measured meanwhile
                return
            self._note(item)
            self._spool.append(item)
            self._ended = item.get("status", "RUNNING") != "RUNNING"

    @property
    def run_id(self) -> str | None:
        """The run's id; None where the store could not be reached so far."""
        if self._run_id is None:
            self._sender.wait(lambda: self._stored_id() is not None, PATIENCE)
            self._run_id = self._stored_id()
        return self._run_id

    def _stored_id(self) -> str | None:
        state = self._spool.state()
        return state.run_id if state else None

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers of a step. NaN and infinity would hide the last good value in the UI's tables."""
        finite = _finite(values)
        if len(finite) < len(values):
            finite["nan_count"] = float(len(values) - len(finite))
        new = {key: value for key, value in finite.items() if step > self._steps.get(key, -1)}
        if new:
            self._add("metrics", step=step, values=new)

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters of the run, each once: MLflow refuses to change one."""
        new = {_name(key): str(value)[:MAX_PARAM_CHARACTERS] for key, value in values.items()}
        new = {key: value for key, value in new.items() if key not in self._params}
        if new:
            self._add("params", values=new)

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags of the run."""
        self._add("tags", values={_name(key): value for key, value in values.items()})

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Note a data set that was read; `digest` is that of its files."""
        self._add("dataset", name=name, digest=digest[:36], source=source, context=context)

    def table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """A table of samples, shown in the UI under Artifacts and in the evaluation view."""
        if rows:
            columns = list(rows[0])
            cells = [[_cell(row.get(column)) for column in columns] for row in rows[:TABLE_ROWS]]
            self._add("table", name=name, columns=columns, rows=cells)

    def child(
        self, name: str, tags: Mapping[str, str], metrics: Mapping[str, float], curves: Curves = NO_CURVES
    ) -> None:
        """A finished run below this one: one model of an evaluation, one variant of an ablation."""
        number = files.digest([name, dict(tags)])
        if number not in self._children:
            points = [[step, _finite(values)] for step, values in curves.items()]
            self._add("child", id=number, name=name, tags=dict(tags), values=_finite(metrics), curves=points)

    def model(
        self, name: str, kind: str, tags: Mapping[str, str], source: str | None, scores: Sequence[ModelScore]
    ) -> None:
        """A model that was scored."""
        number, shown = files.digest([name, dict(tags)]), {"unival.model": name, "unival.kind": kind}
        if number not in self._children:
            known = [(_name(score.metric), *score[1:]) for score in scores if math.isfinite(score.value)]
            self._add(
                "model", id=number, name=name, tags={**shown, **tags}, source=source, values={},
                scores=known,
            )  # fmt: skip

    def text(self, text: str, name: str) -> None:
        """A text file."""
        self._add("text", text=text, name=name)

    def artifact(self, path: Path, folder: str) -> None:
        """A file."""
        self._add("artifact", file=self._spool.keep(path), folder=folder)

    def flush(self) -> None:
        """Let what has been logged be sent now."""
        self._sender.wake()

    def end(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED. What the store does not take in time stays on disk."""
        self._load.stop()
        self._add("status", status=status)
        patience = PATIENCE if status == "FINISHED" else SHORT_PATIENCE
        self._sender.wait(lambda: not self._spool.waiting(), patience)
        # one that has nothing left to send soon is done; else a spool that is gone would be made anew
        self._sender.stop(0.0 if self._spool.waiting() else patience)
        self._alive.close()
        self._run_id = self._run_id or self._stored_id()
        if self._spool.finished():
            self._spool.remove()
        elif waiting := self._spool.waiting():
            print(f"{waiting} items for MLflow wait in {self._spool.folder}: `unival sync`", file=sys.stderr)


def _spool_of(state: Path) -> str | None:
    """Name of the spool that a state file names."""
    try:
        return str(json.loads(state.read_text(encoding="utf-8"))["spool"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def unsent(state: Path) -> bool:
    """Whether the run of a state file has something left to send."""
    name = _spool_of(state)
    return name is not None and (root() / name).is_dir()


def _name(key: str) -> str:
    """The key in characters that MLflow takes in names."""
    return re.sub(r"[^\w./ -]", "_", key.replace("@", "_at_"))


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    """Those that are, under names that MLflow takes."""
    return {_name(key): float(value) for key, value in values.items() if math.isfinite(value)}


def _cell(value: Any) -> Any:
    """A value of a table, as JSON has it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
