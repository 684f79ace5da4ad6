"""Low-rank adaptation: the base stays, the merged model computes what the adapted one computed."""

import pytest
import torch

from unival.engine import lora
from unival.engine.settings import LoraConfig, OptimizerConfig
from unival.errors import UserError

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
