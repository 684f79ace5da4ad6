"""The ablations as a stage."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unival import config as configuration
from unival import files
from unival.engine.settings import TrainConfig
from unival.errors import UserError
from unival.stages import ablate, base, finetune, pretrain
from unival.study import benchmark, card, cells, model_rows, models, row_scores, train, variants
from unival.study.tables import Conflict
from unival.study.variants import Laboratory, Study, Variant
from unival.tasks import TaskConfig
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
    monkeypatch.setattr(model_rows, "log_examples", lambda *_: None)
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


def test_a_variant_of_another_size(tmp_path: Path) -> None:
    """`model` is laid on the study's, strictly, before anything runs; it makes another variant."""
    values = configuration.load(ROOT / "build/config/ablate.yaml")
    over = {"narrow": {}, "wide": {"d_model": 32, "image_encoder": {"width": 8}}, "wrong": {"d_mdoel": 32}}

    def lab(name: str) -> Laboratory:
        phases = [{"mixture": {"rows": 2, "streams": [{"task": "caption", "rows": 2}]}}]
        study = Study("?", [], name, {name: Variant(phases, model=over[name])})
        rows: Any = SimpleNamespace(has=lambda *_: True, digest=str, facts={"splits": {}}, tokenizer="")
        tasks = {"caption": configuration.build(TaskConfig, values["tasks"]["caption"], "task")}
        model, settings = values["model"], values["train"]
        return Laboratory(tmp_path, rows, tasks, {"study": study}, [0], model, {}, settings, "test", 4, 1, 1)

    assert lab("wide")._model(lab("wide").definitions["study"], "wide") == {
        **values["model"], "d_model": 32, "image_encoder": {**values["model"]["image_encoder"], "width": 8},
    }  # fmt: skip
    assert lab("wide").key("study", "wide", 0) != lab("narrow").key("study", "narrow", 0)
    with pytest.raises(UserError, match=r"variant 'wrong': model: unknown field 'd_mdoel'.*d_model"):
        lab("wrong")
    with pytest.raises(ValueError, match="model is for new weights, and init names the model models/a"):
        Variant([], "models/a", {"d_model": 32})


def test_cosines_of_the_gradients_stand_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps go on from phase to phase; a lost file is made again by training that variant alone."""
    trained = list[Path]()
    line = {"module": "all", "first": "caption", "second": "vqa", "cosine": 0.5, "norm_first": 1.0}

    def train_on(*values: Any) -> None:
        trained.append(values[5])
        found = [{"step": step, **line, "norm_second": 2.0} for step in (0, 4)]
        files.write_json(values[5] / "training.json", {"conflict": found})

    monkeypatch.setattr(train, "train_on", train_on)
    for name in ("new_model", "load_model"):
        monkeypatch.setattr(models, name, lambda *_: (None, None))
    monkeypatch.setattr(cells.Cells, "run", lambda *_: [])
    values = configuration.load(ROOT / "build/config/ablate.yaml")
    values["train"] |= {"steps": 4, "mixture": {"rows": 2, "streams": [{"task": "caption", "rows": 2}]}}
    study = Study("?", [], "two", {"two": Variant([{}, {}])})
    tasks = {"caption": configuration.build(TaskConfig, values["tasks"]["caption"], "task")}
    rows: Any = SimpleNamespace(has=lambda *_: True, digest=str, facts={"splits": {}}, tokenizer="")
    lab = Laboratory(tmp_path, rows, tasks, {"s": study}, [0], {}, {}, values["train"], "test", 4, 1, 1)
    for _ in range(2):
        lab.results("s", "two", 0)
    assert [row.step for row in lab.conflict("s", "two", 0)] == [0, 4, 4, 8] and len(trained) == 2
    (tmp_path / lab.key("s", "two", 0) / variants.COSINES).unlink()
    lab.results("s", "two", 0)
    assert len(list(lab.conflict("s", "two", 0))) == 4 and len(trained) == 4


class Logged(Tracker):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.children: dict[str, Any] = {}
        self.own: dict[str, float] = {}

    def child(self, name: str, tags: Any, metrics: Any, curves: Any = None) -> None:
        self.children[name] = (metrics, curves)

    def metrics(self, values: Any, step: int = 0) -> None:
        assert not self.own.keys() & values, "MLflow would keep the first seed's"
        self.own |= values


def test_each_seed_of_a_variant_has_its_scores_and_cosines() -> None:
    """In a run of its own; the stage's run has the means."""

    def of_seed(seed: int) -> tuple[Any, list[Conflict]]:
        value = SimpleNamespace(value=seed / 2, low=0.0, high=1.0)
        line = Conflict(study="s", variant="v", seed=seed, step=0, module="all", first="a", second="b",
                        cosine=seed / 4, norm_first=1.0, norm_second=1.0)  # fmt: skip
        return {"vqa": SimpleNamespace(primary="accuracy", value=value)}, [line, replace(line, step=5)]

    found, tracker = {("v", seed): of_seed(seed) for seed in (0, 1)}, Logged()
    results = {one: scores for one, (scores, _) in found.items()}
    ablate._log("s", results, {one: lines for one, (_, lines) in found.items()}, tracker)
    for seed in (0, 1):
        metrics, curves = tracker.children[f"s: v (seed {seed})"]
        assert metrics["vqa/accuracy"] == seed / 2
        assert curves == {step: {"conflict/all/a/b": seed / 4} for step in (0, 5)}
    assert tracker.own == {"summary/s/v/vqa": 0.25}


def test_no_study_has_the_name_of_the_table() -> None:
    study = Study("?", [], "a", {"a": Variant([{}])})
    with pytest.raises(ValueError, match="'conflict' is the name of another table"):
        ablate.Config("ablate", None, "data", {}, {}, {}, [], {"conflict": study}, {}, [0], 10)


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    files.write_json(tmp_path / "benchmark.json", {"splits": {"val": {}, "test": {}}})
    with pytest.raises(UserError, match=r"benchmark\.json: no split 'validation': "):
        benchmark.Benchmark(tmp_path, {}).digest("validation")
