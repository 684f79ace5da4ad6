"""The paper's recipes: every one composes, holds the published values, and trains at full size."""

import contextlib
import dataclasses
import math
import shutil
from functools import cache
from pathlib import Path

import pytest
import yaml

from unival import compose, config
from unival.stages import module

ROOT = Path(__file__).parents[2]
RUNS = sorted(path.stem for path in (ROOT / "conf/experiment/paper").glob("*.yaml"))
# name -> learning rate, warm-up, rows a step, micro-batches of a step, epochs, rows of an epoch (reference
# 2.1, 2.2, 3.1, 3.9); batch norms of the original saw the micro-batch of one GPU
VALUES = {
    "s1": (2e-4, 0.01, 1536, 256, 15, 5.12e6 * 3),
    "s2": (1e-4, 0.01, 2048, 256, 8, 11.52e6 * 2),
    "hs": (5e-5, 0.01, 2048, 256, 1, 11.52e6 * 2),
    "coco_caption": (1e-5, 0.06, 128, 8, 10, 566_435),
    "vqav2": (1e-4, 0.04, 256, 16, 20, 648_111),
    "refcoco": (5e-5, 0.06, 256, 32, 10, 120_624),
    "snli_ve": (5e-5, 0.06, 256, 32, 10, 529_527),
    "msrvtt_caption": (1e-5, 0.06, 256, 16, 20, 6_513 * 20),
    "activitynet_caption": (3e-5, 0.06, 256, 16, 25, 37_500),
    "msrvtt_qa": (1e-4, 0.04, 128, 16, 35, 158_581),
    "msvd_qa": (1e-4, 0.04, 128, 16, 40, 30_933),
    "audiocaps": (1e-4, 0.06, 128, 16, 25, 49_838),
    "clotho": (5e-5, 0.06, 128, 8, 25, 2_893 * 5),
    "linear_caption": (5e-4, 0.06, 128, 8, 25, 566_435),
    "linear_vqa": (5e-4, 0.04, 256, 16, 25, 648_111),
    "linear_audiocaps": (5e-4, 0.06, 128, 16, 25, 49_838),
    "linear_msrvtt_caption": (1e-3, 0.06, 256, 16, 25, 6_513 * 20),
    "linear_msrvtt_qa": (1e-4, 0.04, 128, 16, 40, 158_581),
}
PRETRAINING = ("s1", "s2", "hs")


@cache
def resolved(name, folder=ROOT):
    """Stage and resolved values of an experiment of the project in a folder."""
    with contextlib.chdir(folder):
        tree = compose.compose(compose.read_params(), [f"+experiment=paper/{name}"])
        stage, item = str(tree.stage_name), str(tree.item)
        return stage, compose.resolve(tree, stage, item)


def composed(name):
    """The stage's configuration of an experiment."""
    stage, values = resolved(name)
    return config.build(module(stage).Config, values, name)


def test_every_run_has_its_values():
    assert set(VALUES) == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_composes_with_the_published_values(name):
    run = composed(name)
    train = run.train
    rate, warmup, rows, parts, epochs, size = VALUES[name]
    assert (train.optimizer.lr, train.optimizer.warmup) == (rate, warmup)
    assert (train.mixture.rows, train.accumulate) == (rows, parts)
    assert math.isclose(train.steps, epochs * size / rows, rel_tol=2e-3)
    optimizer = train.optimizer
    assert (optimizer.name, optimizer.betas, optimizer.eps) == ("adamw", (0.9, 0.999), 1e-8)
    assert (optimizer.weight_decay, optimizer.schedule, optimizer.power) == (0.01, "polynomial", 1.0)
    assert optimizer.clip == (5.0 if name in PRETRAINING else 1.0)
    # embeddings are frozen but for grounding, entailment and pretraining (docs/reference.md 3.0)
    assert train.freeze == ([] if name in (*PRETRAINING, "refcoco", "snli_ve") else ["shared"])
    assert train.ema == (
        0.9999 if name.removeprefix("linear_") in ("vqav2", "vqa", "msrvtt_qa", "msvd_qa") else 0
    )
    assert train.precision == "bfloat16"


@pytest.mark.parametrize("name", RUNS)
def test_examples_are_the_published_ones(name):
    """Both examples of a row in pretraining; texts and decoding of reference 2.2 and 3.2."""
    run = composed(name)
    assert run.train.examples == ("pretraining" if name in PRETRAINING else "finetuning")
    for task in run.tasks.values():
        assert task.max_words == 80
        if name in PRETRAINING:
            assert task.pair_prompt
        if task.kind == "captioning":
            assert task.max_target_words == (30 if name in PRETRAINING else 20)
        if task.kind == "captioning" and name not in PRETRAINING:
            decode = task.decode
            assert (decode.beams, decode.max_tokens, decode.no_repeat_ngram) == (5, 22, 3)


def test_the_edition_finetunes_as_the_runs_do():
    with contextlib.chdir(ROOT):
        tree = compose.compose(compose.read_params(), ["edition=paper", "model=base"])
        same = {"caption": "coco_caption", "vqa": "vqav2", "grounding": "refcoco", "entailment": "snli_ve"}
        same |= {"video_caption": "msrvtt_caption", "video_qa": "msrvtt_qa", "audio_caption": "audiocaps"}
        found = {item: compose.resolve(tree, "finetune", item) for item in same}
    for item, name in same.items():
        run, expected = config.build(module("finetune").Config, found[item], item), composed(name)
        for part in ("optimizer", "loss", "mixture", "accumulate", "ema", "freeze", "precision", "augment"):
            assert getattr(run.train, part) == getattr(expected.train, part), (item, part)
        task, other = run.tasks[item], expected.tasks[item]
        assert (task.decode, task.max_target_words) == (other.decode, other.max_target_words), item
        assert task.prompt_type == other.prompt_type


