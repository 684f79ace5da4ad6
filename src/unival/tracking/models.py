"""Models as rows in MLflow: by reference, with their scores on each data set, and in its registry.

A row is a logged model without artifacts: where the weights lie is said by tags. Equal weights are one row,
whichever run has scored them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from unival.errors import UserError
from unival.tracking import mlflow_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

DIGEST = "unival.digest"
"""Tag: of the weights and of what is read with them."""
REGISTERED = "unival"
"""Name in the registry; its versions are model folders."""


class ModelScore(NamedTuple):
    """A figure of a model."""

    metric: str
    value: float
    dataset: str
    """The split, with corruption and severity where there is one: `test-noise-3`."""
    digest: str
    """Of the split's files."""


def log(client: "MlflowClient", experiment: str, run: str, item: Mapping[str, Any]) -> None:
    """Find or make the row of a model, and give it the scores that a run has of it.

    Args:
        run: the run that scored the model.
        item: `name`, `tags`, `scores` and `source`, the run that made it, where the store has that.
    """
    from mlflow.entities import LoggedModelStatus, Metric

    model = find(client, experiment, item["tags"][DIGEST]) or _made(client, experiment, run, item)
    if model.status != LoggedModelStatus.READY:  # new, or a kill came here
        model = client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    _produced(client, model)
    scores = [ModelScore(*score) for score in item["scores"]]
    places = list(dict.fromkeys(score.dataset for score in scores))
    metrics = [
        # a run shows its latest value of a metric: that of the last data set
        Metric(
            score.metric, score.value, item["time"] + places.index(score.dataset), 0,
            model_id=model.model_id, dataset_name=score.dataset, dataset_digest=score.digest[:36],
        )
        for score in scores
    ]  # fmt: skip
    mlflow_store.log(client, run, metrics=metrics)


def find(client: "MlflowClient", experiment: str, digest: str) -> "LoggedModel | None":
    """The row of some weights."""
    found = client.search_logged_models([experiment], f"tags.`{DIGEST}` = '{digest}'", max_results=1)
    return next(iter(found), None)


def _made(client: "MlflowClient", experiment: str, run: str, item: Mapping[str, Any]) -> "LoggedModel":
    from mlflow.exceptions import MlflowException

    source = item["source"] or run
    try:
        client.get_run(source)
    except MlflowException:  # it is in another store, or was deleted
        source = run
    # as `mlflow.create_external_model`, which wants the store in the environment of the process
    return client.create_logged_model(
        experiment,
        name=item["name"].replace("/", "-"),  # MLflow allows no slash
        source_run_id=source,
        model_type=item["tags"]["unival.kind"],
        tags={**item["tags"], "mlflow.model.isExternal": "true"},
    )


def _produced(client: "MlflowClient", model: "LoggedModel") -> None:
    """Let the run that made a model show it."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(str(model.source_run_id))
    shown = {output.model_id for output in run.outputs.model_outputs} if run.outputs else set()
    if run.info.lifecycle_stage == "active" and model.model_id not in shown:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, 0)])


def register(
    client: "MlflowClient", experiment: str, folder: str, tags: Mapping[str, str], alias: str | None
) -> str:
    """Make a version of a model that was evaluated, and let an alias mean it; returns the version.

    Raises:
        UserError: no row has these weights, or an alias that MLflow does not take.
    """
    from mlflow.exceptions import MlflowException

    model = find(client, experiment, tags[DIGEST])
    if model is None:
        raise UserError(
            f"{folder}: no evaluated model has these files, they have changed since or were never scored: "
            "`dvc repro evaluate` scores them, `dvc checkout` brings the evaluated ones back"
        )
    try:
        client.get_registered_model(REGISTERED)
    except MlflowException:
        client.create_registered_model(REGISTERED, description="Models that were evaluated by the study.")
    same = [
        version.version
        for version in client.search_model_versions(f"name = '{REGISTERED}'")
        if version.tags.get(DIGEST) == tags[DIGEST]
    ]
    made = same[0] if same else client.create_model_version(
        REGISTERED, f"models:/{model.model_id}", model.source_run_id, dict(tags), model_id=model.model_id,
        description=folder,
    ).version  # fmt: skip
    if alias:
        try:
            client.set_registered_model_alias(REGISTERED, alias, made)
        except MlflowException as error:
            raise UserError(f"--alias {alias}: {error.message}") from error
    return str(made)
