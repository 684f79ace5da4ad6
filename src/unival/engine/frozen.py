"""Whether a training left alone what it was told to."""

import hashlib
from collections.abc import Iterable

import torch
from torch import nn


class Frozen:
    """What must stay as it is: parameters without gradients, statistics of frozen batch norms."""

    def __init__(self, model: nn.Module, norms: Iterable[nn.Module]) -> None:
        self.model, self.norms = model, set(norms)
        self.before = self._digests()

    def moved(self) -> list[str]:
        """Names of those that changed since."""
        return [name for name, digest in self._digests().items() if digest != self.before[name]]

    def _digests(self) -> dict[str, bytes]:
        parts = {name: p.detach() for name, p in self.model.named_parameters() if not p.requires_grad}
        for name, module in self.model.named_modules():
            if module in self.norms:
                parts |= {f"{name}.{key}": buffer for key, buffer in module.named_buffers()}
        flat = {name: part.cpu().contiguous().reshape(-1).view(torch.uint8) for name, part in parts.items()}
        return {name: hashlib.sha256(part.numpy().data).digest() for name, part in flat.items()}
