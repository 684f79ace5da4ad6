"""A run killed at any moment goes on from its last checkpoint and ends with the same bytes."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from unival.engine.interruption import Ending

from .program import PLACES, finish, place, start, told, wait_for_place
from .test_checkpoint import flip

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
    assert ("resumes from step" in complete(tmp_path)) == (step >= 4)
    assert weights(tmp_path) == undisturbed


@pytest.mark.parametrize(
    ("ranks", "background"),
    [(1, False), (1, True), pytest.param(2, False, marks=[pytest.mark.distributed, pytest.mark.slow])],
)
def test_killed_at_20_random_moments(tmp_path, undisturbed, ranks, background):
    # steps, file syncs and validations are slowed down, so that kills hit inside of each of them
    chance = random.Random(5)
    if ranks > 1:
        whole = tmp_path / "whole"
        whole.mkdir()
        complete(whole, ranks=ranks)
        undisturbed = weights(whole)
    kills = Counter()
    for _ in range(120):
        processes = start(tmp_path, {**OPTIONS, "background": background}, ranks, slow=0.03)
        rank = chance.randrange(ranks)
        seconds = 1.2  # of the start of the process
        if chance.random() < 0.8:
            wait_for_place(tmp_path, rank, processes[rank], chance.randint(1, 15))
            seconds = 0.1
        processes[rank].join(chance.uniform(0.0, seconds))
        killed = processes[rank].is_alive()
        for process in (processes[rank], *processes):  # torchrun ends the others when one dies
            process.kill()
            process.join()
        if killed:
            kills[place(tmp_path, rank)] += 1
        if (tmp_path / "out").exists():
            assert weights(tmp_path) == undisturbed
            shutil.rmtree(tmp_path / "out")
        hit = all(kills[name] for name in PLACES[: 2 if background else 3])  # to begin a save takes no time
        if kills.total() >= 20 and hit:
            break
    assert kills.total() >= 20 and hit, kills
    complete(tmp_path, ranks=ranks)
    assert weights(tmp_path) == undisturbed


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "meta.json"])
def test_killed_in_a_checkpoint_write(tmp_path, undisturbed, file):
    status, _ = finish(start(tmp_path, OPTIONS, die_in=file), tmp_path)
    assert status == -signal.SIGKILL
    assert checkpoints(tmp_path) == ["step-00000004", "step-00000008"]
    assert "resumes from step 8" in complete(tmp_path)
    assert weights(tmp_path) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_saves_and_leaves(tmp_path, undisturbed, workers, number):
    (process,) = start(tmp_path, {**OPTIONS, "workers": workers}, slow=0.1)
    while not checkpoints(tmp_path):
        assert process.is_alive(), told(tmp_path)
        time.sleep(0.01)
    loading = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(loading) == workers
    for pid in (*loading, process.pid):  # as SLURM and terminals do, which tell all processes of a job
        os.kill(int(pid), number)
    status, error = finish([process], tmp_path)
    assert status == 128 + number and "stopped: saved step" in error
    assert "Traceback" not in error
    last = int(checkpoints(tmp_path)[-1].removeprefix("step-"))
    assert f"resumes from step {last}" in complete(tmp_path)
    assert weights(tmp_path) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_too_late_to_stop_a_training_comes_again_after_it(number):
    """Of several trainings in a stage the next one would begin."""
    came = []
    before = signal.signal(number, lambda number, frame: came.append(number))
    try:
        with Ending().heard():
            signal.raise_signal(number)
            assert not came
        assert came == [number]
        stopped = Ending()
        with pytest.raises(SystemExit), stopped.heard():
            signal.raise_signal(number)
            raise SystemExit(stopped.status)
        assert came == [number]
    finally:
        signal.signal(number, before)


def test_damaged_checkpoint_is_passed_over(tmp_path, undisturbed):
    finish(start(tmp_path, OPTIONS, fail_at=17), tmp_path)
    newest = tmp_path / "scratch/checkpoints" / checkpoints(tmp_path)[-1] / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert "resumes from step 12" in complete(tmp_path)
    assert weights(tmp_path) == undisturbed


@pytest.mark.fault
@pytest.mark.parametrize("file", ["model.safetensors", "meta.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("step", [17, 30])
def test_damaged_best_weights_are_found_again(tmp_path, undisturbed, step, damage, file):
    """The run goes back to before them and ends as it would have."""
    finish(start(tmp_path, OPTIONS, fail_at=step), tmp_path)
    path = tmp_path / "scratch/checkpoints/best" / file
    if damage == "flipped":
        flip(path)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    else:
        path.unlink()
    complete(tmp_path)
    assert weights(tmp_path) == undisturbed


def test_killed_before_publishing(tmp_path, undisturbed):
    finish(start(tmp_path, OPTIONS, fail_at=30), tmp_path)
    assert not (tmp_path / "out").exists()
    complete(tmp_path)
    assert weights(tmp_path) == undisturbed


@pytest.mark.distributed
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("sharding", ["none", pytest.param("full", marks=pytest.mark.slow)])
def test_two_ranks_resume_to_the_bit(tmp_path, sharding, background):
    options = {**OPTIONS, "sharding": sharding, "background": background}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    complete(whole, options, ranks=2)
    status, _ = finish(start(killed, options, ranks=2, fail_at=17), killed)
    assert status == -signal.SIGKILL
    error = complete(killed, options, ranks=2)  # the one of step 16 may not have been written yet
    assert "resumes from step 16" in error or (background and "resumes from step 12" in error)
    assert weights(killed) == weights(whole)


@pytest.mark.fault
@pytest.mark.distributed
@pytest.mark.parametrize("sharding", ["none", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("other", [{"width": 8}, pytest.param({"tiny": True}, marks=pytest.mark.slow)])
def test_another_architecture_does_not_go_on(tmp_path, sharding, other):
    options = {**OPTIONS, "sharding": sharding}
    finish(start(tmp_path, options, ranks=2, fail_at=5), tmp_path)
    processes = start(tmp_path, {**options, **other}, ranks=2)
    _, error = finish(processes, tmp_path)
    assert [process.exitcode for process in processes] == [1, 1]
    assert "step-00000004: a checkpoint of other initial weights or another architecture: delete" in error
    assert "checkpoints to start over" in error
    assert checkpoints(tmp_path) == ["step-00000004"]


@pytest.mark.fault
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("sharding", "rank"),
    [
        ("none", 0),
        pytest.param("full", 0, marks=pytest.mark.slow),
        pytest.param("full", 1, marks=pytest.mark.slow),
    ],
)
def test_full_disk_stops_all_ranks_and_keeps_the_last_checkpoint(tmp_path, sharding, rank):
    options = {**OPTIONS, "sharding": sharding}
    whole, full = tmp_path / "whole", tmp_path / "full"
    whole.mkdir()
    full.mkdir()
    complete(whole, options, ranks=2)
    processes = start(full, {**options, "full_on": rank}, ranks=2)
    _, error = finish(processes, full)
    assert [process.exitcode for process in processes] == [1, 1]
    assert "step-00000008: " in error and "cannot write: " in error and "File too large" in error
    assert "fix that and run again: training resumes from the last checkpoint" in error
    assert checkpoints(full) == ["step-00000004"]
    assert "resumes from step 4" in complete(full, options, ranks=2)
    assert weights(full) == weights(whole)
