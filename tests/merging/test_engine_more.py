"""Same bytes whatever the machine does; number formats, tied tensors, vocabularies, side files, real
architectures.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from unival.errors import UserError
from unival.merging import AlignRule, Recipe, merge, verify
from unival.merging.checkpoint import StateSource
from unival.merging.engine import Plan, merge_states
from unival.merging.live import merge_into
from unival.merging.method import METHODS
from unival.merging.options import OPTIONS
from unival.merging.recipe import VocabularyRule
from unival.merging.recipe_digest import recipe_digest
from unival.merging.vocabulary import read_tokens
from unival.weights import read_metadata

NEEDS_STATISTICS = [name for name in METHODS.names() if METHODS[name].needs_statistics]
PLAIN = [name for name in METHODS.names() if name not in NEEDS_STATISTICS]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIVAL_HASH_CACHE", str(tmp_path / "hashes.json"))


def save(folder, tensors, **texts):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    for name, value in texts.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A base and two models with a tensor of several blocks and odd sizes."""
    root = tmp_path_factory.mktemp("large")
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "embed.weight": (701, 301),
        "layers.0.weight": (48, 40),
        "layers.1.weight": (40, 48),
        "bias": (5,),
    }
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    paths = {"base": save(root / "base", base)}
    for name in "ab":
        noise = {k: torch.randn(v.shape, generator=generator) for k, v in base.items()}
        paths[name] = save(root / name, {k: base[k] + 0.01 * noise[k] for k in base})
    return paths


@pytest.mark.parametrize("method", PLAIN)
def test_same_bytes_for_any_threads_chunks_and_order(method, large, tmp_path):
    models = {name: large[name] for name in "ab"}
    base = large["base"] if METHODS[method].needs_base else None
    digests = set()
    for number, (threads, chunk, order) in enumerate(
        [(1, 1 << 16, "ab"), (2, 1 << 16, "ab"), (1, 1 << 22, "ba"), (3, 1 << 18, "ba")]
    ):
        order = "ab" if OPTIONS[method].ordered else order
        recipe = Recipe(method, tuple(order), seed=3)
        inputs = {name: models[name] for name in order}
        record = merge(recipe, inputs, base, tmp_path / str(number), threads=threads, chunk=chunk)
        digests.add(record["outputs"]["model.safetensors"])
    assert len(digests) == 1
    torch.set_num_threads(2)
    try:
        again = merge(Recipe(method, ("a", "b"), seed=3), models, base, tmp_path / "again")
    finally:
        torch.set_num_threads(1)
    assert again["outputs"]["model.safetensors"] in digests


def test_other_coefficients_options_and_seeds_give_other_bytes(large, tmp_path):
    recipes = [
        Recipe("dare", ("a", "b")),
        Recipe("dare", ("a", "b"), seed=1),
        Recipe("dare", ("a", "b"), options={"density": 0.4}),
        Recipe("dare", ("a", "b"), weights={"a": 1.0, "b": 0.5}),
    ]
    assert len({recipe_digest(recipe) for recipe in recipes}) == 4
    models = {name: large[name] for name in "ab"}
    outputs = [
        merge(r, models, large["base"], tmp_path / recipe_digest(r))["outputs"]["model.safetensors"]
        for r in recipes
    ]
    assert len(set(outputs)) == 4


def test_the_record_is_in_the_metadata_without_paths_or_times(large, tmp_path):
    models = {name: large[name] for name in "ab"}
    record = merge(Recipe("average", ("a", "b")), models, None, tmp_path / "out")
    metadata = read_metadata(tmp_path / "out" / "model.safetensors")
    inside = json.loads(metadata["unival_merge"])
    assert metadata["format"] == "pt"
    assert inside["inputs"] == record["inputs"] and inside["recipe"] == record["recipe"]
    assert str(large["a"].parent) not in json.dumps(inside)


def test_output_type_and_mixed_types(tmp_path):
    values = torch.randn(50, generator=torch.Generator().manual_seed(1))
    paths = {"a": save(tmp_path / "a", {"w": values}), "b": save(tmp_path / "b", {"w": values.bfloat16()})}
    with pytest.raises(
        UserError, match=r"types differ: float32 in .*a, bfloat16 in .*b: set the recipe's dtype"
    ):
        merge(Recipe("average", ("a", "b")), paths, None, tmp_path / "out")
    merge(Recipe("average", ("a", "b"), dtype="bfloat16"), paths, None, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")["w"]
    wanted = (values.double() + values.bfloat16().double()) / 2
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted.bfloat16())


