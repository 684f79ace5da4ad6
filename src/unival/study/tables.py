"""Results of a study, read from `reports/`, `build/config/` and the prepared data.

A file that is not there gives an empty table and a note in `Study.missing`: a benchmark may lack tasks or
shifts, and a report that says so is better than none.
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unival import config, files
from unival.errors import UserError

Row = dict[str, Any]
_TEXT = {"model", "kind", "task", "split", "shift", "metric", "first", "second", "against", "study"}
_TEXT |= {"variant", "baseline", "module", "part", "tasks", "worst_task", "first_task", "second_task"}
_WHOLE = {"n", "severity", "primary", "seed", "step"}


@dataclass(frozen=True)
class Study:
    """Everything that the report is made from."""

    root: Path
    """The folder that holds `reports/` and `build/`."""
    data: Path
    """The prepared benchmark."""
    edition: str
    facts: dict[str, Any]
    """`benchmark.json`."""
    tasks: dict[str, Row]
    """task -> metric, value, low, high, n, blind, majority, model, metrics."""
    cells: list[Row]
    """model, kind, task, split, shift, severity, metric, primary, value, low, high, n."""
    interpolation: list[Row]
    """first, second, alpha, task, metric, value, low, high, n."""
    comparisons: list[Row]
    """model, against, task, split, metric, difference, low, high, n: paired over rows."""
    ablations: list[Row]
    """study, variant, baseline, seed, task, metric, value, low, high, n, difference, ..._low, ..._high."""
    curves: dict[str, list[Row]]
    """`pretrain-<phase>` or `finetune-<task>` -> lines of its curve, then those of its validations."""
    runs: dict[str, Row]
    """Process -> stage, item, config_hash, run_id, seconds, peak_mib."""
    configs: dict[str, dict[str, Any]]
    """Process -> resolved configuration."""
    missing: list[str] = field(default_factory=list)
    """What was expected and is not there."""
    merging: dict[str, list[Row]] = field(default_factory=dict)
    """`league`, `pairs`, `fronts` (study/leaderboard.py), `geometry` (unival.merging.geometry)."""

    def primary(self, **wanted: Any) -> list[Row]:
        """Cells of primary metrics whose columns have these values."""
        return [
            row
            for row in self.cells
            if row["primary"] and all(row[key] == value for key, value in wanted.items())
        ]

    def in_distribution(self, model: str, task: str) -> Row | None:
        """The primary cell of a model on the test split."""
        found = self.primary(model=model, task=task, split="test", shift="")
        return found[0] if found else None

    def comparison(self, model: str, against: str, task: str, split: str = "test") -> Row | None:
        """The paired difference of two models."""
        wanted = {"model": model, "against": against, "task": task, "split": split}
        return next(
            (row for row in self.comparisons if all(row[k] == v for k, v in wanted.items())),
            None,
        )

    @property
    def pretrained(self) -> str:
        """Name of the pretrained model in the tables."""
        return next((row["model"] for row in self.cells if row["kind"] == "pretrained"), "")

    @property
    def finetuned(self) -> list[str]:
        """Tasks with an expert, in the order they were evaluated."""
        return list(dict.fromkeys(row["task"] for row in self.cells if row["kind"] == "finetuned"))

    def predictions(self, model: str, task: str, limit: int | None = None) -> list[Row]:
        """Predicted rows of a model on the test split, the first `limit`; empty when there are none."""
        path = self.root / "reports/predictions" / model / task / "test.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines[:limit]]

    def prompt(self, task: str, row: Row) -> str:
        """The prompt that the model read for a predicted row; a box in pixels, not in location tokens."""
        template = self.configs.get("evaluate", {}).get("tasks", {}).get(task, {}).get("prompt", "{text}")
        box = ", ".join(f"{side:g}" for side in row.get("box") or ())
        return str(template).replace("{text}", row["text"]).replace("{box}", f" ({box})").strip()


def read(root: Path | str, data: Path | str, edition: str) -> Study:
    """Read what there is.

    Raises:
        UserError: no result at all, or a file that is not what its name says.
    """
    root, missing = Path(root), list[str]()
    reports = root / "reports"
    tasks = _json(reports / "metrics/tasks.json")
    if tasks is None:
        raise UserError(f"{reports / 'metrics/tasks.json'}: no results there: run `dvc repro evaluate`")
    cells = _table(reports / "metrics/cells.csv", missing)
    interpolation = _table(reports / "metrics/interpolation.csv", missing)
    comparisons = _table(reports / "metrics/comparisons.csv", missing)
    names = ("league", "pairs", "fronts", "geometry")
    merging = {name: _table(reports / f"metrics/{name}.csv", missing) for name in names}
    ablations = _tables((reports / "ablations").glob("*.csv"))
    configs = _configs(root / "build/config")
    # what an earlier choice of tasks and phases left is on disk still
    curves = {}
    for name in configs:
        tables = [reports / f"curves/{name}{part}.csv" for part in ("", "-validation")]
        if tables[0].is_file():
            curves[name] = [row for path in tables if path.is_file() for row in _table(path, missing)]
    runs = {name: found for name in configs if (found := _json(reports / f"runs/{name}.json"))}
    data = Path(data)
    facts = _json(data / "benchmark.json") or {}
    for found, what in (
        (ablations, "reports/ablations: no table of a study"),
        (curves, "reports/curves: no learning curve (they are written when a model is trained)"),
        (runs, "reports/runs: no record of what ran"),
        (facts, f"{data / 'benchmark.json'}: no description of the benchmark"),
    ):
        if not found:
            missing.append(what)
    order = list(dict.fromkeys(row["task"] for row in cells))
    tasks = {task: tasks[task] for task in sorted(tasks, key=lambda t: order.index(t) if t in order else 99)}
    return Study(
        root, data, edition, facts, tasks, cells, interpolation, comparisons, ablations, curves, runs,
        configs, missing, merging,
    )  # fmt: skip


def _json(path: Path) -> Any:
    return files.read_json(path) if path.is_file() else None


def _table(path: Path, missing: list[str]) -> list[Row]:
    """Rows with numbers as numbers; an empty field is None, in a column of text the empty string."""
    if not path.is_file():
        missing.append(f"{path.name}: not written")
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        return [
            {key: _value(key, text, f"{path}: line {number}") for key, text in row.items()}
            for number, row in enumerate(csv.DictReader(handle), 2)
        ]


def _tables(paths: Iterable[Path]) -> list[Row]:
    return [row for path in sorted(paths) for row in _table(path, [])]


def _value(column: str, text: str, where: str) -> Any:
    if column in _TEXT:
        return text
    if text == "":
        return None
    try:
        return int(text) if column in _WHOLE else float(text)
    except ValueError as error:
        raise UserError(f"{where}: {column}: '{text}' is no number: run `dvc repro` again") from error


def _configs(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        found["-".join(path.relative_to(folder).with_suffix("").parts)] = config.load(path)
    return found
