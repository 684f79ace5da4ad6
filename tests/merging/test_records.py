"""merge.json, recipes and the memory of digests when damaged: one line, or as if they were not there."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from unival import files
from unival.commands import merge as command
from unival.errors import UserError
from unival.merging import Depth, ModuleRule, Recipe, hashing, merge, verify
from unival.merging.merge_json import RECORD, equal_inputs, read_record
from unival.merging.vocabulary import read_tokens

pytestmark = pytest.mark.fault
ODD = (None, True, -1, 2**70, 1.5, float("nan"), "", "x", "../x", "\0", [], [1], {}, {"a": 1}, "9" * 5000)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIVAL_HASH_CACHE", str(tmp_path / "hashes.json"))


@pytest.fixture
def merged(tmp_path):
    for seed, name in enumerate(("a", "b", "base")):
        (tmp_path / name).mkdir()
        generator = torch.Generator().manual_seed(seed)
        save_file({"w": torch.randn(4, 4, generator=generator)}, tmp_path / name / "model.safetensors")
    models = {name: tmp_path / name for name in "ab"}
    merge(Recipe("ties", ("a", "b"), options={"density": 0.5}), models, tmp_path / "base", tmp_path / "out")
    return tmp_path / "out"


def places(value, path=()):
    """Every place of a JSON value."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def replaced(value, path, by):
    """A copy with another value at one place; `places` itself stands for nothing there."""
    copy = json.loads(json.dumps(value))
    if not path:
        return by
    at = copy
    for key in path[:-1]:
        at = at[key]
    if by is places:
        del at[path[-1]]
    else:
        at[path[-1]] = by
    return copy


def test_a_damaged_record_is_one_line(merged, capsys):
    """Every value of merge.json, replaced by every odd one: `report` works, or says what is wrong."""
    record = json.loads((merged / RECORD).read_text())
    told = 0
    for path in list(places(record)):
        for odd in (*ODD, *([places] if path else [])):
            (merged / RECORD).write_text(json.dumps(replaced(record, path, odd)))
            try:
                read_record(merged)
            except UserError as error:
                assert "is not a merge" in str(error) and "\n" not in str(error) and len(str(error)) < 1000
                told += 1
            else:
                command.main(["report", str(merged)])
    assert told > 400
    for text in ("", "{", "[]", "null", "[" * 100_000):
        (merged / RECORD).write_text(text)
        for action in ("verify", "report"):
            with pytest.raises(UserError, match="is not a merge"):
                command.main([action, str(merged)])


def test_paths_of_a_record_that_lead_nowhere_are_named(merged):
    record = json.loads((merged / RECORD).read_text())
    for place in ("nowhere", "x" * 5000, "."):
        changed = replaced(record, ("paths", "inputs", "a"), place)
        (merged / RECORD).write_text(json.dumps(changed))
        with pytest.raises(UserError, match="model 'a'"):
            verify(merged)
    (merged / RECORD).write_text(json.dumps(record))
    with pytest.raises(UserError, match="'c' is not one of its models"):
        verify(merged, {"c": merged})
    with pytest.raises(UserError, match="'a' is not one of its models"):
        verify(merged, statistics={"a": merged})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_coefficients_are_finite(merged, tmp_path, bad):
    for make in (
        lambda: Recipe("average", ("a", "b"), weights={"a": bad, "b": 1.0}),
        lambda: ModuleRule("w", weights={"a": bad}),
        lambda: ModuleRule("w", scale=bad),
        lambda: Depth(beta=bad),
    ):
        with pytest.raises(ValueError, match="give a finite number"):
            make()
    models = {name: tmp_path / name for name in "ab"}
    for values in (
        {"method": "average", "weights": {"a": bad, "b": 1.0}},
        {"method": "task_arithmetic", "options": {"scale": bad}},
        {"method": "average", "modules": [{"pattern": "w", "weights": {"a": bad}}]},
        {"method": "interpolate", "options": {"t": 10**400}},
    ):
        with pytest.raises(UserError, match="expected a finite number"):
            merge({"models": ["a", "b"], **values}, models, tmp_path / "base", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("content", ["[]", "null", "5", '{"model_type": 5}', '{"model_type": []}', "{"])
def test_a_damaged_configuration_of_an_input_is_named(merged, tmp_path, content):
    (tmp_path / "a" / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"a/config\.json"):
        merge(Recipe("average", ("a", "b")), {n: tmp_path / n for n in "ab"}, None, tmp_path / "other")


def test_infinity_in_configurations_stays_and_is_told(merged, tmp_path):
    """As transformers writes it for some models, though it is no JSON."""
    for name, limit in (("a", "Infinity"), ("b", "3.0")):
        (tmp_path / name / "config.json").write_text(f'{{"model_type": "x", "limit": {limit}}}')
    record = merge(Recipe("average", ("a", "b")), {n: tmp_path / n for n in "ab"}, None, tmp_path / "other")
    assert record["config_differences"] == {"limit": {"a": "Infinity", "b": 3.0}}
    assert json.loads((tmp_path / "other" / "config.json").read_text())["limit"] == float("inf")
    assert read_record(tmp_path / "other").config_differences == record["config_differences"]


@pytest.mark.parametrize(
    "text", ["[1]", "5", "null", "{", '{"digests": 1}', '{"a": "b"}', "[" * 100_000, "\xff"]
)
def test_a_damaged_memory_of_digests_is_as_good_as_none(tmp_path, text):
    cache, file = tmp_path / "hashes.json", tmp_path / "x"
    file.write_text("content")
    cache.write_text(text, encoding="latin-1")
    for _ in range(2):
        assert hashing.digests([file]) == {"x": files.file_digest(file)}
    assert files.file_digest(file) in cache.read_text()


def test_a_file_that_changed_and_has_its_old_size_and_time_is_hashed_anew(tmp_path):
    file = tmp_path / "x"
    file.write_text("before")
    hashing.digests([file])
    old = file.stat()
    while file.stat().st_ctime_ns == old.st_ctime_ns:  # a file system's clock moves in steps
        file.write_text("behind")
        os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert hashing.digests([file]) == {"x": files.file_digest(file)}


@pytest.mark.parametrize(
    "content",
    [
        None,
        5,
        [],
        {},
        {"model": 5},
        {"model": {"vocab": 5}},
        {"model": {"vocab": {}}},
        {"model": {"vocab": {"a": "x"}}},
    ]
    + [{"model": {"vocab": {"a": number}}} for number in (-1, 10**12, 1.5, None, True, [0])]
    + [{"model": {"vocab": {"a": 0}}, "added_tokens": added} for added in (5, [5], [{}], ["x"], {"a": 1})],
    ids=str,
)
def test_a_damaged_tokenizer_is_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    why = ".*rows cannot be matched by token" if isinstance(content, dict) else "expected an object, found"
    with pytest.raises(UserError, match=rf"tokenizer\.json: {why}"):
        read_tokens(tmp_path)


def test_models_that_are_one_and_the_same_are_said(merged, tmp_path):
    """Two names for the same weights, or an expert that is the base: the page of the merge says so."""
    assert list(equal_inputs(read_record(merged))) == []
    models = {"a": tmp_path / "a", "b": tmp_path / "a", "c": tmp_path / "base"}
    merge(Recipe("task_arithmetic", tuple(models)), models, tmp_path / "base", tmp_path / "again")
    page = command.page(read_record(tmp_path / "again"))
    assert "note: a, b are one and the same model" in page
    assert "note: c, the base are one and the same model" in page
