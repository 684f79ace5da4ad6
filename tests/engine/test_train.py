"""The loop on a tiny model: it learns, logs, selects, and does not depend on how rows are dealt."""

import dataclasses
import gc
import json
import multiprocessing
import shutil
import time
import weakref

import pytest
import torch
from safetensors.torch import load_file

from unival.engine.batches import collate
from unival.engine.batches.collate import Collator
from unival.engine.batches.loader import Loader
from unival.engine.batches.mixture import Mixture, MixtureConfig, StreamConfig
from unival.engine.batches.sampler import Sampler
from unival.engine.checkpoint import Checkpoints
from unival.engine.inference.candidates import continuations
from unival.engine.machine.runtime import Runtime
from unival.engine.monitor import Monitor
from unival.engine.settings import LossConfig, OptimizerConfig, SelectionConfig
from unival.engine.train import Trainer, train
from unival.errors import UserError
from unival.model.modeling import UnivalForConditionalGeneration
from unival.tasks.folder import carried

from . import standins

CPU = Runtime(device="cpu")


class Recorder:
    """A callback that keeps what it is told."""

    def __init__(self):
        self.logs, self.calls = [], []

    def on_start(self, info):
        self.calls.append("start")

    def on_log(self, step, values):
        self.logs.append((step, values))

    def on_checkpoint(self, step, path):
        self.calls.append(f"checkpoint {step}")

    def on_end(self, result):
        self.calls.append("end")


def run(config, tmp_path, name="out", sizes=None, model=None, **options):
    """Train a fresh tiny model; returns its published weights."""
    data = standins.sources(**(sizes or {"image": 24, "video": 9}))
    model = model or standins.model()
    train(
        config,
        model,
        standins.Processor(),
        data,
        tmp_path / name,
        tmp_path / f"{name}-scratch",
        CPU,
        **options,
    )
    return load_file(tmp_path / name / "model.safetensors")


