"""The shared gradient of embedding and output projection is the one that autograd would add up."""

import pytest
import torch
from torch.nn import functional as F

from unival.model.tied import lookup

PAD = 1


@pytest.mark.parametrize("head", [True, False])
def test_gradient_of_a_tied_table(head: bool) -> None:
    torch.manual_seed(0)
    table = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    source, target = torch.tensor([[3, 3, PAD], [5, 0, 3]]), torch.tensor([[4, 3], [PAD, PAD]])
    weight = torch.randn(2, 2, 11, dtype=torch.float64)

    def loss(one: torch.Tensor, two: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
        states = one.mean(1, keepdim=True) * two.tanh()
        return (F.linear(states, projection) * weight).sum() if head else states.square().sum()

    plain = loss(F.embedding(source, table, PAD), F.embedding(target, table, PAD), table)
    (expected,) = torch.autograd.grad(plain, table)
    one, flowing = lookup(table, source, PAD)
    two, flowing = lookup(flowing, target, PAD)
    shared = loss(one, two, flowing)
    assert torch.equal(shared, plain)
    torch.testing.assert_close(torch.autograd.grad(shared, table)[0], expected, atol=1e-14, rtol=0)
