"""Raw media through the real backbones, and the full-size base model, against recorded numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import RecordedSet, cases, decoder_inputs, inputs, official_parameters, valid_rows
from test_parity_generation import assert_same, options
from torch import Tensor

from unival.model import UnivalForConditionalGeneration
from unival.model.generation import beam_search
from unival.model.loss import sequence_loss

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4
E2E = cases("e2e.json", lambda content: [(case["name"], case["name"]) for case in content["cases"]])
E2E_GRADIENTS = cases("e2e.json", lambda content: content["gradients"].items())
BASE = cases("base.json", lambda content: [(case["name"], case["name"]) for case in content["cases"]])
BASE_SEARCHES = cases(
    "base.json", lambda content: [(search["name"], search) for search in content["generation"]]
)


@pytest.fixture(scope="module")
def load() -> Any:
    """Builds a set's model with real backbones; keeps the last one."""
    held: dict[Path, UnivalForConditionalGeneration] = {}

    def build(folder: Path) -> UnivalForConditionalGeneration:
        if folder not in held:
            held.clear()
            recorded = RecordedSet(folder)
            held[folder] = UnivalForConditionalGeneration(recorded.config(identity=False)).eval()
            recorded.weights(held[folder])
        return held[folder]

    return build


@pytest.mark.parametrize("case", E2E)
def test_raw_media(case: tuple[Path, str], load: Any) -> None:
    folder, name = case
    model, recorded = load(folder), RecordedSet(folder)
    given, expected = (recorded.tensors("e2e.safetensors", f"{name}.{side}.") for side in ("in", "out"))
    features: list[Tensor] = []
    hooks = [
        medium.backbone.register_forward_hook(lambda _, args, output: features.append(output))
        for medium in model.encoder.media.values()
    ]
    with torch.no_grad():
        encoded = model.encoder(**inputs(given))
        logits = model(encoder_outputs=encoded, **decoder_inputs(given)).logits
    for hook in hooks:
        hook.remove()
    (theirs,) = recorded.tensors("e2e.safetensors", f"{name}.mid.").values()
    torch.testing.assert_close(features[0], theirs, atol=TOLERANCE * theirs.abs().max().item(), rtol=0)
    torch.testing.assert_close(*valid_rows(expected, encoded.last_hidden_state), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logits, expected["logits"], atol=TOLERANCE, rtol=0)


def media_gradients(
    model: UnivalForConditionalGeneration, given: dict[str, Tensor], smoothing: float, dtype: torch.dtype
) -> tuple[float, int, dict[str, Tensor]]:
    """Loss, tokens and gradients by official name, computed in `dtype`."""
    model.to(dtype).zero_grad()
    given = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in given.items()
    }
    logits = model(**inputs(given), **decoder_inputs(given)).logits
    loss, count = sequence_loss(logits, given["target"], ignore_id=1, smoothing=smoothing)
    loss.backward()
    gradients = {name: p.grad.float() for name, p in official_parameters(model).items() if p.grad is not None}
    model.to(torch.float32).zero_grad()
    return loss.item(), int(count), gradients


@pytest.mark.parametrize("case", E2E_GRADIENTS)
def test_gradients_of_backbones(
    case: tuple[Path, dict[str, Any]], load: Any, request: pytest.FixtureRequest
) -> None:
    """Within 1e-4 of the largest entry, and what float32 itself loses against float64: in a deep ReLU network
    rounding moves units across zero, differently on every machine."""
    folder, recorded = case
    name = request.node.callspec.id.removeprefix(f"{folder.name}-")
    model, files = load(folder), RecordedSet(folder)
    given = files.tensors("e2e.safetensors", f"{name}.in.")
    smoothing = json.loads((folder / "config.json").read_text())["label_smoothing"]
    loss, count, gradients = media_gradients(model, given, smoothing, torch.float32)
    assert loss == pytest.approx(recorded["loss"], rel=1e-5)
    assert count == recorded["sample_size"]
    _, _, exact = media_gradients(model, given, smoothing, torch.float64)
    for key, theirs in files.tensors("e2e.safetensors", f"{name}.grad.").items():
        largest = theirs.abs().max().item()
        rounding = (gradients[key] - exact[key]).abs().max().item()
        assert rounding < 5e-3 * largest, key
        tolerance = 1e-4 * largest + 1e-6 + rounding
        torch.testing.assert_close(gradients[key], theirs, atol=tolerance, rtol=0, msg=f"{key}: {{}}".format)


@pytest.mark.parametrize("case", BASE)
def test_base(case: tuple[Path, str], load: Any) -> None:
    folder, name = case
    model, recorded = load(folder), RecordedSet(folder)
    given, expected = (recorded.tensors("base.safetensors", f"{name}.{side}.") for side in ("in", "out"))
    columns = recorded.tensors("base.safetensors", "logit_columns")[""]
    with torch.no_grad():
        encoded = model.encoder(**inputs(given))
        logits = model(encoder_outputs=encoded, **decoder_inputs(given)).logits
    torch.testing.assert_close(*valid_rows(expected, encoded.last_hidden_state), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logits[..., columns], expected["logits_columns"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logits.logsumexp(-1), expected["logsumexp"], atol=TOLERANCE, rtol=0)
    best = logits.log_softmax(-1).topk(10)
    torch.testing.assert_close(best.values, expected["top10_logprobs"], atol=TOLERANCE, rtol=0)
    apart = expected["top10_logprobs"].diff(dim=-1).abs().amin(-1) > 2 * TOLERANCE
    assert torch.equal(best.indices[apart], expected["top10_ids"][apart])


@pytest.mark.parametrize("case", BASE_SEARCHES)
def test_base_generation(case: tuple[Path, dict[str, Any]], load: Any) -> None:
    folder, search = case
    model = load(folder)
    given = RecordedSet(folder).tensors("base.safetensors", f"{search['case']}.in.")
    found = beam_search(model, inputs(given), options(search["args"], given["src_tokens"].shape[1]))
    assert_same(found, search["hyps"], model.config.pad_token_id)
