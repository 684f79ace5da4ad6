"""Checkpoints are whole or absent; the last ones are kept; wrong ones are refused with a reason."""

import dataclasses
import errno
import resource
import threading

import pytest
import torch

from unival.engine import checkpoint
from unival.engine.checkpoint import Checkpoints, atomic_folder, load_weights
from unival.engine.machine.runtime import Runtime
from unival.engine.train import train
from unival.errors import UserError

from . import standins


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def saved(tmp_path, steps=(3,), keep=2):
    folder = Checkpoints(tmp_path / "checkpoints", keep)
    model = standins.model()
    for step in steps:
        folder.save(step, model, {"optimizer": {"state": {0: torch.ones(2)}}}, {"identity": "x"})
    return folder, model


def test_round_trip_with_tied_weights(tmp_path):
    folder, model = saved(tmp_path)
    path, meta = folder.latest()
    other = standins.model(seed=1)
    state = folder.restore(path, meta, other)
    assert meta["step"] == 3 and torch.equal(state["optimizer"]["state"][0], torch.ones(2))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert other.lm_head.weight.data_ptr() == other.embed.weight.data_ptr()


def test_the_last_are_kept(tmp_path):
    folder, _ = saved(tmp_path, steps=(3, 6, 9, 12))
    assert folder.steps() == [9, 12]
    folder.clear()
    assert folder.steps() == [] and folder.latest() is None


@pytest.mark.resume
def test_one_written_in_the_background_is_of_its_step(tmp_path, monkeypatch):
    """Whatever the run does meanwhile; it is absent until all of it is there, and the next one waits."""
    release, sync, state = threading.Event(), checkpoint.sync, {"a": [torch.ones(2)], "b": 3}
    monkeypatch.setattr(checkpoint, "sync", lambda path: release.wait(60) and sync(path))
    folder, model = Checkpoints(tmp_path / "checkpoints", 2, background=True), standins.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folder.save(3, model, state, {})
    with torch.no_grad():
        for tensor in [*model.state_dict().values(), state["a"][0]]:
            tensor.fill_(7)
    assert folder.latest() is None
    release.set()
    folder.save(6, model, state, {})
    path, meta = folder.path(3), checkpoint.whole_meta(folder.path(3))
    kept = folder.restore(path, meta, model)
    assert torch.equal(kept["a"][0], torch.ones(2)) and kept["b"] == 3 and meta["step"] == 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    folder.settle()
    assert folder.steps() == [3, 6]


@pytest.mark.fault
def test_a_full_disk_behind_the_run_is_said_at_the_next_checkpoint(tmp_path, monkeypatch):
    folder, model = Checkpoints(tmp_path / "checkpoints", 2, background=True), standins.model()
    folder.save(3, model, {}, {})
    folder.settle()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.weights, "save", full)
        folder.save(6, model, {}, {})
        with pytest.raises(UserError, match="step-00000006: cannot write: No space left on device"):
            folder.save(9, model, {}, {})
    assert folder.steps() == [3]


@pytest.mark.fault
@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"digests": 3}', '{"step": 6, "digests": {}}', "[" * 100_000]
)
def test_a_checkpoint_with_any_other_meta_is_passed_over(tmp_path, text):
    folder, _ = saved(tmp_path, steps=(3, 6))
    (folder.path(6) / "meta.json").write_text(text)
    (folder.folder / "step-copy").mkdir()
    assert folder.latest()[1]["step"] == 3


@pytest.mark.fault
def test_a_best_that_was_damaged_is_not_published(tmp_path):
    folder, model = saved(tmp_path)
    folder.save_best(3, model)
    flip(folder.best / "model.safetensors")
    with pytest.raises(UserError, match=r"best: damaged since it was written: run again"):
        folder.load_best(model)


@pytest.mark.fault
def test_full_disk_leaves_the_old_one(tmp_path, monkeypatch):
    folder, model = saved(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.weights, "save", full)
    with pytest.raises(UserError, match="step-00000006: cannot write: No space left on device"):
        folder.save(6, model, {}, {"identity": "x"})
    assert folder.latest()[1]["step"] == 3
    assert sorted(path.name for path in folder.folder.iterdir()) == ["step-00000003"]


@pytest.fixture
def small_disk():
    """No file may grow beyond 100 kB: the system refuses it as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.fault
def test_writes_that_the_system_refuses(tmp_path, small_disk):
    folder, model = saved(tmp_path)
    folder.save_best(3, model)
    with pytest.raises(UserError, match=r"step-00000006: cannot write: File too large: fix that"):
        folder.save(6, model, {"optimizer": torch.ones(100_000)}, {"identity": "x"})
    large = standins.model(width=400)
    with pytest.raises(UserError, match=r"step-00000006: cannot write: .*File too large"):
        folder.save(6, large, {}, {"identity": "x"})
    with pytest.raises(UserError, match=r"best: cannot write: .*File too large"):
        folder.save_best(6, large)
    assert folder.latest()[1]["step"] == 3
    folder.load_best(model)
    assert {path.name for path in folder.folder.iterdir()} == {"step-00000003", "best"}


@pytest.mark.fault
def test_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    with atomic_folder(target) as part:
        (part / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(target) as part:
        (part / "a").write_text("2")
        raise RuntimeError
    assert (target / "a").read_text() == "1"
    with atomic_folder(target) as part:
        (part / "b").write_text("3")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.fault
def test_other_architectures_are_refused(tmp_path):
    folder, _ = saved(tmp_path)
    path, meta = folder.latest()
    mismatch = r"'embed.weight' is \(16, 16\), the model wants \(16, 8\)"
    with pytest.raises(UserError, match=mismatch):
        folder.restore(path, meta, standins.model(width=8))
    smaller = standins.model()
    del smaller.audio_encoder
    with pytest.raises(UserError, match=r"the model has no 'audio_encoder\."):
        load_weights(smaller, path / checkpoint.WEIGHTS)
    (path / checkpoint.WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(UserError, match="not a readable weights file"):
        load_weights(smaller, path / checkpoint.WEIGHTS)


@pytest.mark.fault
def test_another_configuration_does_not_go_on(tmp_path, monkeypatch):
    config = standins.config({"image": 4}, steps=6)
    arguments = (standins.Processor(), standins.sources(image=9), tmp_path / "out", tmp_path / "scratch")
    monkeypatch.setattr("unival.engine.train.Trainer._publish", lambda *_: None)
    train(config, standins.model(), *arguments, Runtime(device="cpu"))
    changed = dataclasses.replace(config, seed=8)
    other_data = {"image": dataclasses.replace(arguments[1]["image"], digest="of other pictures")}
    for other, settings, model, data in (
        ("another configuration", changed, standins.model(), arguments[1]),
        ("other initial weights", config, standins.model(seed=1), arguments[1]),
        ("other data", config, standins.model(), other_data),
        ("other data and of other initial weights", config, standins.model(width=8), other_data),
    ):
        with pytest.raises(UserError, match=f"a checkpoint of {other}"):
            train(settings, model, arguments[0], data, *arguments[2:], Runtime(device="cpu"))
