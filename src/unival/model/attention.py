"""Attention, feed-forward, norm and drop path: the parts that encoder and decoder layers share.

B rows, T queries, S keys, H heads, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unival.model.configuration import UnivalConfig
from unival.model.linear import Linear


class Attention(nn.Module):
    """Multi-head attention with an additive bias and a learned gain per head (NormFormer's head scale)."""

    def __init__(self, width: int, heads: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.q_proj, self.k_proj = Linear(width, width), Linear(width, width)
        self.v_proj, self.out_proj = Linear(width, width), Linear(width, width)
        self.head_gain = nn.Parameter(torch.ones(heads))
        self.heads, self.scale, self.dropout = heads, scale, dropout

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, states_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, H, S, D / H)."""
        return self._split(self.k_proj(states_BSD)), self._split(self.v_proj(states_BSD))

    def forward(self, states_BTD: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Attend from `states` to `key` and `value` (of `keys_values`); `bias` broadcasts to (B, H, T, S).

        Keys of fewer rows serve equal groups of consecutive query rows (beams that share an encoder row).
        """
        rows, steps = states_BTD.shape[:2]
        query = self.q_proj(states_BTD).view(key.shape[0], -1, states_BTD.shape[-1])
        attended = self._attend(self._split(query), key, value, bias.to(query.dtype))
        merged = (attended.transpose(1, 2) * self.head_gain[:, None]).reshape(rows, steps, -1)
        return self.out_proj(merged)

    def weights(self, states_BTD: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        """What `forward` weighs the values with, (B, H, T, S), of as many rows as there are keys."""
        query = self._split(self.q_proj(states_BTD)) * self.scale
        return torch.softmax(query @ key.transpose(-1, -2) + bias.to(query.dtype), dim=-1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if bias.requires_grad and bias.device.type == "cpu":
            # no fused CPU kernel gives the bias a gradient, and what PyTorch falls back to looks for fully
            # masked rows at each call; `mask_value` is finite, so there are none
            weights = torch.softmax((query * self.scale) @ key.transpose(-1, -2) + bias, dim=-1)
            return F.dropout(weights, dropout) @ value
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout, scale=self.scale
        )


class LayerNorm(nn.LayerNorm):
    """In float32 under autocast, as PyTorch has it on a GPU only: on a CPU it would stay in bfloat16, and sum
    the gradients of weight and bias over all rows in that type."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if not torch.is_autocast_enabled(input.device.type):
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class FeedForward(nn.Module):
    """Two linear maps with exact GELU and a LayerNorm between them (NormFormer)."""

    def __init__(self, width: int, inner: int, eps: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(width, inner), Linear(inner, width)
        self.norm = LayerNorm(inner, eps=eps)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(self.norm(F.gelu(self.fc1(states))))


class Residual(nn.Module):
    """Adds a branch to its stream after dropout and, per row, drop path (stochastic depth)."""

    def __init__(self, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.dropout, self.drop_path = dropout, drop_path

    def forward(self, stream_BTD: Tensor, branch_BTD: Tensor) -> Tensor:
        """stream + branch in evaluation."""
        if not self.training:
            return stream_BTD + branch_BTD
        branch_BTD = F.dropout(branch_BTD, self.dropout)
        if self.drop_path == 0.0:
            return stream_BTD + branch_BTD
        keep = 1.0 - self.drop_path
        kept_B11 = torch.empty(len(branch_BTD), 1, 1, dtype=branch_BTD.dtype, device=branch_BTD.device)
        return torch.addcmul(stream_BTD, branch_BTD, kept_B11.bernoulli_(keep).div_(keep))


def attention_scale(config: UnivalConfig, heads: int) -> float:
    """(factor * head width) ** -0.5, with factor 2 in the original."""
    return (config.d_model // heads * config.attention_scale_factor) ** -0.5


def drop_path_rates(highest: float, layers: int) -> list[float]:
    """Linear from 0 at the first layer to `highest` at the last."""
    return [highest * index / max(layers - 1, 1) for index in range(layers)]
