"""Cosines of the tasks' gradients: identities, and training that does not notice them."""

import dataclasses
import json

import pytest
import torch

from unival.engine import train
from unival.engine.batches.collate import Collator
from unival.engine.batches.mixture import Mixture
from unival.engine.conflict import WHOLE, TaskGradients, angles, products
from unival.engine.machine.runtime import Runtime
from unival.engine.settings import ConflictConfig
from unival.errors import UserError
from unival.weights import module_of

from . import standins
from .program import finish, start

ASKED = ConflictConfig(points=4, rows=6)
TASKS = {"image": 8, "video": 4}


def settings(**changes):
    return standins.config(TASKS, **{"conflict": ASKED, **changes})


def measured(config, model, change=lambda batches: batches, **sizes):
    """Module and tasks -> cosine, of these weights, on batches that `change` may exchange."""
    data = standins.sources(**(sizes or {"image": 24, "video": 12}))
    collator = Collator(data, standins.Processor(), config.seed, config.examples)
    mixture = Mixture(config.mixture, {task: len(rows.records) for task, rows in data.items()})
    found = TaskGradients(config, mixture, collator)
    found.batches = change(found.batches)
    return found, found.measure(0, model, model, 0.0)


def weighted(batch, weight):
    """The same batch with every example's loss times `weight`."""
    weights = [torch.full((len(part.labels_BT),), weight) for part in batch.parts]
    parts = [dataclasses.replace(part, weights_B=own) for part, own in zip(batch.parts, weights, strict=True)]
    return dataclasses.replace(batch, parts=parts)


def test_a_task_with_itself_on_the_same_rows():
    _, cosines = measured(settings(), standins.model().train(), lambda batches: batches[:1] * 4)
    assert list(cosines.values()) == pytest.approx([1.0] * len(cosines)) and len(cosines) > 3


def test_opposite_losses():
    def opposite(batches):
        return [weighted(batches[0], 1.0)] * 2 + [weighted(batches[0], -1.0)] * 2

    found, cosines = measured(settings(), standins.model().train(), opposite)
    pairs = {name: value for name, value in cosines.items() if name.endswith("image/video")}
    assert list(pairs.values()) == pytest.approx([-1.0] * len(pairs))
    assert f"conflict/{WHOLE}/image/video" in pairs
    lines = [line for line in found.found if line["first"] != line["second"]]
    assert [line["norm_first"] for line in lines] == pytest.approx([line["norm_second"] for line in lines])


def test_two_batches_of_a_task_are_two():
    _, cosines = measured(settings(), standins.model().train())
    assert 0 < cosines[f"conflict/{WHOLE}/image/image"] < 1


def test_modules_sum_to_the_whole():
    torch.manual_seed(0)
    names = (
        "encoder.layers.0.w",
        "encoder.layers.1.w",
        "decoder.layers.0.w",
        "shared.weight",
        "encoder.norm",
    )
    gradients = [{name: torch.randn(3, 4) for name in names} for _ in range(4)]
    sums = products(gradients)
    modules = {"encoder.layers", "decoder.layers", "shared", "encoder"}
    assert set(sums) == {WHOLE, *modules} == {WHOLE, *map(module_of, names)}
    torch.testing.assert_close(sum(sums[module] for module in modules), sums[WHOLE])
    flat = torch.stack([torch.cat([one[name].flatten() for name in names]) for one in gradients]).double()
    torch.testing.assert_close(sums[WHOLE], flat @ flat.T)
    expected = torch.nn.functional.cosine_similarity(flat[:2, None], flat[None, 2:], dim=2).mean()
    between = [line for line in angles(sums[WHOLE], ["a", "b"]) if line["first"] != line["second"]]
    assert between[0]["cosine"] == pytest.approx(float(expected))


def test_weights_statistics_and_random_states_stay():
    model = standins.model(dropout=0.3).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    _, first = measured(settings(), model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert measured(settings(), model)[1] == first


def trained(tmp_path, name, config):
    folder = tmp_path / name
    rows = standins.sources(**{stream.task: 24 for stream in config.mixture.streams})
    model, scratch = standins.model(dropout=0.2), tmp_path / f"{name}-scratch"
    train.train(config, model, standins.Processor(), rows, folder, scratch, Runtime(device="cpu"))
    return folder


def test_training_is_the_same_with_and_without(tmp_path):
    plain, asked = (
        trained(tmp_path, name, settings(conflict=one)) for name, one in (("plain", None), ("asked", ASKED))
    )
    assert (plain / "model.safetensors").read_bytes() == (asked / "model.safetensors").read_bytes()
    lines = json.loads((asked / "training.json").read_text())["conflict"]
    assert list(dict.fromkeys(line["step"] for line in lines)) == [0, 4, 8, 12]
    assert "conflict" not in json.loads((plain / "training.json").read_text())


@pytest.mark.resume
@pytest.mark.parametrize("step", [2, 7, 8])
def test_killed_in_the_middle(tmp_path, step):
    """Checkpoints are of 3, 6, ... updates, cosines of 0, 4, 8 and 12."""
    files = []
    for name, fail_at in (("whole", None), ("killed", step)):
        folder = tmp_path / name
        folder.mkdir()
        options = {"conflict": ConflictConfig(points=4, rows=4), "steps": 12, "checkpoint_every": 3}
        if fail_at:
            finish(start(folder, options, fail_at=fail_at), folder)
        status, told = finish(start(folder, options), folder)
        assert status == 0, told
        files.append((folder / "out/training.json").read_bytes())
    assert files[0] == files[1] and b'"step": 8' in files[0]


def test_one_task_has_no_pair(tmp_path):
    config = standins.config({"image": 8}, conflict=ConflictConfig(points=2, rows=1000))
    folder = trained(tmp_path, "one", config)
    assert json.loads((folder / "training.json").read_text())["conflict"] == []


def test_modules_without_a_gradient_are_left_out_and_said(tmp_path, capfd):
    """Frozen ones, and the encoders of media that a task does not show."""
    folder = trained(tmp_path, "frozen", settings(freeze=["hidden"]))
    lines = json.loads((folder / "training.json").read_text())["conflict"]
    modules = {(line["module"], line["first"], line["second"]) for line in lines}
    assert {module for module, *pair in modules if pair == ["image", "video"]} == {WHOLE, "embed"}
    assert ("image_encoder", "image", "image") in modules
    said = "not every task has a gradient in image_encoder, video_encoder, audio_encoder, hidden: no cosines"
    assert said in capfd.readouterr().err


def test_too_few_rows():
    with pytest.raises(UserError, match=r"conflict: two batches of 6 rows need 12, 'video' has 11"):
        measured(settings(), standins.model(), image=24, video=11)
    with pytest.raises(ValueError, match="points 1 must be 2 or more"):
        ConflictConfig(points=1)


def test_points_are_spread_over_the_run():
    assert ConflictConfig(points=3).steps(400) == {0, 200, 400}
    assert ConflictConfig(points=10).steps(4) == set(range(5))
