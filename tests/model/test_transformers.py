"""The model as a citizen of transformers: files, Auto classes, generation, precisions, checkpointing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_backbones import AUDIO, IMAGE, VIDEO
from test_mixed_batches import CHANNELS, GRIDS, tensors, tiny_config, tiny_model
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

from unival.model import UnivalConfig, UnivalForConditionalGeneration
from unival.model.constraints import TokenRange, Trie
from unival.model.generation import SearchOptions, beam_search

BATCH = {
    "counts": {"image": 2, "video": 1},
    "shown": {"image": [[0, 1], [1, -1], [-1, -1]], "video": [[-1], [0], [-1]]},
    "lengths": [3, 6, 2],
    "seed": 3,
}


def batch(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    arguments, _ = tensors(BATCH, torch.float32)
    return {name: v.to(dtype) if v.is_floating_point() else v for name, v in arguments.items()}


@pytest.mark.parametrize(
    "loader",
    [UnivalForConditionalGeneration, AutoModel, AutoModelForSeq2SeqLM, AutoModelForImageTextToText],
)
def test_saved_and_loaded_bit_equal(tmp_path: Path, loader: Any) -> None:
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), UnivalConfig)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is UnivalForConditionalGeneration
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert loaded.lm_head.weight is loaded.encoder.embed_tokens.weight is loaded.decoder.embed_tokens.weight


def test_loading_in_bf16(tmp_path: Path) -> None:
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    loaded = UnivalForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    logits = loaded(**batch(torch.bfloat16), decoder_input_ids=torch.tensor([[0, 5]] * 3)).logits
    expected = model(**batch(), decoder_input_ids=torch.tensor([[0, 5]] * 3)).logits
    torch.testing.assert_close(logits.float(), expected, atol=0.1 * expected.abs().max().item(), rtol=0)


def test_bf16_weights_take_what_the_processor_gives() -> None:
    """Pixels are cast to the weights' precision; waveforms stay in float32 as far as the log-mel."""
    torch.manual_seed(0)
    encoders = {"image_encoder": IMAGE, "video_encoder": VIDEO, "audio_encoder": AUDIO}
    model = UnivalForConditionalGeneration(tiny_config(**encoders, image_bucket_size=42)).eval()
    media = {
        "pixel_values": torch.randn(1, 3, 48, 48),
        "video_values": torch.randn(1, 3, 4, 32, 32),
        "audio_values": torch.randn(1, 8000),
    }
    expected = model(**media, decoder_input_ids=torch.tensor([[0, 5]])).logits
    logits = model.bfloat16()(**media, decoder_input_ids=torch.tensor([[0, 5]])).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, atol=0.1 * expected.abs().max().item(), rtol=0)


def test_loss_of_accumulated_gradients() -> None:
    """transformers' Trainer hands over the number of labels of all the calls it sums up."""
    model, given = tiny_model(dtype=torch.float32), batch()
    labels = torch.randint(4, 40, (3, 5))
    labels[0, 2:] = -100
    whole = model(**given, labels=labels).loss
    total = torch.zeros(())
    for row in range(3):
        only = labels.masked_fill(torch.arange(3)[:, None] != row, -100)
        total += model(**given, labels=only, num_items_in_batch=12).loss.detach()
    torch.testing.assert_close(total, whole.detach())
    assert model.accepts_loss_kwargs


def test_unknown_arguments_are_named() -> None:
    model, start = tiny_model(dtype=torch.float32), torch.tensor([[0, 5]] * 3)
    model(**batch(), decoder_input_ids=start, output_attentions=None, output_hidden_states=False)
    for name in ("pixel_vales", "output_attentions"):
        with pytest.raises(TypeError, match=name):
            model(**batch(), decoder_input_ids=start, **{name: True})


