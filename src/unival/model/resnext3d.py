"""Video encoder: the 3D ResNeXt of Hara et al. (CVPR 2018), grouped bottlenecks over time and space.

The full one (depths 3-4-23-3, width 128, cardinality 32) has time stride 16 and space stride 32, as in
UnIVAL; kernels and strides are free so that a few small frames keep a usable grid in the tiny model.

M videos, C channels, T frames, H, W pixels; triples are (time, height, width).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unival.model.backbone import Backbone, BackboneSpec, read_spec

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class ResNeXt3DSpec(BackboneSpec):
    """A 3D ResNeXt. Without its fourth stage (three depths) it has time stride 8 and space stride 16."""

    depths: tuple[int, ...] = (3, 4, 23, 3)
    """Blocks of each stage."""
    width: int = 128
    """Width of the grouped convolution in the first stage, doubling with each stage; the output is twice
    it."""
    cardinality: int = 32
    """Groups of the middle convolution."""
    stem_width: int = 64
    stem_kernel: Triple = (7, 7, 7)
    stem_stride: Triple = (1, 2, 2)
    pool_stride: Triple | None = (2, 2, 2)
    """Stride of the 3x3x3 max-pool after the stem; null leaves the pool out."""
    stage_strides: tuple[Triple, ...] = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    """Stride of each stage's first block; as many are used as there are stages."""

    def __post_init__(self) -> None:
        triples = {
            "stem_kernel": [self.stem_kernel],
            "stem_stride": [self.stem_stride],
            "pool_stride": [self.pool_stride or (1, 1, 1)],
            "stage_strides": self.stage_strides,
        }
        for key, values in triples.items():
            if any(len(triple) != 3 or min(triple) < 1 for triple in values):
                raise ValueError(f"{key} must be three positive numbers: time, height, width")
        if not self.depths or min(self.depths) < 1 or len(self.stage_strides) < len(self.depths):
            raise ValueError("depths must be positive, with a stride in stage_strides for each stage")
        if self.width % self.cardinality:
            raise ValueError(f"width {self.width} must be a multiple of cardinality {self.cardinality}")


def build_video_encoder(spec: Mapping[str, Any]) -> Backbone:
    """The video encoder that `spec` describes, with random weights.

    Raises:
        UserError: an unknown type or key, or a wrong value.
    """
    return ResNeXt3D(read_spec(spec, {"resnext3d": ResNeXt3DSpec}, "video_encoder"))


class ResNeXt3D(Backbone):
    """3D residual network; parameter names as in the public Kinetics weights."""

    def __init__(self, spec: ResNeXt3DSpec) -> None:
        super().__init__()
        time, height, width = spec.stem_kernel
        padding = (time // 2, height // 2, width // 2)
        self.conv1 = nn.Conv3d(3, spec.stem_width, spec.stem_kernel, spec.stem_stride, padding, bias=False)
        self.bn1 = nn.BatchNorm3d(spec.stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, spec.pool_stride, 1) if spec.pool_stride else nn.Identity()
        channels = spec.stem_width
        self.stages = [f"layer{index + 1}" for index in range(len(spec.depths))]
        for index, (name, depth) in enumerate(zip(self.stages, spec.depths, strict=True)):
            inner = spec.width * 2**index
            blocks = []
            for block in range(depth):
                stride: Triple = spec.stage_strides[index] if block == 0 else (1, 1, 1)
                blocks.append(Bottleneck3D(channels, inner, spec.cardinality, stride))
                channels = 2 * inner
            self.add_module(name, nn.Sequential(*blocks))
        self.out_channels = channels
        self.finish()

    def forward(self, values: Tensor) -> Tensor:
        """Pixels (M, 3, T, H, W) to features (M, C, T/time stride, H/stride, W/stride)."""
        values = self.prepare(values, torch.channels_last_3d)
        values = self.maxpool(self.relu(self.bn1(self.conv1(values))))
        for name in self.stages:
            values = self.get_submodule(name)(values)
        return values


class Bottleneck3D(nn.Module):
    """1x1x1, grouped 3x3x3 (strided) and 1x1x1 convolution, added to the input or its projection."""

    def __init__(self, channels: int, inner: int, cardinality: int, stride: Triple) -> None:
        super().__init__()
        outer = 2 * inner
        self.conv1 = nn.Conv3d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = nn.Conv3d(inner, inner, 3, stride, 1, groups=cardinality, bias=False)
        self.bn2 = nn.BatchNorm3d(inner)
        self.conv3 = nn.Conv3d(inner, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if max(stride) > 1 or channels != outer:
            self.downsample = nn.Sequential(
                nn.Conv3d(channels, outer, 1, stride, bias=False), nn.BatchNorm3d(outer)
            )

    def forward(self, values: Tensor) -> Tensor:
        """(M, C, T, H, W) to (M, C', T', H', W')."""
        inner = self.relu(self.bn1(self.conv1(values)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        return self.relu(self.bn3(self.conv3(inner)) + self.downsample(values))
