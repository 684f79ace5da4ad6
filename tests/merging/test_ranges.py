"""Values keep their meaning: a type that cannot hold them is refused, whatever the way into it."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from unival import weights
from unival.errors import UserError
from unival.merging import AlignRule, Interpolation, Recipe, merge, merge_into
from unival.merging.checkpoint import StateSource
from unival.merging.engine import merge_states

NARROW = (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIVAL_HASH_CACHE", str(tmp_path / "hashes.json"))


def save(folder, **tensors):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def filled(value, dtype=torch.float32):
    return torch.full((5,), value, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_the_largest_number_fits_and_the_next_does_not(dtype):
    largest = torch.finfo(dtype).max
    step = largest - float(torch.tensor([largest]).to(dtype).view(integer(dtype)).sub(1).view(dtype)[0])
    for value in (largest, largest + 0.49 * step, -largest, float("inf")):
        held = weights.cast(torch.tensor([0.0, value], dtype=torch.float64), dtype, "x")
        assert held.dtype == dtype
        if value != float("inf"):
            assert float(held[1]) == pytest.approx(value, abs=step / 2)
    for value in (largest + 0.5 * step, -largest - step, 1e300):
        with pytest.raises(UserError, match=rf"x: .* does not fit {str(dtype)[6:]}, which ends at"):
            weights.cast(torch.tensor([0.0, value], dtype=torch.float64), dtype, "x")


def integer(dtype):
    return torch.int8 if dtype.itemsize == 1 else torch.int16


@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties", "dare", "interpolate"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_merge_beyond_its_type_is_refused_and_writes_nothing(tmp_path, method, threads):
    far = filled(6e4, torch.float16)
    models = {"a": save(tmp_path / "a", bias=far), "b": save(tmp_path / "b", bias=far / 2)}
    base = save(tmp_path / "base", bias=-far)
    options = {"average": {}, "interpolate": {"t": -3.0}}.get(method, {"scale": 5.0})
    recipe = Recipe(
        method, ("a", "b"), options=options, weights={"a": 3.0, "b": -2.0} if not options else None
    )
    with pytest.raises(UserError, match=r"bias: merged: -?\S+ does not fit float16, which ends at 65504"):
        merge(recipe, models, base, tmp_path / "out", threads=threads)
    left = {path.name for path in tmp_path.iterdir() if "hashes.json" not in path.name}
    assert left == {"a", "b", "base"}


@pytest.mark.parametrize(
    "rule", [AlignRule("v", "take", "a"), AlignRule("v", "base"), AlignRule("v", "owners")]
)
@pytest.mark.parametrize("origin", [torch.float32, torch.bfloat16])
def test_a_copy_beyond_the_type_of_the_output_is_refused(tmp_path, rule, origin):
    own = {"w": torch.ones(5), "v": filled(1e6, origin)}
    models = {"a": save(tmp_path / "a", **own), "b": save(tmp_path / "b", w=torch.ones(5))}
    base = save(tmp_path / "base", **own)
    recipe = Recipe("average", ("a", "b"), dtype="float16", align=(rule,))
    with pytest.raises(UserError, match=r"v: .*does not fit float16"):
        merge(recipe, models, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_number_of_the_type_before_stays(tmp_path):
    """A mask of -inf and counters beyond float16 are copied as they are."""
    state = {"mask": filled(float("-inf")), "count": torch.tensor(10**12), "w": torch.ones(3)}
    models = {name: save(tmp_path / name, **state) for name in "ab"}
    recipe = Recipe("average", ("a", "b"), dtype="float16", align=(AlignRule("mask", "take", "a"),))
    merge(recipe, models, None, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found["mask"].dtype == torch.float16 and bool((found["mask"] == float("-inf")).all())
    assert int(found["count"]) == 10**12


def test_an_overflow_of_the_arithmetic_itself_is_refused():
    models = {name: StateSource({"w": filled(3e38)}) for name in "ab"}
    with pytest.raises(UserError, match="w: merged values leave the range of float32"):
        merge_states(
            Recipe("task_arithmetic", ("a", "b"), options={"scale": 9.0}),
            models,
            StateSource({"w": filled(1)}),
        )


def test_a_live_model_of_a_narrow_type_is_not_overrun():
    net = torch.nn.Linear(2, 2).half()
    wide = {name: torch.full(tensor.shape, 1e5) for name, tensor in net.state_dict().items()}
    with pytest.raises(UserError, match="merged: 100000 does not fit float16"):
        merge_into(net, Recipe("average", ("a", "b")), {"a": wide, "b": wide})
    with Interpolation(net, wide, {name: -tensor for name, tensor in wide.items()}) as line:
        line.move(0.5)
        for t in (0, 0.1):
            with pytest.raises(UserError, match="does not fit float16"):
                line.move(t)
    counting = torch.nn.BatchNorm1d(2)
    floats = {name: tensor.float() for name, tensor in counting.state_dict().items()}
    with pytest.raises(UserError, match="'num_batches_tracked' is int64 in the live model and float32"):
        merge_into(counting, Recipe("average", ("a",)), {"a": floats})


@pytest.mark.parametrize("shards", [None, 16])
@pytest.mark.parametrize("method", ["average", "ties", "slerp_task_vectors", "tsv_m", "iso_c", "model_stock"])
def test_empty_tensors_pass(tmp_path, method, shards):
    state = {
        "a.weight": torch.empty(0, 4),
        "b.weight": torch.randn(3, 4),
        "c": torch.empty(0),
        "d": torch.ones(2),
    }
    models = {name: save(tmp_path / name, **state) for name in "xy"}
    base = save(tmp_path / "base", **state)
    recipe = Recipe(method, ("x", "y"))
    merge(recipe, models, base, tmp_path / "out", shard_bytes=shards)
    files, specs = weights.read_specs(tmp_path / "out")
    assert {name: spec.shape for name, spec in specs.items()} == {n: tuple(t.shape) for n, t in state.items()}
    assert len(files) > 1 if shards else len(files) == 1
    assert merge_states(recipe, {n: StateSource(state) for n in "xy"}, StateSource(state))[
        "a.weight"
    ].shape == (0, 4)


def test_a_model_of_empty_tensors_only_passes(tmp_path):
    models = {name: save(tmp_path / name, a=torch.empty(0, 4)) for name in "xy"}
    merge(Recipe("average", ("x", "y")), models, None, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["a"].shape == (0, 4)
