"""Learning curves: what a run leaves of them, and what DVC draws."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unival import files
from unival.errors import UserError
from unival.study import tables
from unival.study.curve import Curve
from unival.study.tables import PointScore
from unival.tracking import Tracker

INFO = {"start": 0, "parameters": 1, "trained_parameters": 1, "device": "cpu", "ranks": 1}


def logged(folder: Path, start: int = 0, end: int = 60) -> Curve:
    """A curve that was logged every 10 steps and validated every 30."""
    curve = Curve(Tracker(), folder)
    curve.on_start({**INFO, "start": start})
    for step in range(start + 10, end + 1, 10):
        curve.on_log(step, {"train/loss": 60 / step, "perf/step_seconds": 0.5})
        if step % 30 == 0:
            curve.on_log(step, {"val/score": step / 100, "val/accuracy": step / 100})
    files.write_json(folder / "finished/training.json", {"score": 0.6, "best_step": 60, "steps": 60})
    return curve


def written(curve: Curve, folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Lines of the two tables."""
    curve.write(folder / "curve.csv", curve.path.parent / "finished", folder / "validation.csv")
    names = ("curve.csv", "validation.csv")
    table, validation = (list(csv.DictReader((folder / name).open(newline=""))) for name in names)
    return table, validation


def test_training_and_validation_are_tables_without_gaps(tmp_path: Path) -> None:
    table, validation = written(logged(tmp_path), tmp_path)
    assert [row["step"] for row in table] == ["10", "20", "30", "40", "50", "60"]
    assert [row["step"] for row in validation] == ["30", "60"]
    assert list(table[0]) == ["step", "train/loss"] and list(validation[0])[-1] == "val/score"
    assert all(all(row.values()) for row in [*table, *validation])


def test_tables_of_a_run_without_validation_have_their_columns(tmp_path: Path) -> None:
    _, validation = written(logged(tmp_path, end=20), tmp_path)
    assert validation == [] and (tmp_path / "validation.csv").read_text() == "step,val/score\n"


@pytest.mark.resume
@pytest.mark.parametrize("torn", [0, 1, 20])
def test_half_a_line_at_the_end_is_none(tmp_path: Path, torn: int) -> None:
    """What a full disk or a power cut leaves after the last checkpoint."""
    undisturbed = written(logged(tmp_path / "whole"), tmp_path)
    curve = logged(tmp_path / "torn", end=40)
    curve.path.write_bytes(curve.path.read_bytes()[: -torn or None])
    assert written(logged(tmp_path / "torn", start=30), tmp_path) == undisturbed


@pytest.mark.fault
@pytest.mark.parametrize("line", ["", "{}", "[]", "5", '{"step": null}', '{"step": 20, "train', "\xff"])
def test_another_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    curve = logged(tmp_path)
    first, _, *rest = curve.path.read_text().splitlines()
    curve.path.write_text("\n".join([first, line, *rest, ""]))
    with pytest.raises(UserError, match="the curve is damaged"):
        logged(tmp_path, start=60)


def points(value: Any) -> Iterator[dict[str, Any]]:
    """The rows of data in a Vega specification."""
    if isinstance(value, dict):
        found = value.get("data")
        if isinstance(found, dict) and isinstance(found.get("values"), list):
            yield from found["values"]
        for inner in value.values():
            yield from points(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from points(inner)


def drawn(run: Any, path: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The specification that DVC makes of a plot, and its rows."""
    found = json.loads(run("dvc", "plots", "show", path, "--show-vega").stdout)
    return found, list(points(found))


def test_dvc_draws_every_point_it_has(clone: Path, run: Any) -> None:
    curves = clone / "reports/curves"
    logged(clone / "scratch").write(
        curves / "finetune-vqa.csv", clone / "scratch/finished", curves / "finetune-vqa-validation.csv"
    )
    for name, column, count in (("", "train/loss", 6), ("-validation", "val/score", 2)):
        _, rows = drawn(run, f"reports/curves/finetune-vqa{name}.csv")
        assert len(rows) == count and all(float(row[column]) > 0 for row in rows)


def test_dvc_draws_a_panel_per_pair_and_task(clone: Path, run: Any) -> None:
    """Scores of different metrics are no points of one line."""
    pairs = [("caption", "vqa"), ("caption", "grounding")]
    rows = [
        PointScore(
            first=pair[0], second=pair[1], alpha=alpha, task=task, metric=f"metric of {task}", value=0.5,
            low=0.4, high=0.6, n=8,
        )
        for pair in pairs for alpha in (0.0, 0.5, 1.0) for task in pair
    ]  # fmt: skip
    tables.write(clone / "reports/metrics/interpolation.csv", PointScore, rows)
    found, values = drawn(run, "reports/metrics/interpolation.csv")
    assert len(values) == len(rows)
    (series,) = found["transform"]
    assert found["facet"]["field"] == series["as"] and found["resolve"]["scale"]["y"] == "independent"
    parts = [part.removeprefix("datum.") for part in series["calculate"].split(" + ") if "datum." in part]
    assert len({tuple(row[part] for part in parts) for row in values}) == 4
    assert {"first", "second", "task"} <= set(parts)
    assert (
        found["spec"]["encoding"]["x"]["field"] == "alpha"
        and found["spec"]["encoding"]["y"]["field"] == "value"
    )


def test_the_page_of_plots_needs_no_network(clone: Path, run: Any) -> None:
    """`make setup` puts the drawing code into the page; nothing in it is loaded from elsewhere."""
    pytest.importorskip("vl_convert")
    curves = clone / "reports/curves"
    logged(clone / "scratch").write(curves / "finetune-vqa.csv", clone / "scratch/finished")
    run("python", ".dvc/plots/page.py")
    run("dvc", "config", "--local", "plots.html_template", "plots.html")
    run("dvc", "plots", "show", "reports/curves/finetune-vqa.csv")
    page = (clone / "dvc_plots/index.html").read_text()
    assert "train/loss" in page and "window.vegaEmbed=" in page
    assert "<script src" not in page and "<link" not in page


def test_dvc_shows_choices_and_scores_alone(clone: Path, run: Any) -> None:
    """Hashes, seconds, run ids and the values of resolved files are no columns of its tables."""
    for name in ("metrics/scores", "metrics/tasks", "runs/evaluate", "summary"):
        files.write_json(
            clone / f"reports/{name}.json", {"vqa": {"expert": 0.5, "interval": {"expert": [0, 1]}}}
        )
    shown = json.loads(run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert shown == {"reports/metrics/scores.json": {"data": {"vqa": {"expert": 0.5}}}}
    run("dvc", "repro", "compose")
    assert list(json.loads(run("dvc", "params", "diff", "--all", "--json").stdout)) == ["params.yaml"]
