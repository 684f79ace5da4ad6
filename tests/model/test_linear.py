"""Linear maps by oneDNN are those of PyTorch, with their gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unival.model import linear as module

INPUTS, OUTPUTS = 512, 640


@pytest.fixture
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what goes through oneDNN from here on, on any CPU that has it."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch is built without oneDNN")
    monkeypatch.setattr(module, "ONEDNN", True)
    shapes: list[tuple[int, ...]] = []
    product = module._product

    def noted(states: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        shapes.append(tuple(states.shape))
        return product(states, weight_OI, bias_O)

    monkeypatch.setattr(module, "_product", noted)
    return shapes


def tensors(*leading: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((*leading, INPUTS), (OUTPUTS, INPUTS), (OUTPUTS,))
    made = (torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)
    return tuple(made)  # type: ignore[return-value]


@pytest.mark.parametrize("leading", [(16,), (3, 5)])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients(
    by_onednn: list[tuple[int, ...]], leading: tuple[int, ...], biased: bool
) -> None:
    states, weight, bias = tensors(*leading)
    grad = torch.randn(*leading, OUTPUTS)
    found = []
    for function in (module.linear, F.linear):
        output = function(states, weight, bias if biased else None)
        wanted = [states, weight, *([bias] if biased else [])]
        found.append([output, *torch.autograd.grad(output, wanted, grad)])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    assert len(by_onednn) == 3  # forward, and both gradients


def test_frozen_parts_cost_nothing(by_onednn: list[tuple[int, ...]]) -> None:
    states, weight, bias = tensors(16)
    module.linear(states, weight.detach(), bias.detach()).sum().backward()
    assert weight.grad is None and bias.grad is None and states.grad is not None
    assert len(by_onednn) == 2


def test_many_rows_of_a_small_weight_without_gradients(by_onednn: list[tuple[int, ...]]) -> None:
    states, weight, bias = tensors(512)
    weight, bias = weight[:64], bias[:64]
    plain = module.linear(states, weight, bias)
    assert not by_onednn
    with torch.no_grad():
        torch.testing.assert_close(module.linear(states, weight, bias), plain, rtol=1e-4, atol=1e-4)
    assert by_onednn == [(512, INPUTS)]


@pytest.mark.parametrize("case", ["few rows", "small weight", "double", "autocast"])
def test_the_rest_is_pytorchs(by_onednn: list[tuple[int, ...]], case: str) -> None:
    states, weight, bias = tensors(2 if case == "few rows" else 16)
    if case == "small weight":
        weight, bias = weight[:64], bias[:64]
    if case == "double":
        states, weight, bias = states.double(), weight.double(), bias.double()
    with torch.autocast("cpu", enabled=case == "autocast"):
        output = module.linear(states, weight, bias)
        assert torch.equal(output, F.linear(states, weight, bias))
    assert not by_onednn
