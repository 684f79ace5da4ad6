"""What the image, video and audio encoders share: a base module and strict specifications."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unival import config
from unival.errors import UserError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class BackboneSpec:
    """Keys that every encoder specification has."""

    type: str
    frozen_batch_norm: bool = False
    """Batch norms always use their running statistics and their scale and shift do not train."""


class Backbone(nn.Module):
    """An encoder: `forward(values) -> features (M, C, *grid)`, with C = `out_channels`."""

    out_channels: int

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.frozen_batch_norm = spec.frozen_batch_norm

    def finish(self) -> None:
        """End of a subclass's constructor: initial values, then the frozen parts."""
        self.init_weights()
        if self.frozen_batch_norm:
            for norm in self.batch_norms():
                norm.requires_grad_(False)
        self.train(self.training)

    def batch_norms(self) -> list[_BatchNorm]:
        """Every batch norm of the encoder."""
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]

    def train(self, mode: bool = True) -> "Backbone":
        """As in PyTorch, except that frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen_batch_norm:
            for norm in self.batch_norms():
                norm.eval()
        return self

    def init_weights(self) -> None:
        """Draw initial values: He-normal convolutions (fan out), identity batch norms."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, _BatchNorm):
                init_batch_norm(module)

    def forward(self, values: Tensor) -> Tensor:
        raise NotImplementedError


def init_batch_norm(norm: _BatchNorm) -> None:
    """Identity scale and shift, statistics of a standard normal."""
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    if norm.running_mean is not None and norm.running_var is not None:
        nn.init.zeros_(norm.running_mean)
        nn.init.ones_(norm.running_var)


def read_spec(spec: Mapping[str, Any], types: Mapping[str, type[T]], where: str) -> T:
    """The typed specification of `spec["type"]`, one of `types`.

    Raises:
        UserError: unknown type or key (the nearest valid one is named), or a value of the wrong type.
    """
    kind = spec.get("type")
    if not isinstance(kind, str) or kind not in types:
        raise UserError(f"{where}: unknown type {kind!r}: {nearest(str(kind), types)}")
    return config.build(types[kind], spec, where)
