"""Low-rank adaptation: the base stays, the merged model computes what the adapted one computed."""

import re

import pytest
import torch

from unival.engine import lora
from unival.engine.settings import LoraConfig, OptimizerConfig
from unival.errors import UserError
from unival.model import UnivalConfig, UnivalForConditionalGeneration

from . import standins
from .test_train import run

pytest.importorskip("peft")
HIDDEN = LoraConfig(rank=2, targets="hidden")


def test_merged_model_equals_the_adapted_one():
    model = standins.model()
    lora.add(model, HIDDEN)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    inputs = torch.randn(5, 16)
    adapted = model.hidden(inputs)
    lora.merge(model)
    assert model.state_dict().keys() == standins.model().state_dict().keys()
    torch.testing.assert_close(model.hidden(inputs), adapted)


def test_only_the_adapted_layers_change(tmp_path):
    config = standins.config({"image": 4}, lora=HIDDEN, optimizer=OptimizerConfig(lr=0.1))
    weights, start = run(config, tmp_path), standins.model().state_dict()
    assert weights.keys() == run(standins.config({"image": 4}), tmp_path, "plain").keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, start[name]) == (name != "hidden.weight"), name
    assert torch.linalg.matrix_rank(weights["hidden.weight"] - start["hidden.weight"], rtol=1e-4) == 2


@pytest.mark.fault
def test_names_that_fit_no_layer():
    with pytest.raises(UserError, match=r"train.lora: targets 'hiden'"):
        lora.add(standins.model(), LoraConfig(targets="hiden"))


@pytest.mark.fault
@pytest.mark.parametrize("target", ["shared", "encoder.embed_tokens", "lm_head", "encoder.positions"])
def test_layers_whose_weights_are_used_elsewhere_too_are_refused(target):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
    model = UnivalForConditionalGeneration(UnivalConfig(vocab_size=50, **sizes, **heads))
    name = re.escape(target)  # the embedding's other names are none to peft
    why = f"'{name}' (shares its weight with|is an embedding)|modules {re.escape(name)} not found"
    with pytest.raises(UserError, match=f"train.lora: targets .*({why})"):
        lora.add(model, LoraConfig(targets=target.replace(".", r"\.")))
    tied = torch.nn.ModuleDict(
        {"a": torch.nn.Linear(4, 4), "b": torch.nn.Linear(4, 4), "c": torch.nn.Linear(4, 4)}
    )
    tied["b"].weight = tied["a"].weight
    with pytest.raises(UserError, match="'b' shares its weight with 'a'"):
        lora.add(tied, LoraConfig(targets="b|c"))
