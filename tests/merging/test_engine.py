"""The streaming engine: exactness, independence of chunking, alignment, the record."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unival.errors import UserError
from unival.merging import AlignRule, Interpolation, Recipe, merge, verify
from unival.merging.checkpoint import FileSource


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIVAL_HASH_CACHE", str(tmp_path / "hashes.json"))


def state(seed, around=None, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "encoder.layers.0.weight": (300, 257),
        "encoder.layers.1.weight": (33, 5),
        "norm.bias": (7,),
        "scale": (),
    }
    values = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if around is not None:
        values = {name: around[name].float() + 0.01 * value for name, value in values.items()}
    values = {name: value.to(dtype) for name, value in values.items()}
    return {**values, "index": torch.arange(10), "flag": torch.tensor(True)}


def save(folder, tensors, config=None):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config or {"size": 1}))
    return folder


@pytest.fixture
def folders(tmp_path):
    base = state(0)
    models = {name: state(seed, base) for seed, name in enumerate("abc", 1)}
    paths = {name: save(tmp_path / name, tensors) for name, tensors in models.items()}
    return base, models, save(tmp_path / "base", base), paths


def test_average_is_the_rounded_mean(folders, tmp_path):
    _, models, _, paths = folders
    record = merge({"method": "average", "models": ["a", "b", "c"]}, paths, None, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in merged.items():
        exact = torch.stack([models[m][name].double() for m in "abc"]).mean(0)
        assert torch.allclose(value.double(), exact, rtol=1e-6, atol=1e-8)
    assert torch.equal(merged["index"], torch.arange(10)) and merged["index"].dtype == torch.int64
    assert json.loads((tmp_path / "out" / "merge.json").read_text()) == record
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"size": 1}


def test_ends_of_a_line_are_the_parents(folders, tmp_path):
    _, models, _, paths = folders
    for t, parent in ((0, "a"), (1, "b")):
        merge(
            {"method": "interpolate", "models": ["a", "b"], "options": {"t": t}},
            paths,
            None,
            tmp_path / "out",
        )
        merged = load_file(tmp_path / "out" / "model.safetensors")
        assert all(torch.equal(merged[name], models[parent][name]) for name in merged)


def test_a_live_model_moves_and_comes_back(folders):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))
            self.register_buffer("count", torch.tensor(3))

    torch.manual_seed(0)
    net, first, second = Net(), Net().state_dict(), Net().state_dict()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with Interpolation(net, first, second) as line:
        assert torch.equal(line.move(0).weight, first["weight"])
        assert torch.equal(line.move(1).weight, second["weight"])
        assert torch.equal(line.move(0.3).weight, torch.lerp(first["weight"], second["weight"], 0.3))
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)


def test_an_owned_tensor_is_taken_bit_exactly(folders, tmp_path):
    _, models, _, paths = folders
    models["b"]["audio.weight"] = torch.randn(9, 9)
    save_file(models["b"], paths["b"] / "model.safetensors")
    recipe = Recipe("average", ("a", "b", "c"))
    with pytest.raises(UserError, match=r"audio.weight: is in .*b but not in .*a, .*c"):
        merge(recipe, paths, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge(
        Recipe("average", ("a", "b", "c"), align=(AlignRule("^audio", "owners"),)),
        paths,
        None,
        tmp_path / "out",
    )
    assert torch.equal(
        load_file(tmp_path / "out" / "model.safetensors")["audio.weight"], models["b"]["audio.weight"]
    )


def test_verify_repeats_the_merge_and_sees_a_flipped_byte(folders, tmp_path):
    _, _, base, paths = folders
    recipe = Recipe("task_arithmetic", ("a", "b", "c"), options={"scale": 0.4})
    merge(recipe, paths, base, tmp_path / "out")
    verify(tmp_path / "out")
    for file in (paths["b"] / "model.safetensors", tmp_path / "out" / "model.safetensors"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UserError, match=str(file)):
            verify(tmp_path / "out")
        file.write_bytes(content)
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    record["recipe"]["options"]["scale"] = 0.5
    (tmp_path / "out" / "merge.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="recipe was changed"):
        verify(tmp_path / "out")


def test_shards_and_one_file_hold_the_same(folders, tmp_path):
    _, _, _, paths = folders
    recipe = Recipe("average", ("a", "b"))
    merge(recipe, paths, None, tmp_path / "one")
    merge(recipe, paths, None, tmp_path / "many", shard_bytes=1000)
    whole = load_file(tmp_path / "one" / "model.safetensors")
    with FileSource(tmp_path / "many") as parts:
        assert len(parts.files) > 1
        for name, value in whole.items():
            buffer = torch.empty(value.numel() * value.element_size(), dtype=torch.uint8)
            assert torch.equal(parts.read(name, 0, value.numel(), buffer).view(value.shape), value)
    again = merge(recipe, {"a": tmp_path / "many", "b": tmp_path / "many"}, None, tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == whole.keys()
    assert again["tensors"]["merged_parameters"] == sum(
        v.numel() for v in whole.values() if v.is_floating_point()
    )


def test_a_folder_that_is_moved_is_verified_at_its_home(folders, tmp_path):
    _, _, _, paths = folders
    home = tmp_path / "deep" / "er" / "merged"
    merge(Recipe("average", ("a", "b")), paths, None, tmp_path / "out", moved=(tmp_path / "out", home))
    home.parent.mkdir(parents=True)
    (tmp_path / "out").rename(home)
    verify(home)


def test_estimated_statistics_take_the_place_of_merged_ones(folders, tmp_path):
    _, _, base, paths = folders
    file = tmp_path / "batch_norm.safetensors"
    save_file({"norm.bias": torch.full((7,), 3.0)}, file)
    out = tmp_path / "out"
    record = merge(Recipe("ties", ("a", "b")), paths, base, out, estimated=file)
    assert load_file(out / "model.safetensors")["norm.bias"].tolist() == [3.0] * 7
    assert record["tensors"]["rules"]["estimated"] == 1
    verify(out)
    save_file({"norm.bias": torch.full((7,), 4.0)}, file)
    with pytest.raises(UserError, match="statistics estimated for it"):
        verify(out)
    save_file({"unknown": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="unknown: estimated again, but in no model"):
        merge(Recipe("ties", ("a", "b")), paths, base, tmp_path / "other", estimated=file)


def test_inputs_beside_the_output_move_with_it(folders, tmp_path):
    _, _, _, paths = folders
    (tmp_path / "work").mkdir()
    beside = {name: path.rename(tmp_path / "work" / name) for name, path in paths.items()}
    home = tmp_path / "models" / "merged"
    out = tmp_path / "work" / "ab"
    merge(Recipe("average", ("a", "b")), beside, None, out, moved=(out.parent, home))
    home.parent.mkdir()
    (tmp_path / "work").rename(home)
    verify(home / "ab")
