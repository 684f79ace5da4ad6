"""What is remembered between runs: it knows its code, and what is damaged is made again."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unival import code, files
from unival.merging import collect, search
from unival.metrics.bootstrap import Interval
from unival.study import cells, coefficients, models
from unival.study.variants import Laboratory, Study, Variant
from unival.tasks import TaskConfig
from unival.tracking import Tracker

DEEP = "[" * 100_000
DAMAGE = ["", "{}", "[]", "null", "5", '"text"', '{"digest": 3}', "\xff", DEEP]


@pytest.fixture
def computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every cell that is computed."""
    found: list[int] = []

    def evaluate(*_: Any, **__: Any) -> Any:
        found.append(1)
        value = Interval(0.5, 0.25, 0.75)
        scores = {"accuracy": np.array([0.0, 1.0])}
        return SimpleNamespace(
            primary="accuracy",
            n=2,
            metrics={"accuracy": value},
            scores=scores,
            ids=["1", "2"],
            predictions=[],
        )

    monkeypatch.setattr(cells, "evaluate_cell", evaluate)
    monkeypatch.setattr(cells, "media_of", lambda rows: ["a", "b"])
    monkeypatch.setattr(cells, "write_predictions", lambda path, *_: files.write_text(path, '{"id": "a"}\n'))
    return found


def result(tmp_path: Path) -> cells.Result:
    benchmark: Any = SimpleNamespace(
        digest=lambda name: name, rows_of=lambda *words: SimpleNamespace(records=[])
    )
    config = TaskConfig("captioning", "image", "describe", "cider")
    store = cells.Cells(tmp_path / "cells", benchmark, {"caption": config}, 4, 10)
    spec = cells.CellSpec("finetune/caption", "finetuned", "caption", "test", 2)
    return store.run([spec], ["weights"], lambda: (None, None))[0]


def test_a_cell_is_computed_once(tmp_path: Path, computed: list[int]) -> None:
    first, second = result(tmp_path), result(tmp_path)
    assert len(computed) == 1
    assert first.value == second.value == Interval(0.5, 0.25, 0.75)
    assert first.scores.tolist() == second.scores.tolist()
    assert (first.ids, first.media) == (second.ids, second.media)


@pytest.mark.fault
@pytest.mark.parametrize("damage", [*DAMAGE, "digit", "cut", "no predictions", "other predictions"])
def test_a_damaged_cell_is_computed_again(tmp_path: Path, computed: list[int], damage: str) -> None:
    undisturbed = result(tmp_path)
    (path,) = (tmp_path / "cells").glob("*.json")
    whole = path.read_bytes()
    if damage == "digit":
        path.write_bytes(whole.replace(b"0.25", b"0.26"))
    elif damage == "cut":
        path.write_bytes(whole[:-20])
    elif damage == "no predictions":
        path.with_suffix(".jsonl").unlink()
    elif damage == "other predictions":
        path.with_suffix(".jsonl").write_text('{"id": "b"}\n')
    else:
        path.write_bytes(damage.encode("latin-1"))
    again = result(tmp_path)
    assert len(computed) == 2
    assert again.metrics == undisturbed.metrics and path.read_bytes() == whole
    assert again.predictions.read_text() == '{"id": "a"}\n'


