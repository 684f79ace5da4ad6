"""The ablations as a stage."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unival import config as configuration
from unival import files
from unival.engine.settings import TrainConfig
from unival.errors import UserError
from unival.stages import ablate, base, finetune, pretrain
from unival.study import benchmark, card, models, row_scores, train
from unival.study.variants import Laboratory, Study, Variant
from unival.tracking import Tracker

ROOT = Path(__file__).parents[2]


def test_no_study_leaves_tables_of_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`studies: []` is how a person goes without ablations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    splits = {"train": {"digest": "a"}, "test": {"digest": "b"}}
    files.write_json(tmp_path / "data/benchmark.json", {"splits": splits})
    config = ablate.Config("ablate", None, "data", {}, {}, {}, [], {}, {}, [0], 10)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ablate.run(config, base.StageIO("ablate", None, {}, scratch, scratch, tmp_path, Tracker()))
    (rows,) = (tmp_path / "reports/ablations").iterdir()
    assert row_scores.read(rows).empty


def test_a_variant_without_phases_is_the_model_it_starts_from(tmp_path: Path) -> None:
    study = Study("?", ["vqa"], "start", {"start": Variant([], "models/start")})
    values: Any = {"mixture": {"streams": []}}
    lab = Laboratory(tmp_path, Rows(), {}, {}, [], {}, {}, values, "test", 4, 1, 1)  # type: ignore[arg-type]
    assert lab._train(study, "start", 0, "key") == Path("models/start")
    with pytest.raises(ValueError, match="phases is empty and init names no model"):
        Variant([])


class Rows:
    """Stands in for a benchmark; notes what training asks of it."""

    tokenizer, asked = Path("tokenizer"), list[Any]()

    def __init__(self, *_: Any) -> None:
        pass

    def has(self, split: str, task: str) -> bool:
        return True

    def trained_on(self, split: str, task: str) -> str:
        return split

    def digest(self, split: str) -> str:
        return split

    def log(self, *_: Any) -> None:
        pass

    def training_rows(self, tasks: Any, processor: Any, constrained: bool, split: str) -> dict[str, Any]:
        self.asked.append(("constrained", constrained))
        return dict.fromkeys(tasks)


def test_all_trainings_heed_loss_and_selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretraining, finetuning and a variant of an ablation read the same settings in the same way."""

    def trained(settings: Any, model: Any, processor: Any, data: Any, out: Path, *rest: Any) -> None:
        asked.append(("selects by", rest[3]))
        files.write_json(out / "training.json", {"steps": 1, "score": None})

    asked = Rows.asked
    monkeypatch.setattr(train, "train", trained)
    monkeypatch.setattr(train, "load_runtime", lambda: None)
    monkeypatch.setattr(train, "validation", lambda *rest: rest[-1].split)
    monkeypatch.setattr(benchmark, "Benchmark", Rows)
    monkeypatch.setattr(card, "write_trained", lambda *_: None)
    for name in ("new_model", "load_model"):
        monkeypatch.setattr(models, name, lambda *_: (None, None))
    values = configuration.load(ROOT / "build/config/ablate.yaml")["train"]
    stream = {"task": "vqa", "rows": 8}
    values["mixture"] |= {"rows": 8, "streams": [stream]}
    values |= {
        "examples": "finetuning",
        "loss": {**values["loss"], "constrained": True},
        "selection": {"split": "val", "every": 1, "rows": 4},
    }
    settings = configuration.build(TrainConfig, values, "train")
    tasks: Any = {"vqa": SimpleNamespace(rows=None)}

    def io(name: str) -> base.StageIO:
        scratch = tmp_path / name
        scratch.mkdir()
        return base.StageIO(name, None, {}, scratch, scratch, tmp_path, Tracker())

    pretrain.run(pretrain.Config("", "a", "", None, {}, {}, settings, tasks), io("pretrain"))
    finetune.run(finetune.Config("", "vqa", "", "start", settings, tasks), io("finetune"))
    study = Study("?", ["vqa"], "one", {"one": Variant([{}])})
    monkeypatch.setattr(Laboratory, "__post_init__", lambda self: None)
    rows: Any = Rows()
    lab = Laboratory(tmp_path / "lab", rows, tasks, {"study": study}, [0], {}, {}, values, "test", 4, 1, 1)
    lab._train(study, "one", 0, "key")
    assert asked == [("constrained", True), ("selects by", "val")] * 3


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    files.write_json(tmp_path / "benchmark.json", {"splits": {"val": {}, "test": {}}})
    with pytest.raises(UserError, match=r"benchmark\.json: no split 'validation': "):
        benchmark.Benchmark(tmp_path, {}).digest("validation")
