"""Image encoders: any convolutional feature network of timm, and OFA's ResNet with its stages and stem free.

`timm` with `resnet50/101/152` is UnIVAL's (v1.5 bottlenecks, four stages, stride 32, 2048 channels); `resnet`
with three stages is OFA's (stride 16, 1024 channels), and with small widths the one of the tiny model.

M images, C channels, H, W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unival.errors import UserError
from unival.model.backbone import Backbone, BackboneSpec, read_spec


@dataclass(frozen=True)
class TimmSpec(BackboneSpec):
    """A network of timm by name; its last feature map is used."""

    name: str = "resnet101"


@dataclass(frozen=True)
class ResNetSpec(BackboneSpec):
    """A ResNet of bottlenecks. The stride is `stem_stride` times 2 for each stage after the first."""

    depths: tuple[int, ...] = (3, 4, 23)
    """Blocks of each stage."""
    width: int = 64
    """Inner width of the first stage (and channels of the stem); it doubles with each stage."""
    expansion: int = 4
    """Outer width of a stage over its inner width."""
    stem_stride: int = 4
    """4: a 7x7 convolution of stride 2 and a max-pool of stride 2; 2: the convolution alone."""
    stem_kernel: int = 7

    def __post_init__(self) -> None:
        if self.stem_stride not in (2, 4):
            raise ValueError(f"stem_stride must be 2 or 4, not {self.stem_stride}")
        if not self.depths or min(self.depths) < 1 or min(self.width, self.expansion) < 1:
            raise ValueError("depths, width and expansion must be positive")
        if self.stem_kernel % 2 == 0:
            raise ValueError(f"stem_kernel must be odd, not {self.stem_kernel}")


def build_image_encoder(spec: Mapping[str, Any]) -> Backbone:
    """The image encoder that `spec` describes, with random weights (nothing is ever downloaded).

    Raises:
        UserError: an unknown type, key or timm network.
    """
    typed: TimmSpec | ResNetSpec = read_spec(spec, {"timm": TimmSpec, "resnet": ResNetSpec}, "image_encoder")
    return TimmEncoder(typed) if isinstance(typed, TimmSpec) else ResNet(typed)


class TimmEncoder(Backbone):
    """The convolutional part of a timm network, under timm's own parameter names."""

    def __init__(self, spec: TimmSpec) -> None:
        super().__init__()
        import timm
        from timm.models import FeatureListNet

        if not timm.is_model(spec.name):
            near = ", ".join(timm.list_models(f"*{spec.name[:6]}*")[:5]) or "see timm.list_models()"
            raise UserError(f"image_encoder: timm has no network '{spec.name}': {near}")
        network = timm.create_model(spec.name, pretrained=False, features_only=True, out_indices=(-1,))
        if not isinstance(network, FeatureListNet):
            raise UserError(
                f"image_encoder: '{spec.name}' is not a plain convolutional network: take a ResNet"
            )
        self.out_channels = network.feature_info.channels()[-1]
        self.body = list(network.keys())
        for name, module in network.items():
            self.add_module(name, module)
        self.finish()

    def forward(self, values: Tensor) -> Tensor:
        """Pixels (M, 3, H, W) to features (M, C, H/stride, W/stride)."""
        values = self.prepare(values, torch.channels_last)
        for name in self.body:
            values = self.get_submodule(name)(values)
        return values


class ResNet(Backbone):
    """Residual network of v1.5 bottlenecks (the stride sits in the 3x3 convolution)."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, spec.width, spec.stem_kernel, 2, spec.stem_kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(spec.width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if spec.stem_stride == 4 else nn.Identity()
        channels = spec.width
        self.stages = [f"layer{index + 1}" for index in range(len(spec.depths))]
        for index, (name, depth) in enumerate(zip(self.stages, spec.depths, strict=True)):
            inner = spec.width * 2**index
            blocks = []
            for block in range(depth):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(Bottleneck(channels, inner, inner * spec.expansion, stride))
                channels = inner * spec.expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.out_channels = channels
        self.finish()

    def forward(self, values: Tensor) -> Tensor:
        """Pixels (M, 3, H, W) to features (M, C, H/stride, W/stride)."""
        values = self.prepare(values, torch.channels_last)
        values = self.maxpool(self.relu(self.bn1(self.conv1(values))))
        for name in self.stages:
            values = self.get_submodule(name)(values)
        return values


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolution with batch norms, added to the input or its projection."""

    def __init__(self, channels: int, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != outer:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, values: Tensor) -> Tensor:
        """(M, C, H, W) to (M, C', H', W')."""
        inner = self.relu(self.bn1(self.conv1(values)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        return self.relu(self.bn3(self.conv3(inner)) + self.downsample(values))
