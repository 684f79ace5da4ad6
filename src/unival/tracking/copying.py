"""Runs and models of another store, copied into this one: what an export and an import are.

A copy carries the id of its original as a tag, by which it is found again: a copy that was cut short goes on,
and one that is whole is not made twice. Whatever is written may be written again without effect.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from unival.errors import UserError, without_password
from unival.tracking import models
from unival.tracking.mlflow_store import connect, log, opened, reason, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

ORIGIN = "unival.copy_of"
"""Tag: the run's id in the store it was copied from."""
PARENT = "mlflow.parentRunId"


def copy_all(source: str) -> Iterator[tuple[str, str]]:
    """Copy all runs of a store that are not here yet; yields experiment and name of each that was copied.

    Args:
        source: its address, as MLFLOW_TRACKING_URI has it; a run that goes on is copied when it has ended.

    Raises:
        UserError: a store cannot be used, or both are the same.
    """
    if source == store_uri():
        raise UserError(f"{without_password(source)}: is this store: let MLFLOW_TRACKING_URI name another")
    there = opened(source)
    try:
        for experiment in _pages(there.search_experiments):
            runs = list(_pages(there.search_runs, experiment_ids=[experiment.experiment_id]))
            if runs:
                yield from _experiment(there, experiment, runs)
    except UserError:
        raise
    except Exception as error:  # each store has errors of its own
        raise UserError(
            f"copying runs of {without_password(source)}: {reason(error)}: run it again"
        ) from error


def _experiment(there: "MlflowClient", experiment: Any, runs: list[Any]) -> Iterator[tuple[str, str]]:
    here, number = connect(experiment.name)
    known = {
        run.data.tags[ORIGIN]: run
        for run in _pages(here.search_runs, experiment_ids=[number])
        if ORIGIN in run.data.tags
    }
    copies: dict[str, str] = {}
    for run in sorted(runs, key=lambda run: (PARENT in run.data.tags, run.info.start_time)):
        old, copy = run.info.run_id, known.get(run.info.run_id)
        if copy is not None:
            copies[old] = copy.info.run_id
        if run.info.end_time is None or (copy is not None and copy.info.end_time is not None):
            continue
        if copy is None:
            tags = {**run.data.tags, ORIGIN: old}
            if above := copies.get(tags.get(PARENT, "")):
                tags[PARENT] = above
            made = here.create_run(number, run.info.start_time, tags, run.info.run_name)
            copies[old] = made.info.run_id
        _fill(there, here, run, copies[old])
        yield experiment.name, run.info.run_name
    for model in _pages(there.search_logged_models, experiment_ids=[experiment.experiment_id]):
        if models.DIGEST in model.tags:
            _model(here, number, model, copies)


def _fill(there: "MlflowClient", here: "MlflowClient", run: Any, copy: str) -> None:
    """All that a run holds; its end comes last."""
    from mlflow.entities import Param

    params = [Param(key, value) for key, value in run.data.params.items()]
    points = [point for key in run.data.metrics for point in there.get_metric_history(run.info.run_id, key)]
    log(here, copy, params, points)
    if run.inputs and run.inputs.dataset_inputs:
        here.log_inputs(copy, run.inputs.dataset_inputs)
    for path in _files(there, run.info.run_id, None):
        with tempfile.TemporaryDirectory() as folder:
            local = there.download_artifacts(run.info.run_id, path, folder)
            parent = PurePosixPath(path).parent
            here.log_artifact(copy, local, None if parent == PurePosixPath() else str(parent))
    here.set_terminated(copy, run.info.status, run.info.end_time)


def _model(here: "MlflowClient", experiment: str, model: Any, copies: dict[str, str]) -> None:
    """A row of a model with the scores that the copied runs have of it."""
    by_run: dict[str, list[Any]] = {}
    for score in sorted(model.metrics or [], key=lambda score: score.timestamp):
        by_run.setdefault(score.run_id, []).append(score)
    for run, scores in by_run.items():
        if run in copies:
            shown = [(one.key, one.value, one.dataset_name, one.dataset_digest) for one in scores]
            item = {"name": model.name, "tags": model.tags, "scores": shown, "time": scores[0].timestamp}
            models.log(here, experiment, copies[run], {**item, "source": copies.get(model.source_run_id)})


def _files(there: "MlflowClient", run: str, folder: str | None) -> Iterator[str]:
    for one in there.list_artifacts(run, folder):
        if one.is_dir:
            yield from _files(there, run, one.path)
        else:
            yield one.path


def _pages(search: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
    """All that a search finds, page by page."""
    found = search(**arguments)
    yield from found
    while found.token:
        found = search(**arguments, page_token=found.token)
        yield from found
