"""Several ranks compute what one rank computes, whatever the rows that each of them gets."""

import json
import signal
import socket
import time

import pytest
from safetensors.torch import load_file

from unival.engine.settings import ConflictConfig, OptimizerConfig

from .program import finish, start, told
from .test_train import same

pytestmark = pytest.mark.distributed
# targets of 1 to 3 words; image rows, some with audio; few videos: a rank often has none
UNEQUAL = {
    "steps": 20,
    "sgd": True,
    "dropout": 0.0,
    "freeze_batch_norm": True,
    "log_every": 5,
    "streams": {"mixed": 13, "video": 3},
    "sizes": {"mixed": 24, "video": 9},
}


def weights(folder, options, ranks):
    """Published weights of a run."""
    folder.mkdir()
    status, error = finish(start(folder, options, ranks), folder)
    assert status == 0, error
    return load_file(folder / "out/model.safetensors"), error


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("ranks") / "alone", UNEQUAL, 1)


def test_two_ranks_of_8_equal_one_of_16(tmp_path, alone):
    same(alone[0], weights(tmp_path / "two", UNEQUAL, 2)[0], relative=1e-5)


def test_ranks_times_accumulation(tmp_path, alone):
    same(alone[0], weights(tmp_path / "two", {**UNEQUAL, "accumulate": 4}, 2)[0], relative=1e-5)


def test_as_many_micro_batches_on_fewer_ranks(tmp_path):
    """Batch norm in training mode and dropout see the same micro-batches, so the number of ranks is free."""
    options = {**UNEQUAL, "accumulate": 2, "freeze_batch_norm": False, "dropout": 0.2}
    one, two = (weights(tmp_path / str(ranks), options, ranks)[0] for ranks in (1, 2))
    trained = [name for name in one if "running" not in name and "num_batches" not in name]
    same({name: one[name] for name in trained}, {name: two[name] for name in trained}, relative=1e-4)


def test_four_ranks(tmp_path, alone):
    same(alone[0], weights(tmp_path / "four", UNEQUAL, 4)[0], relative=1e-5)


def test_a_medium_on_one_rank_only(tmp_path):
    options = {**UNEQUAL, "streams": {"mixed": 7, "video": 1}}
    one, two = (weights(tmp_path / str(ranks), options, ranks)[0] for ranks in (1, 2))
    same(one, two, relative=1e-5)


def test_a_medium_in_few_steps_only(tmp_path):
    # in most steps no rank has a video: its encoder must then stay, weight decay included
    options = {**UNEQUAL, "sgd": False, "balanced": False, "streams": {"mixed": 4, "video": 1}}
    options["sizes"] = {"mixed": 60, "video": 2}
    one, two = (weights(tmp_path / str(ranks), options, ranks)[0] for ranks in (1, 2))
    same(one, two, relative=1e-4)


FSDP = {**UNEQUAL, "sharding": "full"}


# FSDP on a CPU is for tests only. A rank of it once crashed, and never again (270 runs):
# these are not part of the default suite.
@pytest.mark.slow
def test_fsdp_equals_ddp(tmp_path, alone):
    same(alone[0], weights(tmp_path / "two", FSDP, 2)[0], relative=1e-5)


@pytest.mark.slow
def test_fsdp_with_accumulation_and_few_videos(tmp_path):
    options = {**UNEQUAL, "sgd": False, "balanced": False, "streams": {"mixed": 7, "video": 1}}
    options["accumulate"] = 2
    options |= {"sizes": {"mixed": 60, "video": 2}, "ema": 0.9, "select": True}
    ddp = weights(tmp_path / "ddp", options, 2)[0]
    same(ddp, weights(tmp_path / "fsdp", {**options, "sharding": "full"}, 2)[0], relative=1e-4)


@pytest.mark.slow
def test_fsdp_of_the_real_model(tmp_path):
    # examples of unequal lengths and media, of which each rank would make another number of groups
    options = {**UNEQUAL, "steps": 6, "tiny": True}
    ddp = weights(tmp_path / "ddp", options, 2)[0]
    fsdp = weights(tmp_path / "fsdp", {**options, "sharding": "full"}, 2)[0]
    assert ddp.keys() == fsdp.keys()
    for name, tensor in ddp.items():  # biases of keys have no gradient but rounding
        limit = 1e-4 * float(tensor.abs().max()) + 1e-6
        assert float((tensor - fsdp[name]).abs().max()) <= limit, name


@pytest.mark.fault
def test_fsdp_refuses_an_optimiser_of_whole_matrices(tmp_path):
    options = {**FSDP, "sgd": False, "optimizer": OptimizerConfig(lr=0.1, name="muon")}
    status, error = finish(start(tmp_path, options, 2), tmp_path)
    assert status == 1 and "muon needs whole matrices: use adamw, or a runtime without sharding" in error


def test_figures_are_those_of_all_ranks(tmp_path, alone):
    def losses(error):
        lines = [line.split() for line in error.splitlines() if "grad_norm" in line]
        return [
            [line[line.index(name) + 1] for name in ("loss", "loss/mixed", "loss/video")] for line in lines
        ]

    assert losses(alone[1]) == losses(weights(tmp_path / "two", UNEQUAL, 2)[1])
    assert len(losses(alone[1])) == 4


