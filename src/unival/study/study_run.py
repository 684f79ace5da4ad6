"""The MLflow run of a whole study: what was chosen beside what came out, so that two studies compare."""

from collections.abc import Iterable
from pathlib import Path

from unival import config, files
from unival.tracking import Tracker

PICTURE = "figures/plane-accuracy.png"
"""Of the report, shown in the run's note."""


def log(sentences: Iterable[str], tracker: Tracker) -> None:
    """The choices of `params.yaml` are its parameters, `scores.json` its metrics; its note is in words."""
    choices, scores = Path("params.yaml"), Path("reports/metrics/scores.json")
    if choices.is_file():
        chosen = config.flat({key: value for key, value in config.load(choices).items() if key != "phases"})
        tracker.params(
            {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in chosen.items() if v != {}}
        )
    if scores.is_file():
        table = files.read_json(scores)
        tracker.metrics(
            {
                f"{place}/{model}": value
                for place, values in table.items()
                for model, value in values.items()
                if model not in ("n", "interval")
            }
        )
    note = [f"- {sentence}" for sentence in sentences]
    if (Path("reports") / PICTURE).is_file() and tracker.run_id:
        note += [
            "",
            f"![Models in and out of distribution](get-artifact?path={PICTURE}&run_uuid={tracker.run_id})",
        ]
    note += ["", "The report is under Artifacts, `report/index.html`."]
    tracker.tags({"mlflow.note.content": "\n".join(note)})
