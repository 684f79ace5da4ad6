"""The decoder: text or image codes, given what the encoder returned.

B rows, T target tokens, S encoder tokens, U distinct encoder layouts, N layers, H heads, D width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer

from unival.device import sent
from unival.model.attention import (
    Attention,
    FeedForward,
    LayerNorm,
    Residual,
    attention_scale,
    drop_path_rates,
)
from unival.model.configuration import UnivalConfig
from unival.model.encoder import EncoderPositions, UnivalEncoderOutput
from unival.model.positions import (
    AbsoluteBias,
    BiasCache,
    RelativeTables,
    Table,
    code_ids,
    grid_bucket,
    mask_value,
    text_relative_index,
)

CHUNK = 32  # incremental decoding prepares the bias of so many positions at once


class DecoderLayer(GradientCheckpointingLayer):
    """Pre-LN self-attention, cross-attention and feed-forward with NormFormer's extra norms."""

    def __init__(self, config: UnivalConfig, index: int, drop_path: float) -> None:
        super().__init__()
        width, heads, eps = config.d_model, config.decoder_attention_heads, config.layer_norm_eps
        scale, dropout = attention_scale(config, heads), config.attention_dropout
        self.index = index
        self.self_attn_norm = LayerNorm(width, eps=eps)
        self.self_attn = Attention(width, heads, scale, dropout)
        self.self_attn_out_norm = LayerNorm(width, eps=eps)
        self.cross_attn_norm = LayerNorm(width, eps=eps)
        self.cross_attn = Attention(width, heads, scale, dropout)
        self.cross_attn_out_norm = LayerNorm(width, eps=eps)
        self.ffn_norm = LayerNorm(width, eps=eps)
        self.ffn = FeedForward(width, config.decoder_ffn_dim, eps)
        self.residual = Residual(config.dropout, drop_path)

    def forward(
        self,
        states_BTD: Tensor,
        self_bias: Tensor,
        cross_bias: Tensor,
        encoder_BSD: Tensor,
        cache: EncoderDecoderCache | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); the biases broadcast to (B, H, T, past + T) and (B, H, T, S)."""
        normed = self.self_attn_norm(states_BTD)
        key, value = self.self_attn.keys_values(normed)
        if cache is not None:
            key, value = cache.self_attention_cache.update(key, value, self.index)
        attended = self.self_attn(normed, key, value, self_bias)
        states_BTD = self.residual(states_BTD, self.self_attn_out_norm(attended))
        key, value = self._encoder_keys_values(encoder_BSD, cache)
        attended = self.cross_attn(self.cross_attn_norm(states_BTD), key, value, cross_bias)
        states_BTD = self.residual(states_BTD, self.cross_attn_out_norm(attended))
        return self.residual(states_BTD, self.ffn(self.ffn_norm(states_BTD)))

    def _encoder_keys_values(
        self, encoder_BSD: Tensor, cache: EncoderDecoderCache | None
    ) -> tuple[Tensor, Tensor]:
        if cache is None:
            return self.cross_attn.keys_values(encoder_BSD)
        if not cache.is_updated.get(self.index):
            cache.cross_attention_cache.update(*self.cross_attn.keys_values(encoder_BSD), self.index)
            cache.is_updated[self.index] = True
        layer: Any = cache.cross_attention_cache.layers[self.index]
        return layer.keys, layer.values


class UnivalDecoder(nn.Module):
    """Embeddings, position biases, and the stack of decoder layers."""

    def __init__(self, config: UnivalConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        width, heads, eps = config.d_model, config.decoder_attention_heads, config.layer_norm_eps
        self.config = config
        self.embed_tokens = embed_tokens
        self.embed_norm, self.code_embed_norm = LayerNorm(width, eps=eps), LayerNorm(width, eps=eps)
        self.positions = Table(config.max_target_positions + 2, width)
        self.code_positions = Table(config.image_bucket_size**2 + 1, width)
        self.position_norm = LayerNorm(width, eps=eps)
        self.code_position_norm = LayerNorm(width, eps=eps)
        self.self_bias = AbsoluteBias(width, heads, attention_scale(config, heads))
        self.cross_bias = AbsoluteBias(width, heads, attention_scale(config, heads))
        self.relative_bias = RelativeTables(config, config.decoder_layers, heads)
        rates = drop_path_rates(config.decoder_drop_path, config.decoder_layers)
        self.layers = nn.ModuleList(DecoderLayer(config, index, rate) for index, rate in enumerate(rates))
        self.final_norm = LayerNorm(width, eps=eps)
        self.bias_cache = BiasCache()
        self.gradient_checkpointing = False

    def forward(
        self,
        input_ids: Tensor,
        encoder_outputs: UnivalEncoderOutput,
        attention_mask: Tensor | None = None,
        code_mask: Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Decode T tokens that follow those in the cache.

        Args:
            input_ids: (B, T). B may be a multiple of the encoder's rows: consecutive rows then share one.
            encoder_outputs: of `UnivalEncoder`.
            attention_mask: (B, past + T), 0 at padding; not needed for padding at the end.
            code_mask: (B,) True where the row's tokens are image codes (2-D positions).
            cache: filled in place.
            inputs_embeds: (B, T, D) the embedded `input_ids`, where they are at hand.

        Returns:
            Hidden states (B, T, D).
        """
        encoder_BSD, positions = encoder_outputs.last_hidden_state, encoder_outputs.positions
        if encoder_BSD is None or positions is None:
            raise ValueError(
                "encoder_outputs have no position states: take them from the model's own encoder"
            )
        start = cache.get_seq_length() if cache is not None else 0
        rows, steps = input_ids.shape
        code_B111 = (
            None if code_mask is None else code_mask.to(input_ids.device, torch.bool)[:, None, None, None]
        )
        embedded_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        states_BTD = self._embed(embedded_BTD, code_B111)
        self_biases = self._self_biases(start, start + steps, code_B111)
        group = rows // len(encoder_BSD)
        shared_code = None if code_B111 is None else code_B111[::group]
        cross_bias = self._cross_bias(
            positions, start, start + steps, len(encoder_BSD), shared_code, encoder_outputs.attention_mask
        )
        if steps > 1 and group > 1:
            cross_bias = cross_bias.repeat(1, 1, group, 1)
        for layer, self_bias in zip(self.layers, self_biases, strict=True):
            if attention_mask is not None:
                padding = attention_mask.to(self_bias.device)[:, None, None, :] == 0
                self_bias = self_bias.masked_fill(padding, mask_value(self_bias.dtype))
            states_BTD = layer(states_BTD, self_bias, cross_bias, encoder_BSD, cache=cache)
        return self.final_norm(states_BTD)

    def _embed(self, embedded_BTD: Tensor, code_B111: Tensor | None) -> Tensor:
        states_BTD = self.embed_norm(embedded_BTD)
        if code_B111 is not None:
            states_BTD = torch.where(code_B111[..., 0], self.code_embed_norm(embedded_BTD), states_BTD)
        return F.dropout(states_BTD, self.config.dropout, self.training)

    def _position_states(self, stop: int, codes: bool) -> Tensor:
        """Normalised position states (1, stop, D) of text or of image codes."""
        if codes:
            width = self.config.code_image_size // 8
            table, ids = self.code_positions(), code_ids(stop, width, self.config.image_bucket_size)
            return self.code_position_norm(F.embedding(sent(ids, table.device), table))[None]
        if stop > self.config.max_target_positions:
            raise ValueError(
                f"{stop} target tokens, but max_target_positions is {self.config.max_target_positions}"
            )
        return self.position_norm(self.positions()[:stop])[None]

    def _longest(self, codes: bool) -> int:
        return (self.config.code_image_size // 8) ** 2 + 1 if codes else self.config.max_target_positions

    def _rows(self, start: int, stop: int, codes: bool) -> tuple[int, int]:
        """The positions to prepare for start..stop-1: whole chunks while decoding, just these in training."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or stop - start > CHUNK:
            return start, stop
        first = start // CHUNK * CHUNK
        last = min(-(-stop // CHUNK) * CHUNK, self._longest(codes))
        return first, max(last, stop)

    def _self_bias_rows(self, start: int, stop: int, codes: bool) -> list[Tensor]:
        """Causal self-attention bias of each layer, (1, H, stop - start, stop)."""
        states = self._position_states(stop, codes)
        absolute = self.self_bias(states[:, start:], states)
        grid, device = self.config.image_bucket_size, states.device
        if codes:
            ids = code_ids(stop, self.config.code_image_size // 8, grid)
            relative = self.relative_bias.codes(sent(grid_bucket(ids[start:], ids, grid), device))
        else:
            sizes = (self.config.token_bucket_size, self.config.token_bucket_max_distance)
            relative = self.relative_bias.text(text_relative_index(start, stop, *sizes, device))
        future = torch.ones(stop - start, stop, dtype=torch.bool, device=device).triu(start + 1)
        return [(absolute + bias).masked_fill(future, mask_value(absolute.dtype)) for bias in relative]

    def _self_biases(self, start: int, stop: int, code_B111: Tensor | None) -> list[Tensor]:
        def variant(codes: bool) -> list[Tensor]:
            first, last = self._rows(start, stop, codes)
            key = (first, last, codes)
            rows = self.bias_cache.get(
                key, self._bias_parameters(), lambda: self._self_bias_rows(first, last, codes)
            )
            return [bias[:, :, start - first : stop - first, :stop] for bias in rows]

        if code_B111 is None:
            return variant(False)
        return [
            torch.where(code_B111, code, text)
            for code, text in zip(variant(True), variant(False), strict=True)
        ]

    def _cross_bias(
        self,
        positions: EncoderPositions,
        start: int,
        stop: int,
        rows: int,
        code_B111: Tensor | None,
        encoder_mask: Tensor | None,
    ) -> Tensor:
        """Bias of every layer's cross-attention, (B or 1, H, T, S), for the encoder's B rows."""

        def variant(codes: bool) -> Tensor:
            first, last = self._rows(start, stop, codes)

            def compute() -> Tensor:
                return self.cross_bias(self._position_states(last, codes)[:, first:], positions.states)

            bias = positions.cache.get((first, last, codes), self._bias_parameters(), compute)
            return bias[:, :, start - first : stop - first]

        bias = positions.rows(variant(False), rows)
        if code_B111 is not None:
            bias = torch.where(code_B111, positions.rows(variant(True), rows), bias)
        if encoder_mask is not None:
            bias = bias.masked_fill(~encoder_mask[:, None, None, :], mask_value(bias.dtype))
        return bias

    def _bias_parameters(self) -> Iterator[Tensor]:
        modules = (
            self.position_norm,
            self.code_position_norm,
            self.self_bias,
            self.cross_bias,
            self.relative_bias,
        )
        for module in modules:
            yield from module.parameters()
        yield self.positions.weight
        yield self.code_positions.weight
