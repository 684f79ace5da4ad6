"""The encoder: text and any mix of media in one sequence.

A row's sequence is [image tokens, video tokens, audio tokens, text]; the media part is padded to the longest
row. Each medium is encoded once, however many rows show it.

B rows, M media of one modality, K media per row, S text tokens, U distinct layouts, L = media + text tokens,
D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput

from unival.device import sent
from unival.errors import UserError, nearest
from unival.model.attention import (
    Attention,
    FeedForward,
    LayerNorm,
    Residual,
    attention_scale,
    drop_path_rates,
)
from unival.model.cnn14 import build_audio_encoder
from unival.model.configuration import UnivalConfig
from unival.model.linear import Linear
from unival.model.positions import (
    AbsoluteBias,
    BiasCache,
    RelativeTables,
    Segment,
    Table,
    encoder_relative_index,
    mask_value,
    segment_ids,
    text_relative_index,
)
from unival.model.resnet import build_image_encoder
from unival.model.resnext3d import build_video_encoder

BACKBONES = {"image": build_image_encoder, "video": build_video_encoder, "audio": build_audio_encoder}
Layout = tuple[Segment, ...]


class IdentityBackbone(nn.Module):
    """Takes feature maps that were computed elsewhere."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels

    def forward(self, values: Tensor) -> Tensor:
        """(M, C, *grid), unchanged."""
        return values


def build_backbone(modality: str, spec: dict[str, Any]) -> nn.Module:
    """The backbone of a modality, `values -> (M, C, *grid)` with the attribute `out_channels`."""
    if spec.get("type") == "identity":
        return IdentityBackbone(spec["out_channels"])
    return BACKBONES[modality](spec)


