"""AdaMerging (Yang et al. 2024, arXiv 2310.02575): coefficients learnt by entropy on unlabelled inputs.

theta_l = theta_0,l + sum_i lambda_{l,i} tau_{i,l}; Adam lowers the mean entropy of the model's own outputs
over all tasks. Buffers (running statistics) have no coefficient: they are the mean of the models'. It sees
the inputs it is evaluated on, if these are given, so it is reported apart from methods without data.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unival.errors import UserError


def entropy(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean entropy of distributions (..., V) in nats, over the places where `mask` (...) is set."""
    log_p = logits.log_softmax(-1)
    values = -(log_p.exp() * log_p).sum(-1)
    return values.mean() if mask is None else (values * mask).sum() / mask.sum().clamp_min(1)


def adamerging(
    model: nn.Module,
    base: Mapping[str, Tensor],
    models: Mapping[str, Mapping[str, Tensor]],
    batches: Iterable[Any],
    loss: Callable[[Callable[..., Any], Any], Tensor],
    *,
    layerwise: bool = True,
    start: float = 0.3,
    rate: float = 1e-3,
    clamp: bool = True,
) -> dict[str, dict[str, float]]:
    """Learn lambda with one Adam step per batch (defaults of the paper).

    Args:
        model: gives the forward pass; its own weights are not touched.
        base, models: state dicts of the starting point and the experts.
        batches: unlabelled inputs of all tasks in turn.
        loss: (call, batch) -> scalar, usually `entropy` of what `call(*args, **kwargs)`, the merged model,
            returns.
        layerwise: one lambda per tensor and model, else one per model.
        clamp: keep lambda in [0, 1] after each step, as the original.

    Returns:
        Tensor name -> model -> lambda, to be used as module weights of `task_arithmetic` at scale 1.

    Raises:
        UserError: a model lacks a tensor of the base.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names = [name for name in base if name in parameters]
    experts = sorted(models)
    for expert in experts:
        if missing := [name for name in names if name not in models[expert]]:
            raise UserError(
                f"adamerging: model '{expert}' has no tensor '{missing[0]}': give models that fit"
            )
    size = (len(names) if layerwise else 1, len(experts))
    coefficients = torch.full(size, start, requires_grad=True)
    optimizer = torch.optim.Adam([coefficients], lr=rate)
    deltas = {n: torch.stack([models[e][n].float() - base[n].float() for e in experts]) for n in names}
    buffers = {
        name: torch.stack([models[expert][name] for expert in experts]).mean(0)
        for name, value in base.items()
        if name not in parameters and value.is_floating_point()
    }
    for batch in batches:
        merged = {
            name: base[name] + torch.tensordot(coefficients[row if layerwise else 0], deltas[name], 1)
            for row, name in enumerate(names)
        } | buffers

        def call(*args: Any, _merged: Mapping[str, Tensor] = merged, **kwargs: Any) -> Any:
            return functional_call(model, dict(_merged), args, kwargs)

        optimizer.zero_grad()
        value = loss(call, batch)
        if not torch.isfinite(value):  # a step on it would make every coefficient NaN
            raise UserError(f"adamerging: the loss is {float(value)}: look at the models' outputs")
        value.backward()
        optimizer.step()
        if clamp:
            with torch.no_grad():
                coefficients.clamp_(0, 1)
    table = coefficients.detach()
    return {
        name: dict(zip(experts, table[row if layerwise else 0].tolist(), strict=True))
        for row, name in enumerate(names)
    }
