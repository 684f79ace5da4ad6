"""Whether a training left alone what it was told to."""

import hashlib
from collections.abc import Iterable

import torch
from torch import nn


class Frozen:
    """What must stay as it is: parameters without gradients, statistics of batch norms that are held."""

    def __init__(self, model: nn.Module, held: Iterable[nn.Module]) -> None:
        self.model, self.held = model, set(held)
        self.before = self._digests()

    def moved(self) -> list[str]:
        """Names of those that changed since."""
        return [name for name, digest in self._digests().items() if digest != self.before[name]]

    def _digests(self) -> dict[str, bytes]:
        parts = {name: p.detach() for name, p in self.model.named_parameters() if not p.requires_grad}
        for name, module in self.model.named_modules():
            if module in self.held:
                parts |= {f"{name}.{key}": buffer for key, buffer in module.named_buffers()}
        flat = {name: part.cpu().contiguous().reshape(-1).view(torch.uint8) for name, part in parts.items()}
        return {name: hashlib.sha256(part.numpy().data).digest() for name, part in flat.items()}