class MediaEmbedding(nn.Module):
    """A modality's backbone, its projection to the model's width and its table of grid positions."""

    def __init__(self, config: UnivalConfig, modality: str) -> None:
        super().__init__()
        self.backbone = build_backbone(modality, config.media[modality])
        self.projection = Linear(self.backbone.out_channels, config.d_model)  # type: ignore[arg-type]
        self.positions = Table(config.image_bucket_size**2 + 1, config.d_model)

    def forward(self, values: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Media of one modality -> (M, tokens, D) and the grid of the feature map."""
        features = self.backbone(values)
        return self.projection(features.flatten(2).transpose(1, 2)), tuple(features.shape[2:])


@dataclass
class MediaTokens:
    """Embedded media of a batch, which several calls on parts of its rows can share."""

    tokens: list[Tensor]
    """Normalised tokens (M, tokens, D) of each modality present."""
    grids: dict[str, tuple[int, ...]]
    """Their feature maps."""
    counts: dict[str, int]
    """M of each modality."""


@dataclass
class MediaPlan:
    """Which media tokens each row shows: made on the host from the index tensors."""

    layouts: list[Layout]
    """The U distinct ones."""
    row_layout: list[int]
    """B indices into them."""
    token_index: Tensor | None
    """(B, L) into all media tokens of the batch; None where rows show one medium each, in order."""
    mask: Tensor | None
    """(B, L) bool, None where no row is shorter than another."""
    length: int


@dataclass
class EncoderPositions:
    """The normalised position states that the decoder's cross-attention bias needs."""

    states: Tensor
    """(U, L, D)."""
    row_layout: Tensor | None
    """(B,), None where all rows share one layout."""
    cache: BiasCache

    def rows(self, per_layout: Tensor, rows: int) -> Tensor:
        """Expand (U, ...) to (rows, ...), or leave (1, ...). Rows may be repeated for beams."""
        if self.row_layout is None:
            return per_layout
        row_layout = self.row_layout.repeat_interleave(rows // len(self.row_layout))
        return per_layout.index_select(0, row_layout.to(per_layout.device))


@dataclass
class UnivalEncoderOutput(ModelOutput):
    """What the decoder needs of the encoder.

    last_hidden_state: (B, L, D). attention_mask: (B, L) bool, False at padding, or None without padding.
    positions: not a tensor, so that `generate` leaves it as it is when it repeats the rest for the beams.
    """

    last_hidden_state: Tensor | None = None
    attention_mask: Tensor | None = None
    positions: EncoderPositions | None = None


class EncoderLayer(GradientCheckpointingLayer):
    """Pre-LN self-attention and feed-forward with NormFormer's extra norms."""

    def __init__(self, config: UnivalConfig, drop_path: float) -> None:
        super().__init__()
        width, heads, eps = config.d_model, config.encoder_attention_heads, config.layer_norm_eps
        self.self_attn_norm = LayerNorm(width, eps=eps)
        self.self_attn = Attention(width, heads, attention_scale(config, heads), config.attention_dropout)
        self.self_attn_out_norm = LayerNorm(width, eps=eps)
        self.ffn_norm = LayerNorm(width, eps=eps)
        self.ffn = FeedForward(width, config.encoder_ffn_dim, eps)
        self.residual = Residual(config.dropout, drop_path)

    def forward(self, states_BLD: Tensor, bias: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D); `bias` broadcasts to (B, H, L, L)."""
        normed = self.self_attn_norm(states_BLD)
        attended = self.self_attn(normed, *self.self_attn.keys_values(normed), bias)
        states_BLD = self.residual(states_BLD, self.self_attn_out_norm(attended))
        return self.residual(states_BLD, self.ffn(self.ffn_norm(states_BLD)))


class UnivalEncoder(nn.Module):
    """Media backbones, embeddings, and the stack of encoder layers."""

    main_input_name = "input_ids"

    def __init__(self, config: UnivalConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        width, heads, eps = config.d_model, config.encoder_attention_heads, config.layer_norm_eps
        self.config = config
        self.embed_tokens = embed_tokens
        self.embed_norm = LayerNorm(width, eps=eps)
        self.media_norm = LayerNorm(width, eps=eps)
        self.type_embedding = Table(2, width)  # 0 text, 1 any other modality
        self.media = nn.ModuleDict({name: MediaEmbedding(config, name) for name in config.media})
        self.positions = Table(config.max_source_positions + 2, width)
        self.position_norm = LayerNorm(width, eps=eps)
        self.media_position_norm = LayerNorm(width, eps=eps)
        self.absolute_bias = AbsoluteBias(width, heads, attention_scale(config, heads))
        self.relative_bias = RelativeTables(config, config.encoder_layers, heads)
        rates = drop_path_rates(config.encoder_drop_path, config.encoder_layers)
        self.layers = nn.ModuleList(EncoderLayer(config, rate) for rate in rates)
        self.final_norm = LayerNorm(width, eps=eps)
        self.bias_cache = BiasCache()
        self.gradient_checkpointing = False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        media_tokens: MediaTokens | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_index: Tensor | None = None,
        video_values: Tensor | None = None,
        video_index: Tensor | None = None,
        audio_values: Tensor | None = None,
        audio_index: Tensor | None = None,
        **_: Any,
    ) -> UnivalEncoderOutput:
        """Encode a batch; see `UnivalForConditionalGeneration.forward` for the arguments.

        `inputs_embeds` (B, S, D) takes the place of `input_ids`; flags that `generate` adds do nothing.
        """
        if inputs_embeds is None and input_ids is not None:
            inputs_embeds = self.embed_tokens(input_ids)
        indices = {"image": pixel_index, "video": video_index, "audio": audio_index}
        media = media_tokens or self.embed_media(pixel_values, video_values, audio_values)
        tokens, grids, counts = media.tokens, media.grids, media.counts
        rows = len(inputs_embeds) if inputs_embeds is not None else _rows(indices, counts)
        plan = plan_media(
            grids, counts, {name: indices[name] for name in grids}, rows, self.config.image_bucket_size
        )
        states_BLD, mask_BL = self._assemble(tokens, plan, inputs_embeds, attention_mask)
        text_length = states_BLD.shape[1] - plan.length
        positions, layer_biases = self._biases(plan, text_length)
        mask = None if mask_BL is None else ~mask_BL[:, None, None, :]
        for layer, per_layout in zip(self.layers, layer_biases, strict=True):
            bias = positions.rows(per_layout, rows)
            if mask is not None:
                bias = bias.masked_fill(mask, mask_value(bias.dtype))
            states_BLD = layer(states_BLD, bias)
        return UnivalEncoderOutput(self.final_norm(states_BLD), mask_BL, positions)

    def embed_media(
        self,
        pixel_values: Tensor | None = None,
        video_values: Tensor | None = None,
        audio_values: Tensor | None = None,
    ) -> MediaTokens:
        """Each medium once, by its backbone.

        Raises:
            UserError: media of a kind that the model has no encoder for.
        """
        values = {"image": pixel_values, "video": video_values, "audio": audio_values}
        tokens, grids, counts = [], {}, {}
        for name, media in values.items():
            if media is None or len(media) == 0:
                continue
            if name not in self.media:
                raise UserError(
                    f"{name} given, but the model has no {name} encoder: {nearest(name, self.media)}"
                )
            embedded, grids[name] = self.media[name](media)
            tokens.append(self.media_norm(embedded + self.type_embedding()[1]))
            counts[name] = len(media)
        return MediaTokens(tokens, grids, counts)

    def _assemble(
        self,
        tokens: list[Tensor],
        plan: MediaPlan,
        embedded_BSD: Tensor | None,
        text_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The sequence (B, L, D) after dropout, zero at padding, and its mask (None without padding)."""
        parts = []
        if plan.length:
            parts += tokens if plan.token_index is None else [_gather(tokens, plan.token_index)]
        if embedded_BSD is not None:
            parts.append(self.embed_norm(embedded_BSD + self.type_embedding()[0]))
        states_BLD = F.dropout(torch.cat(parts, dim=1), self.config.dropout, self.training)
        if plan.mask is None and text_mask is None:
            return states_BLD, None
        mask_BL = torch.ones(states_BLD.shape[:2], dtype=torch.bool, device=states_BLD.device)
        if plan.mask is not None:
            mask_BL[:, : plan.length] = sent(plan.mask, mask_BL.device)
        if text_mask is not None:
            mask_BL[:, plan.length :] = text_mask.to(mask_BL.device, torch.bool)
        return states_BLD * mask_BL[..., None], mask_BL

    def _position_states(self, layouts: list[Layout], media_length: int, text_length: int) -> Tensor:
        """Normalised position states (U, L, D), zero at padding."""
        if text_length > self.config.max_source_positions:
            raise ValueError(
                f"{text_length} source tokens, but max_source_positions is {self.config.max_source_positions}"
            )
        text_SD = self.position_norm(self.positions()[:text_length])
        grid, device = self.config.image_bucket_size, text_SD.device
        segments = {
            segment: sent(segment_ids(segment, grid), device) for layout in layouts for segment in layout
        }
        media = {
            segment: self.media_position_norm(F.embedding(ids, self.media[segment[0]].positions()))  # type: ignore[operator, union-attr]
            for segment, ids in segments.items()
        }
        states = []
        for layout in layouts:
            parts = [media[segment] for segment in layout]
            padding = media_length - sum(map(len, parts))
            states.append(torch.cat([*parts, text_SD.new_zeros(padding, text_SD.shape[1]), text_SD]))
        return torch.stack(states)

    def _biases(self, plan: MediaPlan, text_length: int) -> tuple[EncoderPositions, list[Tensor]]:
        """Position states, and the self-attention bias (U, H, L, L) of each layer."""

        def compute() -> tuple[Tensor, list[Tensor], BiasCache]:
            states_ULD = self._position_states(plan.layouts, plan.length, text_length)
            absolute_UHLL = self.absolute_bias(states_ULD, states_ULD)
            relative = self._relative_biases(plan, text_length, states_ULD.device)
            return states_ULD, [absolute_UHLL + bias for bias in relative], BiasCache()

        key = (tuple(plan.layouts), plan.length, text_length)
        states_ULD, biases, cross_cache = self.bias_cache.get(key, self._bias_parameters(), compute)
        row_layout = None
        if len(plan.layouts) > 1:
            row_layout = sent(torch.tensor(plan.row_layout), states_ULD.device)
        return EncoderPositions(states_ULD, row_layout, cross_cache), biases

    def _relative_biases(self, plan: MediaPlan, text_length: int, device: torch.device) -> list[Tensor]:
        """(U, H, L, L) for each layer. Without media the grid tables get no gradients, not even zeros."""
        sizes = (self.config.token_bucket_size, self.config.token_bucket_max_distance)
        if plan.length == 0:
            return self.relative_bias.text(text_relative_index(0, text_length, *sizes, device)[None])
        grid = self.config.image_bucket_size
        indices = [
            encoder_relative_index(layout, plan.length, text_length, (*sizes, grid), device)
            for layout in plan.layouts
        ]
        return self.relative_bias.mixed(torch.stack(indices))

    def _bias_parameters(self) -> Iterator[Tensor]:
        for module in (self.position_norm, self.media_position_norm, self.absolute_bias, self.relative_bias):
            yield from module.parameters()
        yield self.positions.weight
        for medium in self.media.values():
            yield medium.positions.weight  # type: ignore[misc, union-attr]


def _rows(indices: dict[str, Tensor | None], counts: dict[str, int]) -> int:
    for name, count in counts.items():
        index = indices[name]
        return count if index is None else len(index)
    raise ValueError("an empty batch: give input_ids or media")


def _gather(tokens: list[Tensor], token_index_BL: Tensor) -> Tensor:
    pool = torch.cat([media.flatten(0, 1) for media in tokens])
    index = sent(token_index_BL, pool.device)
    return pool.index_select(0, index.flatten()).view(*index.shape, -1)


def plan_media(
    grids: dict[str, tuple[int, ...]],
    counts: dict[str, int],
    indices: dict[str, Tensor | None],
    rows: int,
    grid_size: int,
) -> MediaPlan:
    """Lay the media out on the rows.

    Args:
        grids: the feature map's grid of each modality present, in the order of the sequence.
        counts: the number of media of each modality.
        indices: (B, K) media shown by each row, -1 for none, or None for one medium per row, in order. The
            host reads them: leave them on the CPU.
        rows: B.
        grid_size: width of the position grid.

    Raises:
        ValueError: an index has not B rows or points out of range, or misses while rows and media differ in
            number.
    """
    for name, count in counts.items():
        index = indices[name]
        if index is None and count != rows:
            raise ValueError(f"{count} {name} media for {rows} rows: say with an index which row shows which")
        if index is not None and (index.ndim != 2 or len(index) != rows):
            raise ValueError(f"the {name} index has shape {list(index.shape)}, {rows} rows need [{rows}, K]")
    sizes = {name: len(segment_ids((name, grid), grid_size)) for name, grid in grids.items()}
    if all(index is None for index in indices.values()):
        return MediaPlan([tuple(grids.items())], [0] * rows, None, None, sum(sizes.values()))
    shown = {
        name: [[row] for row in range(rows)] if index is None else index.tolist()
        for name, index in indices.items()
    }
    layouts: dict[Layout, int] = {}
    row_layout, row_tokens = [], []
    for row in range(rows):
        layout: list[Segment] = []
        tokens, base = [], 0
        for name, grid in grids.items():
            for medium in shown[name][row]:
                if medium >= counts[name]:
                    raise ValueError(f"row {row} shows {name} {medium}, but the batch has {counts[name]}")
                if medium >= 0:
                    layout.append((name, grid))
                    start = base + medium * sizes[name]
                    tokens.append(np.arange(start, start + sizes[name]))
            base += counts[name] * sizes[name]
        row_layout.append(layouts.setdefault(tuple(layout), len(layouts)))
        row_tokens.append(np.concatenate(tokens) if tokens else np.empty(0, np.int64))
    mask_BL = np.arange(max(map(len, row_tokens))) < np.array([*map(len, row_tokens)])[:, None]
    tokens_BL = np.zeros(mask_BL.shape, np.int64)
    tokens_BL[mask_BL] = np.concatenate(row_tokens)
    mask = None if mask_BL.all() else torch.from_numpy(mask_BL)
    return MediaPlan(list(layouts), row_layout, torch.from_numpy(tokens_BL), mask, mask_BL.shape[1])
