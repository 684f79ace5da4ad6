"""The core of the model against recorded numbers of the original: states, logits, cached decoding."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import RecordedSet, cases, core_model, decoder_inputs, inputs, sets, valid_rows
from torch import Tensor

from unival.model import UnivalForConditionalGeneration
from unival.model.modeling import CACHE
from unival.model.positions import code_ids, grid_bucket, text_relative_index

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4
CASES = cases("cases.json", lambda content: [(case["name"], case["name"]) for case in content["cases"]])


def recorded_case(
    case: tuple[Path, str],
) -> tuple[UnivalForConditionalGeneration, dict[str, Tensor], dict[str, Tensor]]:
    folder, name = case
    given, expected = (
        RecordedSet(folder).tensors("cases.safetensors", f"{name}.{side}.") for side in ("in", "out")
    )
    return core_model(folder), given, expected


@pytest.mark.parametrize("case", CASES)
def test_encoder_and_logits(case: tuple[Path, str]) -> None:
    model, given, expected = recorded_case(case)
    arguments = inputs(given)
    for _ in range(2):  # the second call finds the biases in the cache
        with torch.no_grad():
            encoded = model.encoder(**arguments)
            logits = model(
                encoder_outputs=encoded, code_mask=arguments.get("code_mask"), **decoder_inputs(given)
            ).logits
        torch.testing.assert_close(*valid_rows(expected, encoded.last_hidden_state), atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(logits, expected["logits"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_decoding_step_by_step(case: tuple[Path, str]) -> None:
    model, given, expected = recorded_case(case)
    tokens, cache, logits = given["prev_output_tokens"], None, []
    with torch.no_grad():
        encoded = model.encoder(**inputs(given))
        for step in range(tokens.shape[1]):
            output = model(
                encoder_outputs=encoded,
                decoder_input_ids=tokens[:, step : step + 1],
                code_mask=given.get("code_masks"),
                cache=cache,
                use_cache=True,
            )
            cache = output[CACHE]
            logits.append(output.logits)
    real = tokens != model.config.pad_token_id
    torch.testing.assert_close(torch.cat(logits, 1)[real], expected["logits"][real], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_states_of_each_layer(case: tuple[Path, str]) -> None:
    model, given, expected = recorded_case(case)
    if "encoder_state_0" not in expected:
        pytest.skip("no states recorded for this case")
    seen: dict[str, list[Tensor]] = {"encoder": [], "decoder": []}
    attended: list[tuple[Any, ...]] = []
    hooks = [
        model.decoder.layers[-1].cross_attn.register_forward_pre_hook(lambda _, args: attended.append(args))
    ]
    for stack, states in seen.items():
        layers = getattr(model, stack).layers
        hooks.append(
            layers[0].register_forward_pre_hook(lambda _, args, states=states: states.append(args[0]))
        )
        hooks += [
            layer.register_forward_hook(lambda _, a, out, states=states: states.append(out))
            for layer in layers
        ]
    with torch.no_grad():
        model(**inputs(given), **decoder_inputs(given))
    for hook in hooks:
        hook.remove()
    valid = {"encoder": ~expected["encoder_padding_mask"], "decoder": given["prev_output_tokens"] != 1}
    for stack, states in seen.items():
        for index, ours in enumerate(states):
            theirs = expected[f"{stack}_state_{index}"].transpose(0, 1)
            torch.testing.assert_close(ours[valid[stack]], theirs[valid[stack]], atol=TOLERANCE, rtol=0)
    attention = mean_attention(model.decoder.layers[-1].cross_attn, *attended[0])
    torch.testing.assert_close(
        attention[valid["decoder"]], expected["cross_attn_mean"][valid["decoder"]], atol=TOLERANCE, rtol=0
    )


def mean_attention(module: Any, states: Tensor, key: Tensor, _: Tensor, bias: Tensor) -> Tensor:
    """The attention probabilities averaged over heads (B, T, S)."""
    query = module.q_proj(states).unflatten(-1, (module.heads, -1)).transpose(1, 2)
    return (query @ key.mT * module.scale + bias).softmax(-1).mean(1).detach()


@pytest.mark.parametrize("folder", [pytest.param(path, id=path.name) for path in sets("cases.json")])
def test_buckets(folder: Path) -> None:
    """The original stores its index tables in checkpoints; ours are recomputed and must be the same bytes."""
    config = core_model(folder).config
    recorded = json.loads((folder / "config.json").read_text())["buffers"]
    length, grid = config.token_bucket_max_distance, config.image_bucket_size
    tokens = text_relative_index(0, length, config.token_bucket_size, length, torch.device("cpu"))
    ids = torch.arange(grid**2 + 1)
    for name, ours in {"token_rp_bucket": tokens, "image_rp_bucket": grid_bucket(ids, ids, grid)}.items():
        assert list(ours.shape) == recorded[name]["shape"]
        assert hashlib.sha256(ours.contiguous().numpy().tobytes()).hexdigest() == recorded[name]["sha256"]
    width = config.code_image_size // 8
    ours, head = code_ids(width**2 + 1, width, grid).tolist(), recorded["image_position_idx"]["head"]
    shared = min(len(ours), len(head))  # of the recorded table only the start is stored
    assert ours[:shared] == head[:shared]
