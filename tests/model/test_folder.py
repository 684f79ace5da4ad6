"""A model folder is whole, finite and of this kind, or one line says what is not; 16 bits become 32."""

import errno
import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_backbones import AUDIO, IMAGE, VIDEO
from test_mixed_batches import tiny_model

from unival.engine.inference.predictor import Predictor
from unival.errors import UserError
from unival.model import UnivalConfig, UnivalForConditionalGeneration, UnivalProcessor
from unival.model.attention import LayerNorm
from unival.model.convert import export
from unival.model.folder import read, read_model, write_model
from unival.study.models import load_model
from unival.vocab import UnivalTokenizer
from unival.weights import INDEX, WEIGHTS

BYTES = 20_000
LAYER = "decoder.layers.1.ffn.fc1.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with every kind of encoder."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = UnivalTokenizer.train([" what color is the square?", " what is heard?"] * 4, 300, 4, 10)
    sizes = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
    }
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    media = {"image_encoder": IMAGE, "video_encoder": VIDEO, "audio_encoder": AUDIO}
    config = UnivalConfig(vocab_size=len(tokenizer), **sizes, **heads, **media)
    torch.manual_seed(0)
    write_model(UnivalForConditionalGeneration(config), folder)
    UnivalProcessor(tokenizer, image_size=32).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def changed(folder: Path, change: Any) -> None:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, {"format": "pt"})


def rewritten(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_was_written_is_read(folder: Path) -> None:
    model, processor = read(folder, {"image_size": 48})
    assert processor.image_size == 48 and not model.training
    stored = load_file(folder / WEIGHTS)
    state = model.state_dict()
    assert stored.keys() <= state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in stored.items())
    assert model.lm_head.weight is model.shared.weight is model.encoder.embed_tokens.weight
    plain = folder / "plain"
    plain.touch()
    assert {path.stat().st_mode for path in folder.iterdir()} == {plain.stat().st_mode}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_training_starts_in_float32_and_moves(folder: Path, dtype: torch.dtype) -> None:
    """In 16 bits an update of 1e-4 rounds to nothing for most weights."""
    saved = UnivalForConditionalGeneration.from_pretrained(folder).to(dtype)
    saved.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype)[6:]
    model, _ = load_model(folder)
    assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {
        torch.float32
    }
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    for name, tensor in saved.named_parameters():
        assert torch.equal(tensor.float(), before[name])
    model.train()
    model(input_ids=torch.tensor([[0, 5, 6]]), labels=torch.tensor([[7, 8, 2]])).loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-4).step()
    with_gradient = [(n, p) for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    moved = sum(int((p != before[n]).sum()) for n, p in with_gradient)
    assert moved > 0.99 * sum(int((p.grad != 0).sum()) for _, p in with_gradient if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_tensors_in_8_bits_are_read(folder: Path, dtype: torch.dtype) -> None:
    state = load_file(folder / WEIGHTS)
    state[LAYER] = state[LAYER].to(dtype)
    save_file(state, folder / WEIGHTS)
    assert torch.equal(read_model(folder).state_dict()[LAYER], state[LAYER].float())


@pytest.mark.fault
@pytest.mark.parametrize(
    "reader", [read_model, load_model, Predictor.load, lambda f: export(f, f / "out.pt")]
)
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop(LAYER), f"the model lacks '{LAYER}': make or copy it again"),
        (
            lambda s: [s.pop(n) for n in list(s) if n.startswith("decoder.layers.1.")],
            "1 layers of the decoder, 2",
        ),
        (lambda s: [s.pop(n) for n in list(s) if "ffn" in n], r"lacks 'encoder\S+' and \d+ more"),
        (
            lambda s: s.update({LAYER: s[LAYER][:, 1:].clone()}),
            rf"'{LAYER}' is \[16, 15\], by config.json \[16, 16\]",
        ),
        (lambda s: s.update(extra=torch.ones(1)), "has no place for 'extra'"),
        (lambda s: s[LAYER][3].fill_(float("nan")), f"'{LAYER}' holds NaN or infinity"),
        (lambda s: s["shared.weight"][0].fill_(float("inf")), "'shared.weight' holds NaN or infinity"),
        (lambda s: s.update({"lm_head.weight": s["shared.weight"] + 1}), r"is not as '\S+', its other name"),
        (lambda s: s.update({LAYER: s[LAYER].to(torch.int8)}), f"'{LAYER}' is int8, .*: save it unquantised"),
        (lambda s: s.update({"x.lora_A.weight": torch.ones(1)}), "an adapter"),
        (lambda s: s.clear(), "0 layers of the encoder, 1"),
    ],
)
def test_weights_that_are_not_the_models_are_named(
    folder: Path, reader: Any, change: Any, match: str
) -> None:
    changed(folder, change)
    with pytest.raises(UserError, match=match) as told:
        reader(folder)
    assert str(folder) in str(told.value) and "\n" not in str(told.value)


def test_a_tied_matrix_may_be_stored_under_any_of_its_names(folder: Path) -> None:
    changed(folder, lambda state: state.update({"lm_head.weight": state["shared.weight"].clone()}))
    whole = read_model(folder).state_dict()
    changed(folder, lambda state: state.pop("shared.weight"))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in read_model(folder).state_dict().items())