@pytest.mark.parametrize(
    "arguments",
    [
        {"device_map": {"": "cpu"}},
        {"device_map": {"": "disk"}},
        {"device_map": "auto", "max_memory": {"cpu": 45_000}},  # about half of the weights, the rest on disk
    ],
    ids=["cpu", "disk", "both"],
)
def test_loading_onto_a_device_map(arguments: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    arguments |= {"offload_folder": tmp_path / "offloaded"}
    loaded = UnivalForConditionalGeneration.from_pretrained(tmp_path, **arguments)
    with torch.no_grad():
        expected = model.generate(**batch(), max_new_tokens=5)
        assert torch.equal(loaded.generate(**batch(), max_new_tokens=5), expected)


@pytest.mark.parametrize(
    "arguments", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str
)
def test_generation_with_and_without_cache(arguments: dict[str, Any]) -> None:
    model = tiny_model(dtype=torch.float32)
    with_cache = model.generate(**batch(), max_new_tokens=40, **arguments)
    without = model.generate(**batch(), max_new_tokens=40, use_cache=False, **arguments)
    assert torch.equal(with_cache, without)


def test_sampling_and_processors() -> None:
    model = tiny_model(dtype=torch.float32)
    torch.manual_seed(0)
    ids = model.generate(**batch(), do_sample=True, max_new_tokens=6, suppress_tokens=[7, 8])
    assert ids.shape[0] == 3 and not torch.isin(ids, torch.tensor([7, 8])).any()
    trie = {0: [5], 5: [6, 9], 6: [2], 9: [2], 2: [2], 1: [1]}
    allowed = model.generate(
        **batch(), num_beams=2, max_new_tokens=5, prefix_allowed_tokens_fn=lambda _, sent: trie[int(sent[-1])]
    )
    search = beam_search(
        model, batch(), SearchOptions(2, 4, normalised=False), constraint=Trie([[5, 6], [5, 9]], 2)
    )
    assert torch.equal(allowed[:, 2:4], search.tokens[:, 0, 1:3])


def test_greedy_search_equals_generate() -> None:
    model = tiny_model(dtype=torch.float32)
    theirs = model.generate(**batch(), max_new_tokens=12, min_new_tokens=12)
    ours = beam_search(model, batch(), SearchOptions(1, max_tokens=12, min_tokens=12))
    assert torch.equal(ours.tokens[:, 0, :12], theirs[:, 1:13])


@pytest.mark.parametrize("autocast", [False, True])
def test_search_in_bf16(autocast: bool) -> None:
    options, exact = SearchOptions(3, max_tokens=1), tiny_model(dtype=torch.float32)
    expected = beam_search(exact, batch(), options).scores
    dtype = torch.float32 if autocast else torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, autocast):
        found = beam_search(exact.to(dtype), batch(dtype), options).scores
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[:, 0], expected[:, 0], atol=0.2, rtol=0)


def test_a_prefix_is_scored_as_the_model_does() -> None:
    """Rows with prompts of different length: each is forced, then continued as alone."""
    model = tiny_model(dtype=torch.float64)
    prefix = torch.tensor([[5, 6, 7], [8, 1, 1], [9, 10, 1]])
    constraint = TokenRange(20, 30, range(4))
    options = SearchOptions(3, max_tokens=6, normalised=False)
    together = beam_search(model, batch(torch.float64), options, prefix_BP=prefix, constraint=constraint)
    scores = model(
        **batch(torch.float64), decoder_input_ids=torch.cat([torch.zeros(3, 1).long(), prefix], 1)
    ).logits
    for row, length in enumerate((3, 1, 2)):
        assert together.tokens[row, 0, :length].tolist() == prefix[row, :length].tolist()
        expected = scores[row].log_softmax(-1)[torch.arange(length), prefix[row, :length]]
        torch.testing.assert_close(together.token_scores[row, 0, :length], expected, atol=1e-9, rtol=0)
        rest = together.tokens[row, 0, length:]
        assert ((rest < 4) | ((rest >= 20) & (rest < 30))).all()


def test_a_static_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="dynamic"):
        tiny_model(dtype=torch.float32).generate(**batch(), max_new_tokens=4, cache_implementation="static")


def test_gradient_checkpointing_changes_nothing() -> None:
    torch.manual_seed(0)
    model = UnivalForConditionalGeneration(
        tiny_config(dropout=0.0, encoder_drop_path=0.0, decoder_drop_path=0.0)
    )
    labels = torch.randint(4, 40, (3, 5))
    model.train()
    model(**batch(), labels=labels).loss.backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch(), labels=labels).loss.backward()
    for name, gradient in plain.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient)


def test_initial_values_are_berts() -> None:
    torch.manual_seed(0)
    model = UnivalForConditionalGeneration(tiny_config(d_model=64))
    assert model.shared.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.shared.weight[model.config.pad_token_id].any()
    assert model.encoder.relative_bias.grid[0].weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not model.decoder.layers[0].ffn.fc1.bias.any()
    assert (model.decoder.layers[0].cross_attn.head_gain == 1).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*functools.lru_cache")
def test_compiled_forward_fits_every_batch_of_a_kind() -> None:
    """After two batches other numbers of rows, media and tokens compile nothing anew: else training would
    compile for hours."""
    model = tiny_model(dtype=torch.float32)
    graphs = []

    def step(rows: int, length: int) -> Tensor:
        ids, targets = torch.arange(4, 4 + length).repeat(rows, 1), torch.arange(4, 4 + rows).repeat(rows, 1)
        index = torch.arange(rows // 2).repeat_interleave(2)[:, None]
        pixels = torch.full((rows // 2, CHANNELS["image"], *GRIDS["image"]), 0.1 * length)
        return model(ids, pixel_values=pixels, pixel_index=index, decoder_input_ids=targets).logits

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph

    sizes = [(4, 5), (6, 7), (8, 4), (10, 9)]
    expected = [step(*size) for size in sizes]
    model.compile(dynamic=True, backend=backend)
    made = []
    try:
        for size, logits in zip(sizes, expected, strict=True):
            torch.testing.assert_close(step(*size), logits)
            made.append(len(graphs))
    finally:
        torch.compiler.reset()
    assert 0 < made[1] == made[-1]
