"""Statistics that some methods need, from a live model: Fisher information, Gram matrices, BatchNorm.

Written as safetensors with one tensor per weight, under the weight's name; `merge(..., statistics=...)` reads
them. What the model computes is the caller's function, so any architecture works.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unival import files, weights
from unival.errors import UserError


def fisher(
    model: nn.Module, examples: Iterable[Any], log_likelihood: Callable[[nn.Module, Any], Tensor]
) -> dict[str, Tensor]:
    """Diagonal Fisher information: the mean over examples of the squared gradient of one example.

    Args:
        examples: single examples; about 256 per task are usual (Matena & Raffel 2022).
        log_likelihood: (model, example) -> log p(y | x), summed over the target's tokens. With y drawn from
            the model it is the true Fisher, with y the label the empirical one. Squaring the gradient of a
            batch instead is another quantity, so a batch cannot be given.

    Returns:
        Parameter name -> tensor of its shape, float32. Zero where the parameter takes no part.

    Raises:
        UserError: no examples.
    """
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in model.named_parameters()}
    number = 0
    for example in examples:
        model.zero_grad(set_to_none=True)
        log_likelihood(model, example).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name].addcmul_(parameter.grad.float(), parameter.grad.float())
        number += 1
    if number == 0:
        raise UserError("fisher: no examples: give some")
    model.zero_grad(set_to_none=True)
    return {name: value / number for name, value in total.items()}


@torch.no_grad()
def grams(
    model: nn.Module, batches: Iterable[Any], run: Callable[[nn.Module, Any], Any]
) -> dict[str, Tensor]:
    """X^T X / n of the inputs of every linear layer, for RegMean: unlabelled inputs suffice.

    Args:
        batches: without padding (row by row), for padded places would count as inputs.
        run: (model, batch) -> anything; it calls the model.

    Returns:
        Weight name -> (in, in) float32; layers that never ran are left out.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, 0) + rows.mT @ rows
            counts[name] = counts.get(name, 0) + len(rows)

        return hook

    handles = [
        module.register_forward_pre_hook(watch(f"{name}.weight"))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        for batch in batches:
            run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (value / counts[name]).float() for name, value in sums.items()}


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, batches: Iterable[Any], run: Callable[[nn.Module, Any], Any]
) -> dict[str, Tensor]:
    """Replace the running statistics of every BatchNorm layer by their means over `batches`.

    Averaged weights see other activations than the averaged statistics describe (Izmailov et al. 2018,
    arXiv 1803.05407). A batch counts as the rows that the layer gets of it, so that a short last one counts
    less. Only BatchNorm layers are put in train mode; modes are restored afterwards, and the statistics of
    layers that no batch reached.

    Returns:
        The new statistics by their names in the state dict.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    layers = {name: layer for name, layer in layers.items() if layer.track_running_stats}
    before = {name: (layer.training, layer.momentum) for name, layer in layers.items()}
    old = {
        name: {key: value.clone() for key, value in layer.named_buffers()} for name, layer in layers.items()
    }
    rows: dict[nn.Module, int] = dict.fromkeys(layers.values(), 0)

    def weigh(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows[layer] += len(inputs[0])
        layer.momentum = len(inputs[0]) / rows[layer]  # type: ignore[assignment]

    for layer in layers.values():
        layer.reset_running_stats()
        layer.train()
    handles = [layer.register_forward_pre_hook(weigh) for layer in layers.values()]
    try:
        for batch in batches:
            run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
        for name, layer in layers.items():
            layer.training, layer.momentum = before[name]
            if layer.num_batches_tracked == 0:
                layer.load_state_dict(old[name], strict=False)
                del old[name]
    return {f"{name}.{key}": value for name in old for key, value in layers[name].named_buffers()}


def save(path: Path | str, tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> None:
    """Write statistics as safetensors, with what they were computed from in the metadata."""
    with files.atomic(path) as part:
        weights.save(tensors, part, {"unival_statistics": json.dumps(provenance, sort_keys=True)})