@pytest.mark.parametrize("sharding", ["none", pytest.param("full", marks=pytest.mark.slow)])
def test_cosines_of_gradients_are_those_of_one_rank(tmp_path, sharding):
    """They are of the weights, which the ranks share, on the same rows: however many ranks there are."""
    options = {**UNEQUAL, "steps": 8, "conflict": ConflictConfig(points=3, rows=4)}
    found = []
    for ranks in (1, 2):
        weights(tmp_path / str(ranks), {**options, "sharding": sharding if ranks > 1 else "none"}, ranks)
        found.append(json.loads((tmp_path / str(ranks) / "out/training.json").read_text())["conflict"])
    assert [line["step"] for line in found[0] if line["module"] == "all"] == [0] * 3 + [4] * 3 + [8] * 3
    words = ("step", "module", "first", "second")
    for one, two in zip(*found, strict=True):
        assert [one[word] for word in words] == [two[word] for word in words]
        assert two["cosine"] == pytest.approx(one["cosine"], abs=1e-4)
        assert two["norm_first"] == pytest.approx(one["norm_first"], rel=1e-4)


def test_ranks_part_while_the_group_frees_its_last_tensor(tmp_path):
    # its thread then needs the interpreter, which the end of the run must not hold
    weights(tmp_path / "two", {**UNEQUAL, "steps": 2, "linger": True}, 2)


def test_sigterm_on_one_rank_stops_all(tmp_path):
    options = {**UNEQUAL, "steps": 100_000, "checkpoint_every": 5, "log_every": 1}
    processes = start(tmp_path, options, 2, slow=0.02)
    while not list((tmp_path / "scratch/checkpoints").glob("step-*")):
        assert processes[0].is_alive(), told(tmp_path)
        time.sleep(0.02)
    processes[1].terminate()
    status, error = finish(processes, tmp_path)
    assert [process.exitcode for process in processes] == [128 + signal.SIGTERM] * 2, (status, error)
    assert "stopped: saved step" in error


def load_checkpoint(folder):
    """Weights of a checkpoint, or of all shards of one."""
    tensors = {}
    for path in sorted(folder.rglob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


@pytest.mark.fault
@pytest.mark.parametrize("sharding", ["none", pytest.param("full", marks=pytest.mark.slow)])
def test_nan_on_one_rank_stops_all_with_the_rows_of_all(tmp_path, sharding):
    options = {**UNEQUAL, "checkpoint_every": 4, "bad_step": 9, "sharding": sharding}
    processes = start(tmp_path, options, 2)
    _, error = finish(processes, tmp_path)
    assert [process.exitcode for process in processes] == [1, 1]
    folder = tmp_path / "scratch/checkpoints"
    assert "step 9: the loss is nan: rows mixed:mixed" in error
    assert f"(all in {folder / 'bad-step-9.json'}); last good checkpoint: {folder / 'step-00000008'}" in error
    assert len(json.loads((folder / "bad-step-9.json").read_text())["rows"]) == 16
    assert not (tmp_path / "out").exists()
    good = load_checkpoint(folder / "step-00000008")
    assert all(tensor.isfinite().all() for tensor in good.values())


@pytest.mark.fault
def test_a_rank_that_dies_stops_the_others_with_the_reason(tmp_path):
    processes = start(tmp_path, {**UNEQUAL, "steps": 100_000}, 2, slow=0.02)
    while "train 5/" not in told(tmp_path):
        assert processes[0].is_alive(), told(tmp_path)
        time.sleep(0.05)
    processes[1].kill()
    _, error = finish(processes, tmp_path)
    assert processes[0].exitcode == 1
    assert "rank 0: another rank has stopped" in error


@pytest.mark.fault
def test_ranks_that_find_different_checkpoints_do_not_go_on(tmp_path):
    options = {**UNEQUAL, "apart": True}
    status, error = finish(start(tmp_path, {**options, "steps": 8}, 2, fail_at=5), tmp_path)
    assert status == -signal.SIGKILL
    status, error = finish(start(tmp_path, {**options, "steps": 8}, 2), tmp_path)
    assert status == 1
    assert "the newest checkpoints of the ranks are of the steps 4, 0" in error


THAN = "than rank 0 has: give all nodes the same commit"


@pytest.mark.fault
@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"log_every": 7}, f"another configuration {THAN}"),
        ({"sizes": {"mixed": 25, "video": 9}}, f"other data {THAN}"),
        ({"width": 17}, f"other initial weights or another architecture {THAN}"),
        (
            {"lacking": "media-00012.tar: no such shard"},
            f"media-00012.tar: no such shard on {socket.gethostname()}: copy the prepared data there again",
        ),
    ],
)
def test_ranks_that_cannot_train_the_same_are_told_before_the_first_step(tmp_path, other, what):
    processes = start(tmp_path, {**UNEQUAL, "on_rank_1": other}, 2)
    finish(processes, tmp_path)
    assert [process.exitcode for process in processes] == [1, 1]
    first = (tmp_path / "stderr-0").read_text()
    assert f"rank 1: {what}" in first
    assert "loss" not in first and not (tmp_path / "out").exists()
