"""Files of results: what is written is read again, and what is not what it should be is named."""

import csv
import json
import types
import typing
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import pytest

from tests.report import made
from unival import files
from unival.engine.inference import predictions
from unival.errors import UserError
from unival.metrics.bootstrap import Interval
from unival.report import summary
from unival.study import tables
from unival.study.tables import TaskScore

DOCUMENTED = (Path(__file__).parents[2] / "docs/summary.md").read_text(encoding="utf-8")
TABLES = {
    tables.CellScore: "metrics/cells.csv",
    tables.PointScore: "metrics/interpolation.csv",
    tables.Comparison: "metrics/comparisons.csv",
    tables.Standing: "metrics/leaderboard.csv",
    tables.PairScore: "metrics/pairs.csv",
    tables.Front: "metrics/fronts.csv",
    tables.Subset: "metrics/subsets.csv",
    tables.Angle: "metrics/geometry.csv",
    tables.Ablation: "ablations/video.csv",
    tables.Conflict: "ablations/conflict.csv",
}
every_table = pytest.mark.parametrize(("cls", "name"), TABLES.items(), ids=TABLES.values())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The files of a study."""
    root = tmp_path_factory.mktemp("study")
    made.write_data(root / "data")
    made.write_results(root, root / "data")
    return root / "reports"


def example(hint, full):
    """A value of a type; with `full`, none of those that may be left out is."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if types.NoneType in kinds and not full:
        return None
    if typing.get_origin(kinds[0]) is typing.Literal:
        return typing.get_args(kinds[0])[0]
    known = {Interval: Interval(0.1, -1.5, 1e-7), float: 0.1 + 0.2, int: 3, bool: False, str: 'a "b", c\nd'}
    return known[kinds[0]]


def lines(path):
    with path.open(newline="") as handle:
        return list(csv.reader(handle))


def rewritten(path, rows):
    with path.open("w", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows(rows)
    return path


@every_table
def test_what_is_written_is_read_again(cls, name, tmp_path):
    """Values of every type, what may be missing, texts with quotes and lines; and a table without rows."""
    hints = typing.get_type_hints(cls)
    rows = [cls(**{key: example(hint, full) for key, hint in hints.items()}) for full in (True, False)]
    tables.write(tmp_path / "table.csv", cls, rows)
    assert tables.read(tmp_path / "table.csv", cls) == rows
    tables.write(tmp_path / "empty.csv", cls, [])
    assert lines(tmp_path / "empty.csv") == lines(tmp_path / "table.csv")[:1]
    assert tables.read(tmp_path / "empty.csv", cls) == []


@every_table
def test_columns_of_results_do_not_change(cls, name, study, tmp_path):
    """Names and order of the columns, and every figure, are those of files that were written before."""
    tables.write(tmp_path / "again.csv", cls, tables.read(study / name, cls))
    old, new = lines(study / name), lines(tmp_path / "again.csv")
    assert new[0] == old[0] and len(new) == len(old) > 1
    for line, other in zip(old[1:], new[1:], strict=True):
        for cell, same in zip(line, other, strict=True):
            assert cell == same or float(cell) == float(same)


@every_table
@pytest.mark.fault
def test_a_damaged_cell_is_named(cls, name, study, tmp_path):
    """File, line, column and value: in every column that is no text, for what is no value of it."""
    rows = lines(study / name)
    texts = {field.name for field in fields(cls) if field.type is str}
    for place, column in enumerate(rows[0]):
        for value in () if column in texts else ("much", "nan", "inf", "1e999", "0x1", "1;5"):
            damaged = [*rows[:-1], [*rows[-1][:place], value, *rows[-1][place + 1 :]]]
            path = rewritten(tmp_path / "damaged.csv", damaged)
            with pytest.raises(UserError) as error:
                tables.read(path, cls)
            assert str(error.value).startswith(f"{path}: line {len(rows)}: {column}: ")
            assert value in str(error.value) and "\n" not in str(error.value)


@every_table
@pytest.mark.fault
def test_a_foreign_table_is_named(cls, name, study, tmp_path):
    """A column that is missing, unknown or there twice; a line that is cut; no table at all."""
    rows = lines(study / name)
    path = tmp_path / "foreign.csv"
    for place, column in enumerate(rows[0]):
        rewritten(path, [[*row[:place], *row[place + 1 :]] for row in rows])
        with pytest.raises(UserError, match=rf"foreign\.csv: line 1: {column}: no such column"):
            tables.read(path, cls)
    rewritten(path, [[*row, row[0]] for row in rows])
    with pytest.raises(UserError, match=f"line 1: {rows[0][0]}: more than one such column"):
        tables.read(path, cls)
    rewritten(path, [[*row, "1" if number else "novel"] for number, row in enumerate(rows)])
    with pytest.raises(UserError, match="line 1: novel: an unknown column"):
        tables.read(path, cls)
    rewritten(path, [*rows, rows[-1][:-1]])
    with pytest.raises(UserError, match=f"line {len(rows) + 1}: {len(rows[0]) - 1} cells"):
        tables.read(path, cls)
    for content in (b"", b"\xff\xfe\x00", b'model,"part'):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"foreign\.csv"):
            tables.read(path, cls)


