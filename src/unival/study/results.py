"""Results of a whole study, read from `reports/`, `build/config/` and the prepared data.

A file that is not there gives an empty table and a note in `Results.missing`: a benchmark may lack tasks or
shifts, and a report that says so is better than none.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from unival import config, files
from unival.engine.inference import predictions
from unival.engine.inference.predictions import PredictedRow
from unival.errors import UserError
from unival.study import tables
from unival.study.tables import (
    CONFLICT,
    Ablation,
    Angle,
    CellScore,
    Comparison,
    Conflict,
    Curve,
    Front,
    Kind,
    PairScore,
    PointScore,
    Run,
    Standing,
    Subset,
    TaskScore,
)

Row = TypeVar("Row")


@dataclass(frozen=True)
class Results:
    """Everything that the report is made from."""

    root: Path
    """The folder that holds `reports/` and `build/`."""
    data: Path
    """The prepared benchmark."""
    edition: str
    facts: dict[str, Any]
    """`benchmark.json`."""
    tasks: dict[str, TaskScore]
    cells: list[CellScore]
    points: list[PointScore]
    """Of the interpolation between two models."""
    subsets: list[Subset]
    comparisons: list[Comparison]
    ablations: list[Ablation]
    conflict: list[Conflict]
    """Of all seeds."""
    curves: dict[str, Curve]
    """`pretrain-<phase>` or `finetune-<task>` -> lines of its curve, then those of its validations."""
    runs: dict[str, Run]
    """Process -> its last run; without the report, which is made of them."""
    configs: dict[str, dict[str, Any]]
    """Process -> resolved configuration."""
    leaderboard: list[Standing]
    pairs: list[PairScore]
    fronts: list[Front]
    angles: list[Angle]
    """Of the experts' task vectors."""
    missing: list[str] = field(default_factory=list)
    """What was expected and is not there."""

    def primary(
        self,
        *,
        kind: Kind | None = None,
        model: str | None = None,
        task: str | None = None,
        shifted: bool | None = None,
    ) -> list[CellScore]:
        """Cells of primary metrics: all, or those of a kind, a model, a task, in or out of distribution."""
        return [
            cell
            for cell in self.cells
            if cell.primary
            and kind in (None, cell.kind)
            and model in (None, cell.model)
            and task in (None, cell.task)
            and shifted in (None, cell.shifted)
        ]

    def in_distribution(self, model: str, task: str) -> CellScore | None:
        """The primary cell of a model on the test split."""
        return next(iter(self.primary(model=model, task=task, shifted=False)), None)

    def comparison(self, model: str, against: str, task: str) -> Comparison | None:
        """The paired difference of two models on the test split."""
        wanted = (model, against, task, "test")
        return next(
            (row for row in self.comparisons if (row.model, row.against, row.task, row.split) == wanted), None
        )

    @property
    def pretrained(self) -> str:
        """Name of the pretrained model in the tables."""
        return next((cell.model for cell in self.cells if cell.kind == "pretrained"), "")

    @property
    def finetuned(self) -> list[str]:
        """Tasks with an expert, in the order they were evaluated."""
        return list(dict.fromkeys(cell.task for cell in self.cells if cell.kind == "finetuned"))

    def predictions(self, model: str, task: str) -> list[PredictedRow]:
        """Predicted rows of a model on the test split; empty when there are none."""
        path = self.root / "reports/predictions" / model / task / "test.jsonl"
        return predictions.read_written(path) if path.is_file() else []

    def prompt(self, task: str, row: PredictedRow) -> str:
        """The prompt that the model read for a predicted row; a box in pixels, not in location tokens."""
        template = self.configs.get("evaluate", {}).get("tasks", {}).get(task, {}).get("prompt", "{text}")
        box = ", ".join(f"{side:g}" for side in row.box or ())
        return str(template).replace("{text}", row.text).replace("{box}", f" ({box})").strip()


def read(root: Path | str, data: Path | str, edition: str, seeds: Iterable[int] = ()) -> Results:
    """Read what there is. `seeds`: further ones, whose gradients are compared too.

    Raises:
        UserError: no result at all, or a file that is not what its name says.
    """
    root, data, missing = Path(root), Path(data), list[str]()
    reports = root / "reports"
    scores = reports / "metrics/tasks.json"
    if not scores.is_file():
        raise UserError(f"{scores}: no results there: run `dvc repro evaluate`")

    tasks = tables.read_entries(scores, TaskScore)

    def table(name: str, cls: type[Row]) -> list[Row]:
        path = reports / f"metrics/{name}.csv"
        if path.is_file():
            return tables.read(path, cls)
        missing.append(f"{path.name}: not written")
        return []

    cells = table("cells", CellScore)
    order = {task: place for place, task in enumerate(dict.fromkeys(cell.task for cell in cells))}
    configs = read_configs(root / "build/config")
    facts, cosines = data / "benchmark.json", f"ablations/{CONFLICT}.csv"
    results = Results(
        root=root,
        data=data,
        edition=edition,
        facts=files.read_json(facts) if facts.is_file() else {},
        tasks=dict(sorted(tasks.items(), key=lambda entry: order.get(entry[0], len(order)))),
        cells=cells,
        points=table("interpolation", PointScore),
        subsets=table("subsets", Subset),
        comparisons=table("comparisons", Comparison),
        leaderboard=table("leaderboard", Standing),
        pairs=table("pairs", PairScore),
        fronts=table("fronts", Front),
        angles=table("geometry", Angle),
        ablations=_rows(set((reports / "ablations").glob("*.csv")) - {reports / cosines}, Ablation),
        conflict=_rows(
            [reports / cosines, *(reports / f"seeds/{seed}" / cosines for seed in seeds)], Conflict
        ),
        # only of what is configured: what an earlier choice of tasks and phases left is on disk still
        curves={name: curve for name in configs if (curve := read_curve(reports / "curves", name))},
        runs={
            name: tables.read_json(path, Run)
            for name in configs
            if name != "report" and (path := reports / f"runs/{name}.json").is_file()
        },
        configs=configs,
        missing=missing,
    )
    for part, what in (
        (results.ablations, "reports/ablations: no table of a study"),
        (results.curves, "reports/curves: no learning curve (they are written when a model is trained)"),
        (results.runs, "reports/runs: no record of what ran"),
        (results.facts, f"{facts}: no description of the benchmark"),
    ):
        if not part:
            missing.append(what)
    return results


def _rows(paths: Iterable[Path], cls: type[Row]) -> list[Row]:
    return [row for path in sorted(paths) if path.is_file() for row in tables.read(path, cls)]


def read_curve(folder: Path, name: str) -> Curve:
    """What was logged in training, then the validations; nothing where there was no training."""
    paths = [folder / f"{name}{part}.csv" for part in ("", "-validation")]
    return [line for path in paths if path.is_file() for line in tables.read_curve(path)]


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Process -> resolved configuration, of the files below `build/config`."""
    return {
        "-".join(path.relative_to(folder).with_suffix("").parts): config.load(path)
        for path in sorted(folder.rglob("*.yaml"))
    }
