"""Which tensors a path stands for: index and files agree, an adapter is no model, headers hold numbers."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from unival.errors import UserError
from unival.merging import Recipe, merge
from unival.merging.checkpoint import FileSource, StateSource
from unival.weights import INDEX, WEIGHTS, read_header, read_specs, save

pytestmark = pytest.mark.fault


def sharded(folder, **shards):
    """A folder with an index that is right."""
    folder.mkdir()
    for name, tensors in shards.items():
        save_file(tensors, folder / f"{name}.safetensors")
    table = {key: f"{name}.safetensors" for name, tensors in shards.items() for key in tensors}
    (folder / INDEX).write_text(json.dumps({"weight_map": table}))
    return folder, table


def test_index_and_files_name_the_same_tensors(tmp_path):
    folder, table = sharded(tmp_path / "m", one={"a": torch.ones(2)}, two={"b": torch.ones(3)})
    assert set(read_specs(folder)[1]) == {"a", "b"}
    for change, match in (
        ({"c": "two.safetensors"}, r"'c' should be in two\.safetensors, which does not have it"),
        ({"a": "two.safetensors"}, r"'a' is in one\.safetensors, by the index in two\.safetensors"),
        ({"b": "three.safetensors"}, r"names 'three\.safetensors', which is not there"),
        ({"b": 1}, "'b': 1 is not a name of a .safetensors file"),
        ({"b": None}, "'b': null is not a name"),
        ({"b": "x" * 5000}, "'b': .* is not a name"),
        ({"b": "../m/two.safetensors"}, "'b': .* is not a name"),
        ({"b": "two\0.safetensors"}, "'b': .* is not a name"),
    ):
        changed = {**table, **change} | (
            {"b": "one.safetensors"} if change == {"a": "two.safetensors"} else {}
        )
        (folder / INDEX).write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(UserError, match=match):
            FileSource(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    FileSource(folder).close()  # a file that no tensor is looked for in is none of the model's
    save_file({"b": torch.ones(3), "more": torch.ones(1)}, folder / "two.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": table}))
    with pytest.raises(UserError, match=r"'more' is in two\.safetensors, by the index nowhere"):
        FileSource(folder)


def test_a_folder_that_was_saved_to_twice_is_refused(tmp_path):
    folder, _ = sharded(tmp_path / "m", one={"a": torch.ones(2)})
    save_file({"a": torch.zeros(2)}, folder / WEIGHTS)
    with pytest.raises(UserError, match="two models: remove the one that is not meant"):
        FileSource(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": WEIGHTS}}))
    with FileSource(folder) as found:
        assert not found.read("a", 0, 2, torch.empty(8, dtype=torch.uint8)).any()


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.encoder.q.lora_A.weight",
        "encoder.q.lora_B.default.weight",
        "lora_unet_down.lora_up.weight",
        "unet.attn1.processor.to_q_lora.down.weight",
        "text_model.q_proj.lora.up.weight",
        "encoder.q.lora_magnitude_vector.default.weight",
        "encoder.q.ia3_l.default",
        "encoder.q.hada_w1_a",
        "encoder.q.lokr_w1",
        "encoder.q.vera_lambda_b",
        "prompt_embeddings",
        "base_model.model.classifier.weight",
    ],
)
def test_parts_of_adapters_are_not_merged(tmp_path, name):
    state = {name: torch.ones(2, 3), "norm.weight": torch.ones(3)}
    file = tmp_path / "adapter_model.safetensors"
    save_file(state, file)
    for path in (file, tmp_path):
        with pytest.raises(UserError, match=r"an adapter \('.*'\), not a model: .*merge_and_unload"):
            merge(Recipe("average", ("a", "b")), {"a": path, "b": path}, None, tmp_path / "out")
    with pytest.raises(UserError, match="an adapter"):
        StateSource(state)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_an_adapter_is_told_by_its_configuration(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="an adapter, not a model"):
        FileSource(tmp_path)


def header(path, text, size=64):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    return path


GOOD = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "entry",
    [
        {**GOOD, "shape": [2**70]},
        {**GOOD, "shape": [2**32, 2**32], "data_offsets": [0, 0]},
        {**GOOD, "shape": [0, 2**70], "data_offsets": [0, 0]},
        {**GOOD, "shape": [-4]},
        {**GOOD, "shape": [-2, -2]},
        {**GOOD, "shape": [4.0]},
        {**GOOD, "shape": [True, 4]},
        {**GOOD, "shape": "4"},
        {**GOOD, "shape": 4},
        {**GOOD, "shape": None},
        {**GOOD, "data_offsets": [-16, 0]},
        {**GOOD, "data_offsets": [16, 0]},
        {**GOOD, "data_offsets": [0.0, 16.0]},
        {**GOOD, "data_offsets": [0, 16, 16]},
        {**GOOD, "data_offsets": {"0": 0, "16": 16}},
        {**GOOD, "data_offsets": [8, 24]},
        {**GOOD, "dtype": ["F32"]},
        {**GOOD, "dtype": "F31"},
        {"dtype": "F32", "shape": [4]},
        [],
        7,
        None,
    ],
)
def test_impossible_headers_are_refused(tmp_path, entry):
    with pytest.raises(UserError, match="not a safetensors file"):
        read_header(header(tmp_path / "x.safetensors", {"a": entry}))


def test_damaged_headers_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    overlapping = {"a": GOOD, "b": {**GOOD, "data_offsets": [8, 24]}}
    for text in (
        overlapping,
        b"[" * 100_000 + b"]" * 100_000,
        b'"text"',
        b"[1]",
        b"\xff\xfe",
        {"__metadata__": 1, "a": 1},
    ):
        with pytest.raises(UserError, match="not a safetensors file"):
            read_header(header(path, text))
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="git lfs pull"):
        read_header(path)
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(UserError, match="its header is longer than the file"):
        read_header(path)
    header(path, {"a": GOOD, "b": {**GOOD, "data_offsets": [16, 32]}}, size=20)
    with pytest.raises(UserError, match="ends inside 'b': the file was cut short"):
        read_header(path)
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", 200_000_000))
        handle.truncate(300_000_000)
    with pytest.raises(UserError, match="more than 100000000"):
        read_header(path)


def test_weights_can_be_read_by_others_as_the_umask_says(tmp_path):
    path = tmp_path / "x.safetensors"
    plain = tmp_path / "plain"
    plain.touch()
    save({"a": torch.ones(2).expand(2)}, path)
    assert path.stat().st_mode == plain.stat().st_mode