@pytest.mark.fault
def test_a_damaged_value_of_a_json_file_is_named(study, tmp_path):
    """Of `tasks.json` and of the record of a run: another type, a key too many or too few, no number."""
    readers = {
        "metrics/tasks.json": lambda path: tables.read_entries(path, TaskScore),
        "runs/merge.json": lambda path: tables.read_json(path, tables.Run),
    }
    for name, read in readers.items():
        content = json.loads((study / name).read_text())
        entry = content.get("vqa", content)
        good = dict(entry)
        for key in good:
            for change in ({key: [None]}, {"novel": 1}, {key: float("nan")}):
                entry.clear()
                entry.update(good | change)
                path = tmp_path / "damaged.json"
                path.write_text(json.dumps(content))
                with pytest.raises(UserError, match=r"damaged\.json: .*dvc repro"):
                    read(path)
            entry.clear()
            entry.update({other: value for other, value in good.items() if other != key})
            path.write_text(json.dumps(content))
            if key in ("machine", "code"):  # earlier runs have none
                assert getattr(read(path), key) == {}
                continue
            with pytest.raises(UserError, match=f"missing key '{key}'"):
                read(path)
        entry.clear()
        entry.update(good)
        files.write_json(path, content)
        read(path)


@pytest.mark.fault
def test_an_interval_has_three_figures(study, tmp_path):
    content = json.loads((study / "metrics/tasks.json").read_text())
    content["vqa"]["metrics"]["exact"] = [0.5, 0.4]
    files.write_json(tmp_path / "tasks.json", content)
    with pytest.raises(UserError, match=r"tasks\.json: vqa: metrics\.exact: expected 3 values"):
        tables.read_entries(tmp_path / "tasks.json", TaskScore)


def test_lines_of_predictions_are_read_as_they_were_written(study):
    """What a row lacks is left out of its line."""
    for path in (study / "predictions").rglob("*.jsonl"):
        written = [json.loads(line) for line in path.read_text().splitlines()]
        rows = predictions.read_written(path)
        assert [json.loads(row.to_json()) for row in rows] == [
            {key: value for key, value in line.items() if value or key in ("text", "prediction")}
            for line in written
        ]


def test_every_field_of_the_summary_is_documented():
    """Also those of nested parts."""
    for cls in vars(summary).values():
        if is_dataclass(cls) and cls.__module__ == summary.__name__:
            for field in fields(cls):
                assert f"`{field.name}`" in DOCUMENTED or f'"{field.name}"' in DOCUMENTED, field.name
    (row,) = tables.flat(tables.Ablation, [ablation()])
    assert all(f"`{column}`" in DOCUMENTED for column in row)


def ablation():
    """A line with everything."""
    hints = typing.get_type_hints(tables.Ablation)
    return tables.Ablation(**{name: example(hint, True) for name, hint in hints.items()})


def test_a_record_of_a_run_is_read_as_it_was_written(study):
    path = study / "runs/evaluate.json"
    assert asdict(tables.read_json(path, tables.Run)) == json.loads(path.read_text())