def test_equal_matrices_are_tied_once():
    shared = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    base = {
        "shared.weight": shared,
        "lm_head.weight": shared.clone(),
        "bias": torch.zeros(9),
        "other": torch.zeros(9),
    }
    model = {k: v + 0.1 * (k != "bias") for k, v in base.items()}
    sources = {"a": StateSource(model), "b": StateSource(base)}
    plan = Plan(Recipe("dare", ("a", "b")), sources, StateSource(base))
    assert plan.tied == {"shared.weight": "lm_head.weight"}
    assert sum(job.count for job in plan.jobs.values()) == 600 + 18
    merged = merge_states(Recipe("dare", ("a", "b")), sources, StateSource(base))
    assert torch.equal(merged["shared.weight"], merged["lm_head.weight"])


def test_matrices_that_the_base_holds_apart_are_not_tied():
    """Their changes differ, although the models' matrices are equal."""
    values = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    base = {"one.weight": values, "two.weight": values + 1}
    models = {n: dict.fromkeys(base, values + i) for i, n in enumerate("ab", 1)}
    sources = {name: StateSource(state) for name, state in models.items()}
    recipe = Recipe("task_arithmetic", ("a", "b"), options={"scale": 1.0})
    assert Plan(recipe, sources, StateSource(base)).tied == {}
    assert Plan(recipe, sources, StateSource(models["a"])).tied == {"two.weight": "one.weight"}
    torch.testing.assert_close(merge_states(recipe, sources, StateSource(base))["two.weight"], values + 2)


def test_a_merge_carries_the_tasks_of_all_its_models(tmp_path):
    """Of a task in several, the first model's; the base's own come last."""
    told = {"base": {"one": 0, "three": 0}, "a": {"one": 1}, "b": {"one": 2, "two": 2}}
    paths = {name: save(tmp_path / name, {"w": torch.ones(2)}) for name in told}
    for name, tasks in told.items():
        (paths[name] / "tasks.json").write_text(json.dumps(tasks))
    base = paths.pop("base")
    merge(Recipe("average", ("a", "b")), paths, base, tmp_path / "out")
    assert json.loads((tmp_path / "out/tasks.json").read_text()) == {"one": 1, "two": 2, "three": 0}
    (paths["a"] / "tasks.json").write_text("[]")
    with pytest.raises(UserError, match=r"a/tasks.json: expected an object, found list"):
        merge(Recipe("average", ("a", "b")), paths, base, tmp_path / "again")


def tokenizer(*tokens):
    return {"model": {"vocab": {token: i for i, token in enumerate(tokens)}}, "added_tokens": []}


