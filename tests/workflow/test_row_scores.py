"""The table of scores by row."""

from pathlib import Path

import numpy as np
import pytest

from unival.errors import UserError
from unival.metrics.bootstrap import Interval
from unival.study import row_scores
from unival.study.cells import CellSpec, Result


def result(split: str, scores: list[float], shift: str = "", severity: int = 0) -> Result:
    spec = CellSpec("finetune/vqa", "finetuned", "vqa", split, None, shift, severity)
    ids = [f"r{row}" for row in range(len(scores))]
    media = [f"image={row // 2}" for row in range(len(scores))]
    value = Interval(0.5, 0.0, 1.0)
    return Result(spec, "accuracy", {"accuracy": value}, len(ids), np.array(scores), ids, media, {}, Path())


def test_every_row_keeps_its_score_in_all_digits(tmp_path: Path) -> None:
    exact = [1 / 3, 0.1 + 0.2, 0.0]
    written = [("finetune/vqa", result("test", exact)), ("a-b@0.5", result("test", [1.0], "blur", 3))]
    row_scores.write(tmp_path / "rows.parquet", written)
    table = row_scores.read(tmp_path / "rows.parquet")
    assert table["score"].tolist() == [*exact, 1.0]
    assert table["split"].tolist() == ["test"] * 3 + ["test-blur-3"]
    assert table["model"].tolist()[-1] == "a-b@0.5"
    assert table["medium"].tolist() == ["image=0", "image=0", "image=1", "image=0"]


def test_a_study_without_models_has_an_empty_table(tmp_path: Path) -> None:
    row_scores.write(tmp_path / "rows.parquet", [])
    assert row_scores.read(tmp_path / "rows.parquet").empty


@pytest.mark.fault
def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    for content in (b"", b"PAR1", b"text"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a table of rows"):
            row_scores.read(path)
