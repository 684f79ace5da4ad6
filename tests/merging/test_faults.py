"""Bad input is named and refused; what is interrupted leaves nothing that looks finished."""

import errno
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unival.errors import UserError
from unival.merging import AlignRule, Interpolation, ModuleRule, Recipe, merge, merge_into
from unival.merging.checkpoint import FileSource
from unival.merging.geometry import geometry

pytestmark = pytest.mark.fault


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIVAL_HASH_CACHE", str(tmp_path / "hashes.json"))


def save(folder, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def tensors(seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    return {"layer.weight": torch.randn(40, 30, generator=generator), "count": torch.tensor(3), **more}


@pytest.fixture
def pair(tmp_path):
    return {"a": save(tmp_path / "a", tensors(1)), "b": save(tmp_path / "b", tensors(2))}


def refused(pair, out, match, recipe=None, base=None):
    with pytest.raises(UserError, match=match):
        merge(recipe or Recipe("average", ("a", "b")), pair, base, out)
    assert not out.exists()
    assert not list(out.parent.glob(".out*"))


def test_nan_in_an_input_is_named(pair, tmp_path):
    values = tensors(2)
    values["layer.weight"][3, 7] = float("nan")
    save(pair["b"], values)
    base = save(tmp_path / "base", tensors(0))
    for method in ("average", "task_arithmetic", "ties", "dare_ties", "model_stock", "iso_c"):
        refused(
            pair,
            tmp_path / "out",
            r"/b: layer.weight: NaN .* at element 97",
            Recipe(method, ("a", "b")),
            base,
        )


def test_swapped_architecture_and_mismatched_base_are_named(pair, tmp_path):
    save(pair["b"], {"layer.weight": torch.randn(30, 40), "count": torch.tensor(3)})
    refused(pair, tmp_path / "out", r"layer.weight: shapes differ: \[40, 30\] in .*a, \[30, 40\] in .*b")
    save(pair["b"], {"other.weight": torch.randn(40, 30), "count": torch.tensor(3)})
    refused(pair, tmp_path / "out", r"layer.weight: is in .*a but not in .*b")
    save(pair["b"], tensors(2))
    base = save(tmp_path / "base", {"count": torch.tensor(3)})
    refused(
        pair,
        tmp_path / "out",
        r"layer.weight: .*not in .*base \(the base\)",
        Recipe("ties", ("a", "b")),
        base,
    )
    base = save(tmp_path / "base", tensors(0, **{"layer.weight": torch.randn(3, 3)}))
    refused(pair, tmp_path / "out", r"shapes differ.*\[3, 3\] in .*base", Recipe("ties", ("a", "b")), base)


def test_another_kind_of_model_with_equal_names_and_shapes_is_named(pair, tmp_path):
    base = save(tmp_path / "base", tensors(0))
    for folder, kind in ((pair["a"], "bart"), (pair["b"], "bart"), (base, "mbart")):
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    match = r"model_type of \(base\) is 'mbart', a is 'bart', b is 'bart'"
    refused(pair, tmp_path / "out", match, Recipe("ties", ("a", "b")), base)


def test_differing_integers_need_a_rule(pair, tmp_path):
    save(pair["b"], {**tensors(2), "count": torch.tensor(4)})
    refused(pair, tmp_path / "out", r"count: integer values differ between .*a and .*b")
    recipe = Recipe("average", ("a", "b"), align=(AlignRule("^count$", "take", "b"),))
    merge(recipe, pair, None, tmp_path / "out")
    with FileSource(tmp_path / "out") as found:
        assert int(found.read("count", 0, 1, torch.empty(8, dtype=torch.uint8))) == 4


def test_wrong_recipes_are_named(pair, tmp_path):
    out = tmp_path / "out"
    for values, match in (
        ({"method": "tie"}, "unknown merge method 'tie': did you mean 'ties'"),
        ({"method": "ties"}, "'ties' needs a base"),
        ({"method": "fisher"}, "'fisher' needs statistics of a, b"),
        ({"method": "average", "option": {}}, "unknown key 'option': did you mean 'options'"),
        ({"method": "ties", "options": {"densty": 0.3}}, "unknown key 'densty': did you mean 'density'"),
        ({"method": "ties", "options": {"density": 1.5}}, r"density: 1.5 is not in \(0, 1\]"),
        ({"method": "average", "weights": {"a": 1.0}}, "no weight for b"),
        ({"method": "average", "weights": {"a": 1.0, "b": -1.0}}, "sum to zero"),
        (
            {"method": "average", "align": [{"pattern": "audio", "rule": "owners"}]},
            "'audio' matches no tensor",
        ),
        ({"method": "average", "align": [{"pattern": "(", "rule": "owners"}]}, "not a regular expression"),
        ({"method": "average", "modules": [{"pattern": "audio"}]}, "'audio' matches no tensor"),
        ({"method": "average", "modules": [{"pattern": "", "weights": {"c": 1.0}}]}, "'c' is not one of"),
        ({"method": "average", "depth": {"beta": 1.0}}, "'average' does not have"),
    ):
        with pytest.raises(UserError, match=match):
            merge({"models": ["a", "b"], **values}, pair, None, out)
        assert not out.exists()
    with pytest.raises(UserError, match="a pairwise method takes 2 models"):
        merge({"method": "interpolate", "models": ["a"]}, pair, None, out)
    with pytest.raises(UserError, match="no checkpoint was given for c"):
        merge({"method": "average", "models": ["a", "c"]}, pair, None, out)


def test_weights_of_a_pairwise_method_are_refused(pair, tmp_path):
    both = {"a": 1.0, "b": 2.0}
    for fields in ({"weights": both}, {"modules": (ModuleRule("layer", weights=both),)}):
        recipe = Recipe("interpolate", ("a", "b"), **fields)
        refused(pair, tmp_path / "out", "'interpolate' takes no weights", recipe)


def test_a_tensor_that_only_the_base_lacks_is_named(pair, tmp_path):
    for seed, name in enumerate("ab", 1):
        save(pair[name], tensors(seed, extra=torch.ones(3) * seed))
    base = save(tmp_path / "base", tensors(0))
    recipe = Recipe("ties", ("a", "b"), align=(AlignRule("extra", "owners"),))
    refused(pair, tmp_path / "out", r"extra: rule 'owners': the base does not have it", recipe, base)


@pytest.mark.parametrize("method", ["fisher", "regmean"])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda found: found * float("nan"), "NaN or infinite statistics"),
        (lambda found: found[:-1], r"statistics of shape \[\d+, 30\], not"),
        (lambda found: -found, "negative"),
    ],
)
def test_bad_statistics_are_named(pair, tmp_path, method, change, match):
    """Without a check: NaN in the result, numbers of the next tensor, a search for a ridge without end."""
    good = torch.eye({"fisher": 40, "regmean": 30}[method], 30)
    statistics = {"a": tmp_path / "good.safetensors", "b": tmp_path / "bad.safetensors"}
    save_file({"layer.weight": good}, statistics["a"])
    save_file({"layer.weight": change(good).contiguous()}, statistics["b"])
    with pytest.raises(UserError, match=match):
        merge(Recipe(method, ("a", "b")), pair, None, tmp_path / "out", statistics=statistics)
    assert not (tmp_path / "out").exists()


