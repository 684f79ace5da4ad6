"""A run killed at any moment goes on from its last checkpoint and ends with the same bytes."""

import os
import random
import shutil
import signal
import time

import pytest

from .program import finish, start, told

OPTIONS = {"steps": 30, "checkpoint_every": 4, "select": True, "ema": 0.9, "log_every": 5}
pytestmark = pytest.mark.resume


def weights(folder):
    """Bytes of the published model."""
    return tuple((folder / "out" / name).read_bytes() for name in ("model.safetensors", "training.json"))


def checkpoints(folder):
    """Names of the checkpoints there are."""
    return sorted(path.name for path in (folder / "scratch/checkpoints").glob("step-*"))


def complete(folder, options=OPTIONS, ranks=1):
    """Run to the end; returns what it told."""
    status, error = finish(start(folder, options, ranks), folder)
    assert status == 0, error
    return error


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    complete(folder)
    return weights(folder)


@pytest.mark.parametrize("step", [3, 4, 17])
def test_killed_at_a_step(tmp_path, undisturbed, step):
    status, _ = finish(start(tmp_path, OPTIONS, fail_at=step), tmp_path)
    assert status == -signal.SIGKILL
    assert len(checkpoints(tmp_path)) == min(step // 4, 2)
    assert ("goes on from step" in complete(tmp_path)) == (step >= 4)
    assert weights(tmp_path) == undisturbed


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=[pytest.mark.distributed, pytest.mark.slow])])
def test_killed_at_20_random_moments(tmp_path, undisturbed, ranks):
    # steps, file syncs and validations are slowed down, so that kills hit inside of each of them
    chance = random.Random(5)
    if ranks > 1:
        whole = tmp_path / "whole"
        whole.mkdir()
        complete(whole, ranks=ranks)
        undisturbed = weights(whole)
    kills, ended = 0, 0
    while kills < 20 and ended < 20:
        processes = start(tmp_path, OPTIONS, ranks, slow=0.03)
        victim = chance.choice(processes)
        victim.join(chance.uniform(0.1, 1.2) * ranks)
        ended += not victim.is_alive()
        kills += victim.is_alive()
        for process in (victim, *processes):  # torchrun ends the others when one dies
            process.kill()
            process.join()
        if (tmp_path / "out").exists():
            assert weights(tmp_path) == undisturbed
            shutil.rmtree(tmp_path / "out")
    assert kills == 20
    complete(tmp_path, ranks=ranks)
    assert weights(tmp_path) == undisturbed


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "meta.json"])
def test_killed_in_a_checkpoint_write(tmp_path, undisturbed, file):
    status, _ = finish(start(tmp_path, OPTIONS, die_in=file), tmp_path)
    assert status == -signal.SIGKILL
    assert checkpoints(tmp_path) == ["step-00000004", "step-00000008"]
    assert "goes on from step 8" in complete(tmp_path)
    assert weights(tmp_path) == undisturbed


def test_sigterm_saves_and_leaves(tmp_path, undisturbed):
    (process,) = start(tmp_path, OPTIONS, slow=0.05)
    while not checkpoints(tmp_path):
        assert process.is_alive(), told(tmp_path)
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    status, error = finish([process], tmp_path)
    assert status == 128 + signal.SIGTERM and "SIGTERM: saved step" in error
    last = int(checkpoints(tmp_path)[-1].removeprefix("step-"))
    assert f"goes on from step {last}" in complete(tmp_path)
    assert weights(tmp_path) == undisturbed


def test_damaged_checkpoint_is_passed_over(tmp_path, undisturbed):
    finish(start(tmp_path, OPTIONS, fail_at=17), tmp_path)
    newest = tmp_path / "scratch/checkpoints" / checkpoints(tmp_path)[-1] / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert "goes on from step 12" in complete(tmp_path)
    assert weights(tmp_path) == undisturbed


def test_killed_before_publishing(tmp_path, undisturbed):
    finish(start(tmp_path, OPTIONS, fail_at=30), tmp_path)
    assert not (tmp_path / "out").exists()
    complete(tmp_path)
    assert weights(tmp_path) == undisturbed


@pytest.mark.distributed
@pytest.mark.parametrize("sharding", ["none", pytest.param("full", marks=pytest.mark.slow)])
def test_two_ranks_resume_to_the_bit(tmp_path, sharding):
    options = {**OPTIONS, "sharding": sharding}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    complete(whole, options, ranks=2)
    status, _ = finish(start(killed, options, ranks=2, fail_at=17), killed)
    assert status == -signal.SIGKILL
    assert "goes on from step 16" in complete(killed, options, ranks=2)
    assert weights(killed) == weights(whole)
