"""Batches of any mix of modalities give what each row gives alone, in values and gradients."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unival.errors import UserError
from unival.model import UnivalConfig, UnivalForConditionalGeneration
from unival.model.encoder import plan_media

CHANNELS = {"image": 5, "video": 6, "audio": 7}
GRIDS = {"image": (2, 3), "video": (2, 2, 2), "audio": (3, 2)}
NAMES = {"image": "pixel", "video": "video", "audio": "audio"}


def tiny_config(**changes: Any) -> UnivalConfig:
    encoders = {f"{name}_encoder": {"type": "identity", "out_channels": n} for name, n in CHANNELS.items()}
    sizes = {
        "vocab_size": 40,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "token_bucket_size": 8,
        "image_bucket_size": 6,
        "code_image_size": 32,
        "max_source_positions": 64,
        "max_target_positions": 64,
    }
    return UnivalConfig(**(sizes | encoders | changes))


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float64) -> UnivalForConditionalGeneration:
    torch.manual_seed(seed)
    model = UnivalForConditionalGeneration(tiny_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # tables of BERT's size would hide a mistake in the biases
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Numbers of media, and for each row the media it shows (-1 none) and its text length."""
    counts = {name: draw(st.integers(0, 2)) for name in CHANNELS}
    rows = draw(st.integers(1, 4))
    shown = {
        name: draw(
            st.lists(
                st.lists(st.integers(-1, count - 1), min_size=2, max_size=2), min_size=rows, max_size=rows
            )
        )
        for name, count in counts.items()
        if count
    }
    lengths = draw(st.lists(st.integers(1, 6), min_size=rows, max_size=rows))
    return {"counts": counts, "shown": shown, "lengths": lengths, "seed": draw(st.integers(0, 99))}


def tensors(batch: dict[str, Any], dtype: torch.dtype) -> tuple[dict[str, Any], Tensor]:
    torch.manual_seed(batch["seed"])
    arguments: dict[str, Any] = {}
    for name, shown in batch["shown"].items():
        media = torch.randn(batch["counts"][name], CHANNELS[name], *GRIDS[name], dtype=dtype)
        arguments[f"{NAMES[name]}_values"] = media
        arguments[f"{NAMES[name]}_index"] = torch.tensor(shown)
    lengths = torch.tensor(batch["lengths"])
    ids = torch.randint(4, 40, (len(lengths), int(lengths.max())))
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    arguments |= {"input_ids": ids.masked_fill(~mask, 1), "attention_mask": mask}
    return arguments, torch.randint(4, 40, (len(lengths), 5))


def row_of(arguments: dict[str, Any], row: int, length: int) -> dict[str, Any]:
    """One row alone, with only the media it shows and no padding."""
    alone: dict[str, Any] = {"input_ids": arguments["input_ids"][row : row + 1, :length]}
    for name in NAMES.values():
        if f"{name}_values" in arguments:
            shown = [modality for modality in arguments[f"{name}_index"][row].tolist() if modality >= 0]
            if shown:
                alone[f"{name}_values"] = arguments[f"{name}_values"][shown]
                alone[f"{name}_index"] = torch.arange(len(shown))[None]
    return alone


def loss_gradients(model: UnivalForConditionalGeneration, logits: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    weights = torch.randn(5, logits.shape[-1], dtype=logits.dtype)
    model.zero_grad()
    (logits * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=str)
@settings(max_examples=20)
@given(batch=batches())
def test_a_batch_equals_its_rows(dtype: torch.dtype, tolerance: float, batch: dict[str, Any]) -> None:
    model = tiny_model(dtype=dtype)
    arguments, targets = tensors(batch, dtype)
    together = model(**arguments, decoder_input_ids=targets).logits
    alone = torch.cat(
        [
            model(**row_of(arguments, row, length), decoder_input_ids=targets[row : row + 1]).logits
            for row, length in enumerate(batch["lengths"])
        ]
    )
    torch.testing.assert_close(together, alone, atol=tolerance, rtol=0)
    ours, theirs = loss_gradients(model, together), loss_gradients(model, alone)
    for name in ours.keys() | theirs.keys():
        one, other = (side.get(name, torch.zeros(1, dtype=dtype)) for side in (ours, theirs))
        scale = max(1.0, other.abs().max().item())
        assert (one - other).abs().max() <= tolerance * scale, name


def test_the_order_of_the_batch_does_not_matter() -> None:
    model = tiny_model()
    batch = {
        "counts": {"image": 2, "video": 1, "audio": 1},
        "shown": {
            "image": [[0, 1], [1, -1], [-1, -1]],
            "video": [[-1], [0], [-1]],
            "audio": [[0], [-1], [-1]],
        },
        "lengths": [3, 6, 2],
        "seed": 3,
    }
    arguments, targets = tensors(batch, torch.float64)
    order = torch.tensor([2, 0, 1])
    shuffled = {name: value if name.endswith("values") else value[order] for name, value in arguments.items()}
    with torch.no_grad():
        straight = model(**arguments, decoder_input_ids=targets).logits
        other = model(**shuffled, decoder_input_ids=targets[order]).logits
    torch.testing.assert_close(other, straight[order], atol=1e-10, rtol=0)


def test_biases_are_never_stale() -> None:
    """Evaluation caches biases; every way of changing weights in place must be seen."""
    model = tiny_model()
    arguments, targets = tensors(
        {"counts": {"image": 1}, "shown": {"image": [[0], [-1]]}, "lengths": [3, 4], "seed": 0}, torch.float64
    )

    def logits() -> Tensor:
        with torch.no_grad():
            return model(**arguments, decoder_input_ids=targets).logits

    before = logits()
    assert torch.equal(before, logits())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for table in (model.encoder.relative_bias, model.decoder.cross_bias, model.decoder.relative_bias):
        with torch.no_grad():
            for parameter in table.parameters():
                parameter.mul_(1.5)
        changed = logits()
        fresh = tiny_model()
        fresh.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert torch.equal(changed, fresh(**arguments, decoder_input_ids=targets).logits)
        assert not torch.equal(changed, before)
    model.load_state_dict(state)
    assert torch.equal(logits(), before)


def test_an_index_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match="row 1 shows image 3, but the batch has 2"):
        plan_media({"image": (2, 2)}, {"image": 2}, {"image": torch.tensor([[0], [3]])}, 2, 6)
    with pytest.raises(ValueError, match="2 image media for 3 rows"):
        plan_media({"image": (2, 2)}, {"image": 2}, {"image": None}, 3, 6)


def test_media_and_rows_of_different_number_are_named() -> None:
    grids, counts = {"image": (2, 2), "video": (1, 2, 2)}, {"image": 2, "video": 3}
    for rows in (1, 3):
        with pytest.raises(ValueError, match=rf"image index has shape \[2, 1\], {rows} rows"):
            indices = {"image": torch.tensor([[0], [1]]), "video": torch.full((rows, 1), -1)}
            plan_media(grids, counts, indices, rows, 6)
    with pytest.raises(ValueError, match="3 video media for 2 rows"):
        plan_media(grids, counts, {"image": torch.tensor([[0], [1]]), "video": None}, 2, 6)


def test_a_missing_encoder_is_named() -> None:
    model = UnivalForConditionalGeneration(tiny_config(video_encoder=None))
    with pytest.raises(UserError, match="no video encoder"):
        model.encoder(torch.tensor([[5]]), video_values=torch.randn(1, 6, 2, 2, 2))