@pytest.fixture(scope="module")
def another_study(tmp_path_factory):
    """The project with another choice in params.yaml, and other values in the phases of the small study."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", folder / "conf")
    params = (ROOT / "params.yaml").read_text()
    for line in ("edition: quick", "model: tiny"):
        assert line in params
    (folder / "params.yaml").write_text(
        params.replace("edition: quick", "edition: smoke").replace("model: tiny", "model: small")
    )
    for path in (folder / "conf/phase").glob("*.yaml"):
        values = config.load(path)
        values |= {"steps": 7, "accumulate": 7, "checkpoint_every": 7, "log_every": 7}
        values["loss"]["smoothing"] = 0.7
        values["optimizer"] |= {"name": "sgd", "lr": 7.0, "betas": [0.7, 0.7], "clip": 7.0, "warmup": 0.7}
        values["optimizer"]["weight_decay"] = 0.7
        path.write_text(yaml.safe_dump(values))
    return folder


FEW = ("s1", "s2", "vqav2", "audiocaps")


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_nothing_comes_from_the_small_study(name, another_study):
    assert resolved(name, another_study) == resolved(name)


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    """A prepared benchmark with rows of every task, of CC12M too."""
    from unival.data.catalog import source_of
    from unival.data.prepare import PrepareConfig, prepare

    values = config.load(ROOT / "conf/benchmark/world.yaml")
    few = {"images": 24, "videos": 12, "sounds": 12}
    values["options"] |= {
        "size": "smoke",
        "sizes": {
            "smoke": {
                "pretrain": {"images": 24, "videos": 12},
                **dict.fromkeys(("train", "val", "test", "shift"), few),
            }
        },
    }
    values.pop("set", None)
    out = tmp_path_factory.mktemp("world")
    settings = config.build(PrepareConfig, values, "world")
    prepare(settings, source_of(settings), out)
    shutil.copy(out / "train/caption.parquet", out / "train/cc12m.parquet")
    return out


def few_rows(train):
    """Two steps on a row or more of each task; of full size is everything else."""
    main = train.mixture.streams[0].rows
    streams = [
        dataclasses.replace(s, rows=max(1, s.rows // main)) if s.rows else dataclasses.replace(s, every=1)
        for s in train.mixture.streams
    ]
    rows = sum(s.rows for s in streams)
    return dataclasses.replace(
        train, steps=2, mixture=dataclasses.replace(train.mixture, streams=streams, rows=rows),
        accumulate=min(train.accumulate, rows), selection=None, log_every=1, precision="float32",
    )  # fmt: skip


def test_a_task_without_pretraining_rows_takes_those_of_train(small_world):
    from unival.study.benchmark import Benchmark
    from unival.study.models import new_model
    from unival.tasks import TaskConfig

    tasks = {
        name: config.build(TaskConfig, config.load(ROOT / f"conf/task/{name}.yaml"), name)
        for name in ("caption", "vqa", "audio_caption")
    }
    benchmark, tiny = Benchmark(small_world, tasks), config.load(ROOT / "conf/model/tiny.yaml")
    _, processor = new_model(tiny["config"], tiny["processor"], benchmark.tokenizer, seed=0)
    for split, wanted in (("pretrain", ["pretrain", "pretrain", "train"]), ("train", ["train"] * 3)):
        assert [benchmark.trained_on(split, name) for name in tasks] == wanted
        rows = benchmark.training_rows(tasks, processor, split=split)
        for (name, found), source in zip(rows.items(), wanted, strict=True):
            stored = benchmark.split(source)
            assert found.store is stored.store and found.digest == benchmark.digest(source)
            assert [r.id for r in found.records] == [r.id for r in stored.records(name)]
    noisy, clean = (
        benchmark.training_rows(tasks, processor, split=s)["vqa"].task for s in ("pretrain", "train")
    )
    assert set(noisy.pool.by_form) < set(clean.pool.by_form)  # answers are those of its own rows


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_steps_at_full_size(name, tmp_path, small_world):
    from unival.engine.machine.runtime import Runtime
    from unival.engine.train import train
    from unival.study.benchmark import Benchmark
    from unival.study.models import new_model

    run = composed(name)
    base = config.load(ROOT / "conf/model/base.yaml")
    benchmark = Benchmark(small_world, run.tasks)
    processor = {**base["processor"], **run.processor}
    model, processor = new_model(base["config"], processor, benchmark.tokenizer, seed=0)
    sources = benchmark.training_rows(run.tasks, processor, run.train.loss.constrained, run.train.split)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if "projection" in key}
    result = train(
        few_rows(run.train), model, processor, sources, tmp_path / "out", tmp_path / "scratch",
        Runtime(device="cpu"),
    )  # fmt: skip
    assert result.steps == 2
    moved = [key for key, tensor in before.items() if not tensor.equal(model.state_dict()[key])]
    assert moved