def test_files_are_closed(pair):
    """A search merges into a live model hundreds of times."""
    net = torch.nn.ModuleDict({"layer": torch.nn.Linear(30, 40, bias=False)})
    net.register_buffer("count", torch.tensor(0))
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    merge_into(net, Recipe("average", ("a", "b")), pair)
    Interpolation(net, pair["a"], pair["b"])
    geometry({"a": pair["a"]}, pair["b"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_damaged_files_are_named(pair, tmp_path):
    file = pair["b"] / "model.safetensors"
    content = file.read_bytes()
    for damaged, match in (
        (content[:-100], "cut short"),
        (b"", "not a safetensors file"),
        (b"\xff" * 64, "not a safetensors file"),
        (content[:8] + b"x" * (len(content) - 8), "not a safetensors file"),
    ):
        file.write_bytes(damaged)
        refused(pair, tmp_path / "out", f"{file}: .*{match}")
    file.unlink()
    refused(pair, tmp_path / "out", "expected one model")
    (pair["b"] / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"w": "part-1.safetensors"}})
    )
    refused(pair, tmp_path / "out", "names 'part-1.safetensors', which is not there")
    (pair["b"] / "model.safetensors.index.json").write_text("{}")
    refused(pair, tmp_path / "out", "has no 'weight_map'")
    (pair["b"] / "model.safetensors.index.json").write_text("{")
    refused(pair, tmp_path / "out", r"index\.json: not JSON")
    refused({**pair, "b": tmp_path / "nowhere"}, tmp_path / "out", "no such file or folder")


def test_a_broken_configuration_is_named(pair, tmp_path):
    (pair["a"] / "config.json").write_text("{")
    refused(pair, tmp_path / "out", r"a/config\.json: not JSON")


def test_a_folder_that_is_no_merge_is_left_alone(pair, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt, and no merge\.json"):
        merge(Recipe("average", ("a", "b")), pair, None, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_full_disk_is_told_and_leaves_nothing(pair, tmp_path, monkeypatch):
    def full(handle, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    refused(pair, tmp_path / "out", "the disk is full: .*MiB wanted, .*MiB free")


def test_a_disk_that_fails_in_the_middle_leaves_nothing(tmp_path):
    script = """
import resource, sys
from unival.merging import merge, Recipe
import os
os.posix_fallocate = lambda *_: None
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
merge(Recipe("average", ("a", "b")), {"a": sys.argv[1], "b": sys.argv[2]}, None, sys.argv[3])
"""
    big = {"w": torch.zeros(1_000_000)}
    paths = [str(save(tmp_path / name, big)) for name in "ab"]
    done = run(script, *paths, str(tmp_path / "out"))
    assert done.returncode != 0 and "the disk is full" in done.stderr
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def run(script, *arguments, **fields):
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, **fields)


def test_killed_in_the_middle_leaves_nothing_that_looks_finished(pair, tmp_path):
    script = """
import os, sys, time
from unival.merging import merge, Recipe
from unival.merging import elementwise
def slow(*arguments):
    print("working", flush=True)
    time.sleep(1000)
elementwise.linear = slow
merge(Recipe("average", ("a", "b")), {"a": sys.argv[1], "b": sys.argv[2]}, None, sys.argv[3])
"""
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source}
    command = [sys.executable, "-c", script, str(pair["a"]), str(pair["b"]), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"working\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".out.*.part"))) == 1
    merge(Recipe("average", ("a", "b")), pair, None, tmp_path / "out")
    assert not list(tmp_path.glob(".out.*.part"))  # what the killed process left is cleared


def test_an_unwritable_folder_is_named(pair, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write here"):
        merge(Recipe("average", ("a", "b")), pair, None, tmp_path / "file" / "out")
