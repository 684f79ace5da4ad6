"""What the image, video and audio encoders share: a base module and strict specifications."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import initialization as init

from unival import config
from unival.errors import UserError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class BackboneSpec:
    """Keys that every encoder specification has."""

    type: str


class Backbone(nn.Module):
    """An encoder: `forward(values) -> features (M, C, *grid)`, with C = `out_channels`."""

    out_channels: int

    def finish(self) -> None:
        """End of a subclass's constructor: initial values."""
        for layer in self.modules():
            init_layer(layer)

    def prepare(self, values: Tensor, memory_format: torch.memory_format) -> Tensor:
        """Pixels in the precision of the weights and the layout that convolutions are fast with."""
        return values.to(next(self.parameters()).dtype, memory_format=memory_format)

    def forward(self, values: Tensor) -> Tensor:
        """Media (M, ...) to a map of features (M, C, ...)."""
        raise NotImplementedError


def init_layer(layer: nn.Module) -> None:
    """Initial values of one layer: He-normal convolutions (fan out), identity batch norms; others are left
    alone.

    Through transformers' functions, which spare loaded tensors: a model folder that lacks an encoder can be
    loaded into a configuration that has it. They look at each layer by itself, so all encoders share this
    rule.
    """
    if isinstance(layer, nn.Conv2d | nn.Conv3d):
        init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(layer, _BatchNorm):
        init.ones_(layer.weight)
        init.zeros_(layer.bias)
        for buffer, value in (
            (layer.running_mean, 0.0),
            (layer.running_var, 1.0),
            (layer.num_batches_tracked, 0),
        ):
            if buffer is not None:
                init.constant_(buffer, value)


def read_spec(spec: Mapping[str, Any], types: Mapping[str, type[T]], where: str) -> T:
    """The typed specification of `spec["type"]`, one of `types`.

    Raises:
        UserError: unknown type or key (the nearest valid one is named), or a value of the wrong type.
    """
    kind = spec.get("type")
    if not isinstance(kind, str) or kind not in types:
        raise UserError(f"{where}: unknown type {kind!r}: {nearest(str(kind), types)}")
    return config.build(types[kind], spec, where)