def test_a_cell_of_other_code_is_another_cell(
    tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    result(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(code, "digest", lambda *modules: "changed")
        result(tmp_path)
        assert len(computed) == 2
    result(tmp_path)
    assert len(computed) == 2, "what the code before had computed is there"


def test_what_other_kernels_computed_is_not_taken_over(
    tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or `unival kernels` would compare variants with themselves."""

    def keys() -> list[Any]:
        study = Study("?", [], "a", {"a": Variant([{}])})
        lab: Any = SimpleNamespace(
            definitions={"study": study}, _phases=lambda *_: [], _model=lambda *_: {}, split="test",
            tasks={}, train={}, processor={}, benchmark=SimpleNamespace(facts={"splits": {}}),
        )  # fmt: skip
        return [Laboratory.key(lab, "study", "a", 0), coefficients._made_by()]

    result(tmp_path)
    before = keys()
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX")
        assert all(here != there for here, there in zip(before, keys(), strict=True))
        result(tmp_path)
        assert len(computed) == 2
    assert keys() == before


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package whose files may be changed."""
    folder = tmp_path / "unival"
    shutil.copytree(code.SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "SOURCE", folder)
    yield folder
    code.digest.cache_clear()


def digests() -> dict[str, str]:
    code.digest.cache_clear()
    return {
        "cells": code.digest("unival.study.cells", "unival.study.models"),
        "variants": code.digest("unival.study.variants"),
        "searches": code.digest("unival.study.coefficients"),
        "interpolation": code.digest("unival.merging.live"),
    }


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("metrics/vqa.py", {"cells", "variants", "searches"}),
        ("tasks/question_answering.py", {"cells", "variants", "searches"}),
        ("model/encoder.py", {"cells", "variants", "searches"}),
        ("data/shifts.py", {"cells", "variants"}),
        ("engine/objective.py", {"variants"}),
        ("merging/methods/sparse.py", {"searches", "interpolation"}),
        ("report/page.py", set()),
        ("tracking/tracker.py", set()),
        ("cli.py", set()),
    ],
)
def test_what_a_change_of_code_makes_stale(source: Path, file: str, stale: set[str]) -> None:
    before, whole = digests(), (source / file).read_text()
    (source / file).write_text(f"{whole}\n\nCHANGED = True\n")
    after = digests()
    assert stale <= {name for name in before if before[name] != after[name]}
    if not stale:
        assert after == before
    (source / file).write_text(whole)
    assert digests() == before


def score(calls: list[Any], cache: Path) -> float:
    objective = search.Objective(lambda point: calls.append(point) or point["x"], "val", cache=cache)
    return search.grid(objective, {"x": [1.0, 2.0]})[1]


@pytest.mark.fault
@pytest.mark.parametrize("damage", [*DAMAGE, "digit"])
def test_a_damaged_memory_of_searches_is_none(tmp_path: Path, damage: str) -> None:
    cache, calls = tmp_path / "searches.json", []  # type: Path, list[Any]
    score(calls, cache)
    whole = cache.read_bytes()
    changed = whole.replace(b"1.0", b"7.0") if damage == "digit" else damage.encode("latin-1")
    cache.write_bytes(changed)
    assert score(calls, cache) == 2.0 and len(calls) == 4
    assert cache.read_bytes() == whole


def test_searches_side_by_side_forget_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "searches.json"
    one, two = (search.Objective(lambda point: 1.0, "val", name, cache=cache) for name in ("one", "two"))
    one({"x": 1})
    two({"x": 1})
    assert len(json.loads(cache.read_text())["scores"]) == 2


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["", "bit", "cut", "gone", "seal"])
def test_damaged_statistics_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    made = []
    model = SimpleNamespace(eval=lambda: None)
    monkeypatch.setattr(coefficients, "_weights_digest", lambda folder: "weights")
    monkeypatch.setattr(coefficients, "_batches", lambda *words: [])
    monkeypatch.setattr(models, "load_model", lambda folder: (model, None))
    monkeypatch.setattr(collect, "fisher", lambda *words: made.append(1) or {"layer": torch.ones(8)})
    source = SimpleNamespace(records=[1, 2])
    benchmark: Any = SimpleNamespace(
        digest=lambda name: name, training_rows=lambda *words: {"caption": source}
    )
    task = TaskConfig("captioning", "image", "describe", "cider")
    fit = coefficients.Fit(tmp_path, tmp_path, {"caption": task}, benchmark, tmp_path, Tracker())

    path = fit.statistics("fisher", "caption", tmp_path, 2)
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "seal":
        path.with_suffix(".json").write_text("[]")
    elif damage:
        path.write_bytes(whole[:-1] + (b"\xff" if damage == "bit" else b""))
    assert fit.statistics("fisher", "caption", tmp_path, 2).read_bytes() == whole
    assert len(made) == (2 if damage else 1)