def same(first, second, relative=0.0):
    """Equal weights, within `relative` of each tensor's largest value."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if tensor.is_floating_point():
            limit = relative * float(tensor.abs().max())
            assert float((tensor - second[name]).abs().max()) <= limit, name


def test_learns_and_tells(tmp_path):
    recorder = Recorder()
    config = standins.config(
        {"image": 8, "video": 4}, steps=150, optimizer=OptimizerConfig(lr=0.03), log_every=10
    )
    run(config, tmp_path, callbacks=[recorder])
    first, last = recorder.logs[0][1], recorder.logs[-1][1]
    assert last["train/loss"] < 0.5 * first["train/loss"]
    assert {
        "train/loss/image",
        "train/loss/video",
        "train/grad_norm",
        "train/lr",
        "perf/data_wait",
    } <= last.keys()
    assert {"perf/tokens_per_second", "perf/examples_per_second", "perf/memory_mib"} <= last.keys()
    assert recorder.calls[0] == "start" and recorder.calls[-1] == "end" and "checkpoint 4" in recorder.calls
    summary = json.loads((tmp_path / "out/training.json").read_text())
    assert summary["media"] == ["audio", "image", "video"]  # the first from before
    assert summary["steps"] == 150 and summary["rows"] == {"image": 24, "video": 9}
    assert not list((tmp_path / "out-scratch/checkpoints").glob("step-*"))


def test_figures_are_those_of_the_steps_alone(tmp_path, monkeypatch):
    # a clock that moves by 1 in an update and by 1000 in a validation, which falls between two log lines
    now = [0.0]
    update = Trainer._update

    def timed_update(self, batches):
        now[0] += 1
        update(self, batches)

    def evaluate(model):
        now[0] += 1000
        return {"score": 0.0}

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Trainer, "_update", timed_update)
    recorder = Recorder()
    config = standins.config({"image": 4}, log_every=3, selection=SelectionConfig(every=4, rows=8))
    run(config, tmp_path, evaluate=evaluate, callbacks=[recorder])
    windows = [values for _, values in recorder.logs if "train/loss" in values]
    assert [values["perf/step_seconds"] for values in windows] == [1.0] * 4
    assert [values["perf/examples_per_second"] for values in windows] == [8.0] * 4


def test_a_slow_loader_is_told_once_and_lines_have_an_eta(capsys):
    def told(*waits):
        monitor = Monitor("train", 0, 100, [], shown=True)
        for number, wait in enumerate(waits, 1):
            monitor.log(10 * number, {"perf/data_wait": wait, "perf/step_seconds": 2.0})
        return capsys.readouterr().err

    slow = told(0.9, 0.5, 0.5)
    assert slow.count("the loader is the bottleneck: 50% of the time") == 1
    assert "train 10/100 data_wait 0.9 step_seconds 2 eta 03:00" in slow
    assert "bottleneck" not in told(0.9, 0.1, 0.2)  # it starts in the first window


def test_a_slow_source_is_told_of(tmp_path, monkeypatch, capsys):
    read = standins.Store.image
    monkeypatch.setattr(standins.Store, "image", lambda self, key: time.sleep(0.1) or read(self, key))
    run(standins.config({"image": 4}, steps=4, log_every=1), tmp_path, sizes={"image": 48})
    told = capsys.readouterr().err
    assert told.count("train: the loader is the bottleneck: ") == 1
    assert (
        "of the time goes in waiting for data: raise `workers` in conf/runtime/ or use smaller media" in told
    )


def test_a_finished_run_is_not_done_again(tmp_path):
    config = standins.config({"image": 4}, steps=3)
    arguments = (
        standins.Processor(),
        standins.sources(image=24),
        tmp_path / "out",
        tmp_path / "scratch",
        CPU,
    )
    assert train(config, standins.model(), *arguments).steps == 3
    assert train(config, standins.model(), *arguments) is None
    assert train(config, standins.model(seed=1), *arguments).steps == 3


def test_what_is_told_at_the_end_is_told_before_the_model_is_there(tmp_path):
    """Or a run killed in between would never tell it."""
    found = []
    recorder = Recorder()
    recorder.on_end = lambda result: found.append((tmp_path / "out").exists())
    run(standins.config({"image": 4}, steps=2), tmp_path, callbacks=[recorder])
    assert found == [False]


def test_twice_the_same_bytes(tmp_path):
    config = standins.config({"image": 4, "video": 2})
    run(config, tmp_path, "a", model=standins.model(dropout=0.2))
    run(config, tmp_path, "b", model=standins.model(dropout=0.2))
    for name in ("model.safetensors", "training.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_nothing_outlives_a_run(tmp_path):
    # its weights, optimiser and cached media would add to the memory of the next one in the process
    gc.collect()
    gc.disable()
    try:
        data, model = standins.sources(image=24, video=9), standins.model()
        kept = [weakref.ref(one) for one in (model, data["image"].cache, data["video"].cache)]
        config = standins.config({"image": 8, "video": 4}, steps=2, selection=SelectionConfig(1, 4))
        score = {"evaluate": lambda model: {"score": 1.0}}
        train(config, model, standins.Processor(), data, tmp_path / "out", tmp_path / "scratch", CPU, **score)
        del data, model
        assert not [one() for one in kept if one()]
    finally:
        gc.enable()


def test_workers_do_not_change_results(tmp_path):
    config = standins.config({"image": 4, "video": 2}, steps=4)
    same(run(config, tmp_path, "a"), _with_workers(config, tmp_path))


@pytest.mark.fault
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_says_what_it_cannot_read(tmp_path, workers):
    data = standins.sources(image=9)

    def unreadable(key):
        raise UserError(f"media-00000.tar: key '{key}': not an image")

    data["image"].store.picture = unreadable
    runtime = Runtime(device="cpu", workers=workers)
    places = (tmp_path / "out", tmp_path / "scratch")
    with pytest.raises(UserError, match=r"^media-00000.tar: key '\w+-\d': not an image$"):
        train(standins.config({"image": 4}), standins.model(), standins.Processor(), data, *places, runtime)


def _with_workers(config, tmp_path):
    data = standins.sources(image=24, video=9)
    runtime = Runtime(device="cpu", workers=2)
    train(config, standins.model(), standins.Processor(), data, tmp_path / "w", tmp_path / "ws", runtime)
    return load_file(tmp_path / "w/model.safetensors")


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_gives_the_same_weights(tmp_path, accumulate):
    # unequal target lengths and unequal media per micro-batch: only exact token counts make these equal
    config = standins.config({"mixed": 6, "video": 2}, steps=20, freeze_batch_norm=True, optimizer=SGD)
    sizes = {"mixed": 24, "video": 9}
    whole = run(config, tmp_path, "whole", sizes)
    parts = run(dataclasses.replace(config, accumulate=accumulate), tmp_path, "parts", sizes)
    same(whole, parts, relative=1e-5)


SGD = OptimizerConfig(lr=0.1, name="sgd", weight_decay=0.0, warmup=0.0)


def test_only_the_streams_of_the_mixture_count(tmp_path):
    config = standins.config({"image": 4})
    same(run(config, tmp_path, "a", {"image": 24, "video": 9}), run(config, tmp_path, "b", {"image": 24}))


def test_a_score_of_nan_is_never_the_best(tmp_path):
    """Whether it comes first or after a number; where there is no other, the last weights are published."""
    config = standins.config({"image": 4}, steps=12, selection=SelectionConfig(every=4, rows=8))
    nan = float("nan")
    for name, scores, step in (("a", [nan, 0.3, nan], 8), ("b", [0.3, nan, nan], 4), ("c", [nan] * 3, 12)):
        given = iter(scores)
        run(config, tmp_path, name, evaluate=lambda model, given=given: {"score": next(given)})
        summary = json.loads((tmp_path / name / "training.json").read_text())
        assert summary["best_step"] == step
        assert summary["score"] == (None if name == "c" else 0.3)


def test_best_weights_are_published(tmp_path):
    scores = {4: 0.2, 8: 0.9, 12: 0.5}
    seen = {}

    def evaluate(model):
        assert not model.training
        step = 4 * (len(seen) + 1)
        seen[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return {"score": scores[step], "accuracy": scores[step]}

    recorder = Recorder()
    config = standins.config({"image": 4}, selection=SelectionConfig(every=4, rows=8))
    weights = run(config, tmp_path, evaluate=evaluate, callbacks=[recorder])
    same(weights, {name: seen[8][name] for name in weights})
    assert json.loads((tmp_path / "out/training.json").read_text())["best_step"] == 8
    assert (8, {"val/score": 0.9, "val/accuracy": 0.9}) in recorder.logs


def test_a_model_and_its_checkpoints_carry_their_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "clear", lambda checkpoints: None)
    run(standins.config({"image": 4}), tmp_path)
    tasks = {"image": standins.Task.config}
    (checkpoint, *_) = (tmp_path / "out-scratch/checkpoints").glob("step-*")
    assert carried(tmp_path / "out") == carried(checkpoint) == tasks


def test_moving_average_is_published(tmp_path):
    config = standins.config({"image": 4}, optimizer=SGD)
    plain = run(config, tmp_path, "plain")
    slow = run(dataclasses.replace(config, ema=0.999), tmp_path, "slow")
    start = standins.model().state_dict()
    for name in ("hidden.weight", "image_encoder.0.weight"):
        moved = (plain[name] - start[name]).abs().max()
        assert (slow[name] - start[name]).abs().max() < 0.1 * moved
        assert (slow[name] - start[name]).abs().max() > 0


def test_moving_average_is_of_batch_norm_statistics_too(tmp_path):
    config = standins.config({"image": 4}, optimizer=SGD)
    plain = run(config, tmp_path, "plain")
    slow = run(dataclasses.replace(config, ema=0.99), tmp_path, "slow")
    start, name = standins.model().state_dict(), "image_encoder.1.running_mean"
    moved = float((slow[name] - start[name]).abs().max())
    assert 0 < moved < 0.2 * float((plain[name] - start[name]).abs().max())
    count = "image_encoder.1.num_batches_tracked"
    assert slow[count] == plain[count] > 0


def test_frozen_parts_stay(tmp_path):
    config = standins.config({"image": 4}, freeze=["image_encoder", "embed*"])
    weights, start = run(config, tmp_path), standins.model().state_dict()
    frozen = [name for name in weights if name.startswith(("image_encoder", "embed"))]
    assert "image_encoder.1.running_mean" in frozen
    for name in frozen:
        assert torch.equal(weights[name], start[name]), name
    assert not torch.equal(weights["hidden.weight"], start["hidden.weight"])


def test_only_the_named_parts_train(tmp_path):
    config = standins.config({"image": 4}, train_only=["hidden.*", "video_*"])
    weights, start = run(config, tmp_path), standins.model().state_dict()
    for name, tensor in weights.items():
        assert torch.equal(tensor, start[name]) == (not name.startswith("hidden")), name
    with pytest.raises(UserError, match="train_only: pattern 'hiden' matches no parameter"):
        run(dataclasses.replace(config, train_only=["hiden"]), tmp_path)


def test_answers_outside_the_constraint_get_no_gradient(tmp_path):
    # only the allowed tokens of each place enter the softmax: with one allowed token the loss is 0
    data = standins.sources(image=8)
    tokens = standins.Tokenizer()
    texts = {record.references[0] for record in data["image"].records}
    single = continuations([tokens.encode_text(next(iter(texts)))], tokens.eos_token_id)
    free = continuations([tokens.encode_text(text) for text in texts], tokens.eos_token_id)
    assert single[()] < free[()]
    refs = Sampler(Mixture(standins.config({"image": 8}).mixture, {"image": 8}), 0).global_rows(0)
    source = dataclasses.replace(data["image"], allowed=free)
    batch = Collator({"image": source}, standins.Processor(), 0, "finetuning")(refs, 0)
    for part in batch.parts:
        scored_BT = part.labels_BT != -100
        chosen_BT = part.labels_BT.clamp(min=0)
        assert part.allowed_BTV.gather(2, chosen_BT[..., None])[scored_BT].all()
        assert (
            part.allowed_BTV[scored_BT].sum(-1).min() > 0 and part.allowed_BTV[scored_BT].sum(-1).max() <= 4
        )


def test_worst_tokens_are_left_out_after_a_while(tmp_path):
    config = standins.config({"image": 8}, steps=4, optimizer=SGD)
    plain = run(config, tmp_path, "plain")
    for after, equal in ((4, True), (3, False)):
        loss = LossConfig(drop_worst=0.3, drop_worst_after=after)
        found = run(dataclasses.replace(config, loss=loss), tmp_path, f"after{after}")
        assert torch.equal(found["hidden.weight"], plain["hidden.weight"]) == equal


def test_frozen_batch_norm_keeps_statistics(tmp_path):
    config = standins.config({"image": 4}, freeze_batch_norm=True)
    weights, start = run(config, tmp_path), standins.model().state_dict()
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(weights[f"image_encoder.1.{name}"], start[f"image_encoder.1.{name}"])
    assert not torch.equal(weights["image_encoder.0.weight"], start["image_encoder.0.weight"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_options_run(tmp_path, precision):
    loss = LossConfig(smoothing=0.1, encouraging=True)
    weights = run(
        standins.config({"image": 4, "audio": 2}, precision=precision, loss=loss), tmp_path, sizes=BOTH
    )
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights.values())


BOTH = {"image": 24, "audio": 9}


@pytest.mark.fault
def test_stops_at_a_bad_loss_with_the_rows(tmp_path):
    data = standins.sources(image=48)
    wrong = standins.Processor()
    processed = []

    def normalise(media):
        processed.extend(media)
        values = standins.Processor.normalise(wrong, media)
        return values * float("nan") if 30 <= len(processed) < 34 else values

    wrong.normalise = normalise
    config = standins.config({"image": 4}, steps=12, checkpoint_every=2)
    with pytest.raises(
        UserError, match=r"step 7: the loss is nan: rows image:image\d+, .*step-00000006"
    ) as error:
        train(config, standins.model(), wrong, data, tmp_path / "out", tmp_path / "scratch", CPU)
    listed = json.loads((tmp_path / "scratch/checkpoints/bad-step-7.json").read_text())
    assert len(listed["rows"]) == 4 and listed["rows"][0] in str(error.value)
    assert not (tmp_path / "out").exists()
    good = load_file(tmp_path / "scratch/checkpoints/step-00000006/model.safetensors")
    assert all(tensor.isfinite().all() for tensor in good.values())


def test_another_run_can_start_from_a_checkpoint(tmp_path):
    def stop(model):
        raise UserError("no validation")

    validated = SelectionConfig(every=2, rows=1)
    chosen = standins.config({"mixed": 4}, steps=4, checkpoint_every=1, selection=validated)
    places = tmp_path / "out", tmp_path, CPU
    with pytest.raises(UserError, match="no validation"):
        train(
            chosen,
            standins.tiny(),
            standins.TinyProcessor(),
            standins.sources(mixed=8),
            *places,
            evaluate=stop,
        )
    folder = tmp_path / "checkpoints/step-00000001"
    assert (folder / "processor.json").is_file()
    loaded, told = UnivalForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    stored = load_file(folder / "model.safetensors")
    weights = loaded.state_dict()
    assert all(tensor.equal(weights[name]) for name, tensor in stored.items())
    assert not loaded.shared.weight.equal(standins.tiny().shared.weight)


@pytest.mark.fault
def test_stops_at_a_jump_of_the_loss(tmp_path):
    calm = standins.config({"image": 4}, steps=40, log_every=5, optimizer=SGD)
    run(calm, tmp_path, "calm")
    wild = dataclasses.replace(calm, optimizer=dataclasses.replace(SGD, lr=200.0, clip=0.0, warmup=1.0))
    with pytest.raises(UserError, match=r"the loss jumped to|the loss is|gradient norm is"):
        run(wild, tmp_path, "wild")


@pytest.mark.fault
def test_bad_requests(tmp_path):
    with pytest.raises(UserError, match="pattern 'image_encoders' matches no module"):
        run(standins.config({"image": 4}, freeze=["image_encoders"]), tmp_path)
    with pytest.raises(UserError, match="every parameter is frozen"):
        run(standins.config({"image": 4}, freeze=["*"]), tmp_path)
    with pytest.raises(UserError, match="2 rows a step cannot be dealt to 1 ranks x 4"):
        run(standins.config({"image": 2}, accumulate=4), tmp_path)
    with pytest.raises(UserError, match="no data for stream 'imago'"):
        mixture = MixtureConfig(2, [StreamConfig("imago", 2)])
        run(dataclasses.replace(standins.config({"image": 2}), mixture=mixture), tmp_path)


def test_groups_hold_little_padding_and_compute_the_same(tmp_path, monkeypatch):
    config = standins.config({"mixed": 12, "video": 8, "image": 4}, steps=10, optimizer=SGD)
    sizes = {"mixed": 24, "video": 9, "image": 24}
    weights = []
    for cost in (-1, 10, 10**9):
        monkeypatch.setattr(collate, "PART_COST", cost)
        data = standins.sources(**sizes)
        mixture = Mixture(config.mixture, sizes)
        collator = collate.Collator(data, standins.Processor(), 0, "pretraining")
        batch = collator(Sampler(mixture, 0).global_rows(3), 3)
        assert batch.num_examples == 48 == sum(len(part.labels_BT) for part in batch.parts)
        assert len(batch.media["pixel_values"]) <= 16
        weights.append((len(batch.parts), run(config, tmp_path, f"cost{cost}", sizes)))
    numbers = [number for number, _ in weights]
    # whatever the cost, rows that show different kinds of media stay apart
    assert numbers[0] > numbers[2] >= 3 and numbers[0] >= numbers[1] >= numbers[2]
    for _, other in weights[1:]:
        same(weights[0][1], other, relative=1e-4)


class Hangs:
    """Batches of which the second never comes."""

    def __len__(self):
        return 9

    def __getitem__(self, step):
        time.sleep(1000 if step else 0)
        return []


@pytest.mark.slow
@pytest.mark.fault
def test_a_loading_process_that_hangs_does_not_hold_the_run():
    batches = iter(Loader(Hangs(), 0, workers=1))
    assert next(batches) == []
    batches.close()
    assert not multiprocessing.active_children()


@pytest.mark.fault
def test_a_disk_without_room_for_the_weights_is_told_before_the_first_step(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**10))
    with pytest.raises(UserError, match=r"scratch: 0 MiB are free, and a checkpoint takes \d+ MiB"):
        run(standins.config({"image": 4}), tmp_path)
    assert not list((tmp_path / "out-scratch").glob("*"))


@pytest.mark.fault
def test_a_gpu_that_is_too_small_is_told_with_what_to_do(tmp_path, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Trainer, "_update", too_large)
    with pytest.raises(UserError, match="at step 1: `unival plan` says what fits: raise `accumulate`"):
        run(standins.config({"image": 4}), tmp_path)
