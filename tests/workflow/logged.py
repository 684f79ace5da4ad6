"""What an MLflow store has of runs, so that two of them can be compared: whatever is the same in a run that
was killed and went on, or that was sent to another store."""

import hashlib
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

MEASURED = ("perf/", "seconds/", "summary/examples_per_second")
"""Metrics whose values differ from process to process; of those of `system/` the number differs, too."""
OF_A_PROCESS = ("unival.spool", "unival.child", "mlflow.parentRunId", "repro.command", "mlflow.source.name")
"""Tags whose values do."""


def logged(store: str, experiment: str, folder: Path) -> list[dict[str, Any]]:
    """All that the runs of an experiment hold, of whatever status, without ids and times; those below one
    within it.

    Args:
        folder: for artifacts on their way here.
    """
    client = MlflowClient(store)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    runs = client.search_runs([found.experiment_id], order_by=["start_time"])
    above = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    whole = {run.info.run_id: _run(client, run, folder) for run in runs}
    for model in client.search_logged_models([found.experiment_id]):
        scores = [(one.dataset_name, one.key, one.value) for one in model.metrics or []]
        whole[model.source_run_id]["models"].append((model.name, str(model.status), sorted(scores)))
    for number, parent in above.items():
        if parent in whole:
            whole[parent]["below"].append(whole[number])
    for run in whole.values():
        run["below"].sort(key=lambda one: one["name"])
        run["models"].sort()
    return [run for number, run in whole.items() if above[number] not in whole]


def _run(client: MlflowClient, run: Any, folder: Path) -> dict[str, Any]:
    number, tags = run.info.run_id, run.data.tags
    sweep = tags.get("sweep.id", "no sweep")  # its name has the time of its beginning
    points = [
        (key, point.step, None if key.startswith(MEASURED) else point.value)
        for key in run.data.metrics
        if not key.startswith("system/")
        for point in client.get_metric_history(number, key)
    ]
    return {
        "name": run.info.run_name.replace(sweep, "sweep"),
        "status": run.info.status,
        "params": run.data.params,
        "points": sorted(points, key=str),
        "tags": {
            key: None if key in OF_A_PROCESS else value.replace(sweep, "sweep") for key, value in tags.items()
        },
        "data": sorted(one.dataset.digest for one in run.inputs.dataset_inputs),
        "files": {
            path: hashlib.sha256(
                Path(client.download_artifacts(number, path, str(folder)))
                .read_bytes()
                .replace(sweep.encode(), b"sweep")
            ).hexdigest()
            for path in sorted(_files(client, number, ""))
        },
        "below": [],
        "models": [],
    }


def _files(client: MlflowClient, run: str, folder: str) -> list[str]:
    found = []
    for one in client.list_artifacts(run, folder):
        found += _files(client, run, one.path) if one.is_dir else [one.path]
    return found
