"""Whether a training left alone what it was told to."""

import hashlib
from collections.abc import Iterable

import torch
from torch import nn


class Frozen:
    """What must stay as it is: parameters without gradients, statistics of frozen batch norms."""

    def __init__(self, model: nn.Module, norms: Iterable[nn.Module]) -> None:
        names = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        held = set(norms)
        for name, module in model.named_modules():
            if module in held:
                names += [f"{name}.{key}" for key, _ in module.named_buffers()]
        self.before = {name: _digest(model, name) for name in names}

    def moved(self, model: nn.Module) -> list[str]:
        """Names of those that are others in this model, which may be a copy."""
        return [name for name, digest in self.before.items() if _digest(model, name) != digest]


def _digest(model: nn.Module, name: str) -> bytes:
    owner, _, key = name.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(owner), key)
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).digest()