@pytest.mark.fault
@pytest.mark.parametrize(
    "values",
    [
        {"d_model": "wide"}, {"d_model": None}, {"d_model": -16}, {"d_model": 16.5}, {"d_model": 2**62},
        {"d_model": [16]}, {"d_model": True}, {"decoder_layers": 10**9}, {"decoder_layers": -1},
        {"encoder_attention_heads": 0}, {"encoder_attention_heads": 3}, {"decoder_ffn_dim": 2**62},
        {"vocab_size": "300"}, {"vocab_size": 0}, {"vocab_size": 5},
        {"pad_token_id": 10**6}, {"pad_token_id": -2},
        {"dropout": float("nan")}, {"dropout": -1.0}, {"token_bucket_size": 2**62}, {"token_bucket_size": 0},
        {"max_source_positions": 10**12}, {"image_bucket_size": 0}, {"image_encoder": {"type": "resnt"}},
        {"image_encoder": 5}, {"image_encoder": {}}, {"image_encoder": None},
        {"audio_encoder": {"type": "cnn14", "x": 1}}, {"tie_word_embeddings": "no"},
        {"model_type": "bart"}, {"model_type": None}, {"model_type": ["unival"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_does_not_fit_is_one_line(folder: Path, values: dict[str, Any]) -> None:
    rewritten(folder / "config.json", **values)
    with pytest.raises(UserError, match=str(folder)):
        read(folder)


@pytest.mark.fault
@pytest.mark.parametrize(
    "name", ["config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS]
)
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe\x00", b"[" * 100_000, None]
)
def test_a_damaged_file_is_one_line(folder: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=str(folder)) as told:
        read(folder)
    assert "\n" not in str(told.value)


@pytest.mark.fault
@pytest.mark.parametrize("part", ["model", "added_tokens", "pre_tokenizer", "decoder", "post_processor"])
@pytest.mark.parametrize("value", [None, {}, [], 7, "x"])
def test_a_tokenizer_of_wrong_parts_is_one_line_or_works(folder: Path, part: str, value: Any) -> None:
    rewritten(folder / "tokenizer.json", **{part: value})
    try:
        read(folder)
    except UserError as error:
        assert str(folder) in str(error)


@pytest.mark.fault
@pytest.mark.parametrize(
    "values",
    [
        {"sampling_rate": 10**400}, {"sampling_rate": 0}, {"audio_seconds": 1e308}, {"audio_seconds": -1.0},
        {"image_size": 10**9}, {"image_size": "48"}, {"video_frames": 10**12}, {"video_size": 10**6},
        {"image_mean": [0.5]}, {"image_std": [0, 1, 1]}, {"image_mean": [float("nan")] * 3}, {"size": 4},
    ],
    ids=lambda values: str(values)[:40],
)  # fmt: skip
def test_settings_of_a_processor_that_no_medium_has_are_one_line(
    folder: Path, values: dict[str, Any]
) -> None:
    rewritten(folder / "processor_config.json", **values)
    with pytest.raises(UserError, match=r"processor_config\.json: "):
        read(folder)


@pytest.mark.fault
def test_media_beyond_the_positions_are_one_line(folder: Path, tmp_path: Path) -> None:
    """The settings of a processor are sound, but another model's."""
    rewritten(folder / "processor_config.json", image_size=1024)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"image: .*: the model needs smaller media"):
        Predictor.load(folder)(tmp_path / "a.png")


@pytest.mark.fault
def test_a_cut_file_and_another_ones_tokenizer_are_named(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-7])
    with pytest.raises(UserError, match="was cut short"):
        read(folder)
    (folder / WEIGHTS).write_bytes(content)
    (folder / INDEX).write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(UserError, match="two models"):
        read(folder)
    (folder / INDEX).unlink()
    UnivalTokenizer.train([" what is heard?"] * 4, 300, 40, 400).save_pretrained(folder)
    with pytest.raises(UserError, match="it is the tokenizer of another one"):
        read(folder)


def test_a_norm_over_many_rows_has_the_gradient_of_float32() -> None:
    norm, rows = LayerNorm(32), torch.randn(20_000, 32).bfloat16()
    slope = torch.randn(20_000, 32) + 0.1
    (norm(rows.float()) * slope).sum().backward()
    exact = norm.weight.grad.clone(), norm.bias.grad.clone()  # type: ignore[union-attr]
    norm.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        (norm(rows) * slope).sum().backward()
    for found, right in zip((norm.weight.grad, norm.bias.grad), exact, strict=True):
        assert float((found - right).norm() / right.norm()) < 0.01


@pytest.mark.parametrize("threads", [1, 2])
def test_norms_sum_their_gradients_in_float32_under_autocast(threads: int) -> None:
    """Over many rows: in bfloat16 what one row adds is lost beside the sum."""

    def gradients(autocast: bool) -> dict[str, torch.Tensor]:
        model = tiny_model(dtype=torch.float32).eval()
        generator = torch.Generator().manual_seed(1)
        source, target = (torch.randint(4, 30, (256, length), generator=generator) for length in (20, 12))
        with torch.autocast("cpu", torch.bfloat16, autocast):
            loss = model(input_ids=source, labels=target).loss
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        exact, found = gradients(False), gradients(True)
    finally:
        torch.set_num_threads(before)
    norms = [name for name in exact if "norm" in name and exact[name].any()]
    assert len(norms) > 20
    for name in norms:
        assert float((found[name] - exact[name]).norm() / exact[name].norm()) < 0.1, name


@pytest.mark.fault
@pytest.mark.parametrize("name", ["folder", "model.pt", "model.safetensors"])
def test_a_file_that_the_system_lets_grow_no_further(name: str, made: Path, tmp_path: Path) -> None:
    """Each library that writes weights has words of its own for it; callers hear the system's."""
    model = read_model(made)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, limits[1]))
    try:
        with pytest.raises(OSError) as refused:
            export(made, tmp_path / name) if "." in name else write_model(model, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.errno == errno.EFBIG
    assert not (tmp_path / name).is_file()
