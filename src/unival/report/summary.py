"""`reports/summary.json`: the results for programs. Its fields are documented in docs/summary.md."""

from typing import Any

from unival.study.tables import Row, Study

TASK_FIELDS = ("metric", "value", "low", "high", "n", "blind", "majority")
CELL_FIELDS = ("model", "kind", "task", "split", "shift", "severity", "metric", "value", "low", "high", "n")
STAGE_FIELDS = ("seconds", "peak_mib", "run_id")


def summarise(study: Study, provenance: dict[str, Any]) -> dict[str, Any]:
    """The whole file as a mapping."""
    return {
        "tasks": {task: {key: row.get(key) for key in TASK_FIELDS} for task, row in study.tasks.items()},
        "ood": [_ood(study, row) for row in study.primary() if row["split"] != "test" or row["shift"]],
        "merges": [_merge(study, row) for row in study.primary(kind="merged", split="test", shift="")],
        "ablations": study.ablations,
        "stages": {name: {key: run.get(key) for key in STAGE_FIELDS} for name, run in study.runs.items()},
        "provenance": {
            **provenance,
            "benchmark": study.facts.get("name", study.data.name),
            "edition": study.edition,
            "seeds": seeds(study),
            "data": {name: split.get("digest") for name, split in study.facts.get("splits", {}).items()},
            "config_hashes": {name: run.get("config_hash") for name, run in study.runs.items()},
            "missing": study.missing,
        },
    }


def seeds(study: Study) -> dict[str, Any]:
    """Process -> seed of its configuration."""
    found = {name: _seed(config) for name, config in study.configs.items()}
    return {name: seed for name, seed in found.items() if seed is not None}


def _seed(config: dict[str, Any]) -> Any:
    if "seeds" in config:
        return config["seeds"]
    benchmark = config.get("benchmark")
    options = benchmark.get("options") if isinstance(benchmark, dict) else None
    for place in (config, config.get("train"), benchmark, options):
        if isinstance(place, dict) and place.get("seed") is not None:
            return place["seed"]
    return None


def _ood(study: Study, row: Row) -> Row:
    inside = study.in_distribution(row["model"], row["task"])
    found = {key: row[key] for key in CELL_FIELDS}
    return {**found, "shift": row["shift"] or row["split"], "in_distribution": inside and inside["value"]}


def _merge(study: Study, row: Row) -> Row:
    """A merged model on the task of one of its parents, beside that parent and the pretrained model."""
    found = {key: row[key] for key in ("model", "task", "metric", "value", "low", "high", "n")}
    for name, other in (("expert", f"finetune/{row['task']}"), ("pretrained", study.pretrained)):
        cell = study.in_distribution(other, row["task"])
        paired = study.comparison(row["model"], other, row["task"])
        found[name] = cell and cell["value"]
        found[f"minus_{name}"] = paired and [paired["difference"], paired["low"], paired["high"]]
    return found