def test_rows_are_matched_by_token(tmp_path):
    a = torch.arange(12.0).view(4, 3)
    b = torch.tensor([[30.0, 31, 32], [10, 11, 12], [20, 21, 22]])
    paths = {
        "a": save(
            tmp_path / "a", {"embed": a, "w": torch.zeros(2)}, tokenizer=tokenizer("x", "y", "z", "new")
        ),
        "b": save(tmp_path / "b", {"embed": b, "w": torch.ones(2)}, tokenizer=tokenizer("z", "x", "y")),
    }
    with pytest.raises(UserError, match="embed: shapes differ"):
        merge(Recipe("average", ("a", "b")), paths, None, tmp_path / "out")
    recipe = Recipe("average", ("a", "b"), vocabulary=VocabularyRule("embed"))
    merge(recipe, paths, None, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    aligned = torch.stack([b[1], b[2], b[0]])
    assert torch.equal(found["embed"][:3], (a[:3] + aligned) / 2)
    assert torch.equal(found["embed"][3], a[3])  # only model a knows the token
    assert read_tokens(tmp_path / "out") == ["x", "y", "z", "new"]
    verify(tmp_path / "out")
    (paths["a"] / "tokenizer.json").write_text(json.dumps(tokenizer("y", "x", "z", "new")))
    with pytest.raises(UserError, match=r"tokenizer.json: model 'a': the file is not the one of the merge"):
        verify(tmp_path / "out")
    wrong = Recipe("average", ("a", "b"), vocabulary=VocabularyRule("emed"))
    with pytest.raises(UserError, match="vocabulary: 'emed' matches no tensor"):
        merge(wrong, paths, None, tmp_path / "wrong")
    with pytest.raises(UserError, match="needs the tokenizers of model folders"):
        merge_states(recipe, {name: StateSource({"embed": a}) for name in "ab"})
    (paths["b"] / "tokenizer.json").write_text(json.dumps(tokenizer("z", "x", "q")))
    with pytest.raises(
        UserError, match=r"no model has all tokens: 'a', the largest, is missing 1, such as \['q'\]"
    ):
        merge(recipe, paths, None, tmp_path / "out")


def test_configuration_takes_the_encoder_of_its_owner(tmp_path):
    paths = {
        "a": save(tmp_path / "a", {"w": torch.zeros(3)}, config={"size": 3, "audio": None}),
        "b": save(
            tmp_path / "b",
            {"w": torch.ones(3), "audio.w": torch.ones(2)},
            config={"size": 3, "audio": {"c": 2}},
        ),
    }
    recipe = Recipe("average", ("a", "b"), align=(AlignRule("^audio", "owners"),))
    record = merge(recipe, paths, None, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"size": 3, "audio": {"c": 2}}
    assert list(record["config_differences"]) == ["audio"]


def test_a_merge_has_the_modules_that_its_configuration_names_and_no_record_of_its_base(tmp_path):
    """Modules come from the reference, as does the key that names them."""
    named = {"size": 3, "auto_map": {"AutoModel": "modeling.Model"}}
    bare = save(tmp_path / "bare", {"w": torch.zeros(3)}, config={"size": 3}, made={"tasks": ["vqa"]})
    whole = save(tmp_path / "whole", {"w": torch.ones(3)}, config=named)
    (whole / "modeling.py").touch()
    for base, config in ((bare, {"size": 3}), (whole, named)):
        out = tmp_path / f"from-{base.name}"
        merge(Recipe("average", ("bare", "whole")), {"bare": bare, "whole": whole}, base, out)
        assert json.loads((out / "config.json").read_text()) == config
        assert (out / "modeling.py").is_file() == ("auto_map" in config)
        assert not (out / "made.json").exists()


def test_the_case_that_the_original_gets_wrong(tmp_path):
    """Index buffers through float arithmetic, an encoder in one checkpoint only, 4 x 1/4 and 2 x 1/2."""
    index = torch.arange(65536).view(256, 256)
    for number in (2, 4):
        models = {}
        for i, name in enumerate("abcd"[:number]):
            state = {"w": torch.full((3,), float(i)), "token_rp_bucket": index}
            if i == 0:
                state["audio.w"] = torch.randn(7, generator=torch.Generator().manual_seed(1))
            models[name] = StateSource(state, name)
        recipe = Recipe("average", tuple(models), align=(AlignRule("^audio", "owners"),))
        merged = merge_states(recipe, models)
        assert torch.equal(merged["audio.w"], models["a"].state["audio.w"])
        assert torch.equal(merged["token_rp_bucket"], index)
        for t in (0.05, 0.1, 0.35, 0.65, 0.9, 0.95, 1 / 6):
            line = Recipe("interpolate", ("a", "b"), options={"t": t}, align=(AlignRule("^audio", "owners"),))
            assert torch.equal(merge_states(line, {n: models[n] for n in "ab"})["token_rp_bucket"], index)


def test_seq2seq_models_of_transformers_merge_without_a_template(tmp_path):
    transformers = pytest.importorskip("transformers")
    small = {"d_model": 16, "vocab_size": 40}
    t5 = {"d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    bart = {
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    bart |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 20}
    for kind, config in (
        ("T5", transformers.T5Config(**small, **t5, feed_forward_proj="relu")),
        (
            "T5",
            transformers.T5Config(**small, **t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        ),
        ("Bart", transformers.BartConfig(**small, **bart)),
    ):
        build = getattr(transformers, f"{kind}ForConditionalGeneration")
        paths, live = {}, {}
        for seed, name in enumerate("ab"):
            torch.manual_seed(seed)
            live[name] = build(config)
            paths[name] = tmp_path / f"{kind}-{name}"
            live[name].save_pretrained(paths[name])
        out = tmp_path / "out"
        merge(Recipe("average", ("a", "b")), paths, None, out)
        merged = build.from_pretrained(out).state_dict()
        states = {name: model.state_dict() for name, model in live.items()}
        for key, value in merged.items():
            torch.testing.assert_close(value, (states["a"][key] + states["b"][key]) / 2)
        again = merge_into(build(config), Recipe("average", ("a", "b")), paths).state_dict()
        assert all(torch.equal(again[key], merged[key]) for key in merged)


def test_memory_does_not_grow_with_the_model(tmp_path):
    """Twice the size, the same peak: measured in a process of its own."""
    import os
    import subprocess
    import sys
    from pathlib import Path

    script = """
import sys, torch
from unival.merging import merge, Recipe
def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) / 1024
before = peak()
root = sys.argv[1]
merge(Recipe("ties", ("a", "b")), {n: f"{root}/{n}" for n in "ab"}, f"{root}/base", f"{root}/out")
print(peak() - before)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    grown = []
    for number in (2, 4):
        root = tmp_path / str(number)
        base = {f"w{i}": torch.randn(2_000_000) for i in range(number)}
        save(root / "base", base)
        for name in "ab":
            save(root / name, {k: v + 0.1 * torch.randn(len(v)) for k, v in base.items()})
        done = subprocess.run(
            [sys.executable, "-c", script, str(root)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        grown.append(float(done.stdout))
    assert max(grown) < 100 and grown[1] - grown[0] < 15, grown
