"""Runs that the store has, for comparing them: no stage reads anything here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unival.errors import UserError
from unival.tracking.mlflow_store import opened, reason, store_file, store_name

STUDY = "study"
"""Folder of a run's artifacts that holds what the run of `evaluate` leaves for comparing it."""


@dataclass(frozen=True)
class Past:
    """A run of a stage."""

    run_id: str
    tags: dict[str, str]
    seconds: float | None
    """Wall time; None: it has not ended."""
    config: str
    """Its resolved configuration as YAML; empty where it kept none."""
    curve: list[dict[str, float | None]]
    """A line for every step with what was logged in it (`unival.study.tables.Curve`)."""

    @property
    def process(self) -> str:
        """`<stage>` or `<stage>-<item>`."""
        item = self.tags.get("unival.item")
        return self.tags.get("unival.stage", "run") + (f"-{item}" if item else "")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each store has errors of its own
        raise UserError(f"MLflow store {store_name()}: {reason(error)}") from error


def find(text: str) -> Past | None:
    """The run of an id or a name; None where no run is called so, or there is no store.

    Raises:
        UserError: several runs have the name, or it was deleted; or the store cannot be used.
    """
    if (path := store_file()) is not None and not path.is_file():
        return None
    client = opened()
    from mlflow.entities import ViewType

    with _told():
        experiments = [one.experiment_id for one in client.search_experiments(view_type=ViewType.ALL)]
        quoted = text.replace("'", "")
        found = [
            run
            for key in ("attributes.run_id", "attributes.run_name")
            for run in client.search_runs(experiments, f"{key} = '{quoted}'", ViewType.ALL)
        ]
        alive = [run for run in found if run.info.lifecycle_stage == "active"]
        if found and not alive:
            fix = f"MlflowClient().restore_run('{found[0].info.run_id}') brings it back until `mlflow gc`"
            raise UserError(f"{text}: this run was deleted: {fix}")
        if len(alive) > 1:
            names = ", ".join(
                f"{run.info.run_id} {run.data.tags.get('dvc.exp', '')}".strip() for run in alive[:5]
            )
            raise UserError(f"{text}: {len(alive)} runs have this name: give the id of one: {names}")
        return _read(client, alive[0]) if alive else None


def _read(client: Any, run: Any) -> Past:
    info = run.info
    steps: dict[int, dict[str, float | None]] = {}
    for key in run.data.metrics:
        if key.startswith(("train/", "val/")):
            for point in client.get_metric_history(info.run_id, key):
                steps.setdefault(point.step, {"step": float(point.step)})[key] = point.value
    resolved, text = "config/resolved.yaml", ""
    if resolved in [one.path for one in client.list_artifacts(info.run_id, "config")]:
        with TemporaryDirectory() as folder:
            text = Path(client.download_artifacts(info.run_id, resolved, folder)).read_text(encoding="utf-8")
    seconds = (info.end_time - info.start_time) / 1000 if info.end_time else None
    return Past(info.run_id, dict(run.data.tags), seconds, text, [steps[step] for step in sorted(steps)])


def fetch(run_id: str, folder: Path) -> Path | None:
    """The file below `STUDY` of a run, brought into a folder; None where it has none.

    Raises:
        UserError: the store cannot be used.
    """
    client = opened()
    with _told():
        found = client.list_artifacts(run_id, STUDY)
        return Path(client.download_artifacts(run_id, found[0].path, str(folder))) if found else None


def attach(run_id: str, path: Path, folder: str) -> None:
    """Put a file on a run that has ended.

    Raises:
        UserError: the store does not take it.
    """
    client = opened()
    with _told():
        client.log_artifact(run_id, str(path), folder)
