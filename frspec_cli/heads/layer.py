"""The draft's transformer layer, for every layout: norms, rotary positions, attention with a mask, gated MLP."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from frspec_cli.heads.config import HeadConfig
from frspec_cli.heads.grouped import grouped_attention


class KeyValueCache(Protocol):
    """Holds keys (after RoPE) and values: takes [B, KV, T, D] twice, returns [B, KV, L, D] twice."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, /) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds T positions and returns all L that the mask covers."""


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * weight`, computed in at least float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (normed * self.weight).to(x.dtype)


class Rotary(nn.Module):
    """Rotary position embedding: cosines and sines from position ids, in at least float32."""

    inverse_frequencies: torch.Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        frequencies, self.scaling = inverse_frequencies(config)
        self.register_buffer("inverse_frequencies", frequencies, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Rotary:
        # Angles of far positions need float32: `head.to(bfloat16)` must not round the frequencies.
        unrounded = self.inverse_frequencies
        super()._apply(fn, recurse)
        if self.inverse_frequencies.dtype.itemsize < 4:
            self.inverse_frequencies = unrounded.to(self.inverse_frequencies.device)
        return self

    def forward(self, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """position_ids int64 [B, T] -> cos, sin [B, 1, T, D]."""
        angles = position_ids[:, None, :, None].to(self.inverse_frequencies.dtype) * self.inverse_frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * self.scaling, angles.sin() * self.scaling


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [B, heads, T, D] rotated by its position; the two halves of D are the pairs (the Llama convention)."""
    first, second = x.chunk(2, dim=-1)
    swapped = torch.cat((-second, first), dim=-1)
    return (x * cos + swapped * sin).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with an additive mask."""

    def __init__(self, config: HeadConfig, *, input_size: int) -> None:
        super().__init__()
        self.config = config
        bias = config.qkv_bias
        self.q_proj = nn.Linear(input_size, config.num_attention_heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(input_size, config.num_key_value_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(input_size, config.num_key_value_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=config.o_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(
        self,
        x: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        cache: KeyValueCache | None,
    ) -> torch.Tensor:
        """x [B, T, input], mask additive [B or 1, 1, T, L] -> [B, T, H]."""
        keys, values = self.keys_and_values(x, rotary)
        if cache is not None:
            keys, values = cache.update(keys, values)
        return self.attend(x, rotary, mask, keys, values)

    def keys_and_values(
        self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x [B, T, input] -> keys (after RoPE) and values, each [B, KV, T, D]."""
        shape = (*x.shape[:2], -1, self.config.head_dim)
        keys = self.k_proj(x).view(shape)
        if self.config.qk_norm:
            keys = self.k_norm(keys)
        return rotate(keys.transpose(1, 2), *rotary), self.v_proj(x).view(shape).transpose(1, 2)

    def attend(
        self,
        x: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """Queries from x [B, T, input] over keys and values [B, KV, L, D] -> [B, T, H]."""
        queries = self.queries(x, rotary)
        mixed = grouped_attention(queries, keys, values, mask.to(queries.dtype))
        return self.o_proj(mixed.flatten(2))

    def queries(self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """x [B, T, input] -> queries (after RoPE), [B, heads, T, D]."""
        queries = self.q_proj(x).view(*x.shape[:2], -1, self.config.head_dim)
        if self.config.qk_norm:
            queries = self.q_norm(queries)
        return rotate(queries.transpose(1, 2), *rotary)


class Mlp(nn.Module):
    """The gated MLP of the Llama family."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        from transformers.activations import ACT2FN

        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """A layer of the draft. The first one's norms and its attention's input depend on the layout.

    first: whether it is the first; those behind it are plain ones, which norm what they read.
    """

    def __init__(self, config: HeadConfig, *, first: bool = True) -> None:
        super().__init__()
        self.layout = config.layout if first else "plain"
        self.norm_before_residual = config.norm_before_residual
        wide = self.layout == "eagle3"
        if self.layout != "eagle2":
            self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if wide:
            self.hidden_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, input_size=config.hidden_size * (2 if wide else 1))
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def attention_input(self, embeddings: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The input of q, k and v: x itself (EAGLE-1/2), norm(embedding) beside norm(x) (EAGLE-3), or norm(x) (all others)."""
        match self.layout:
            case "eagle2":
                return x
            case "eagle3":
                normed = x if self.norm_before_residual else self.hidden_norm(x)
                return torch.cat((self.input_layernorm(embeddings), normed), dim=-1)
            case _:
                return self.input_layernorm(x)

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Both residual additions: x + attention, then + MLP."""
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x))


def inverse_frequencies(config: HeadConfig) -> tuple[torch.Tensor, float]:
    """RoPE's inverse frequencies, float32 [D / 2], and the factor on cosines and sines (1 except for YaRN's kind)."""
    kind = config.rope.get("rope_type", "default")
    if kind == "default":
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return 1.0 / (float(config.rope["rope_theta"]) ** exponents), 1.0
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    llama: Any = LlamaConfig(
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters=dict(config.rope),
    )
    frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](llama, torch.device("cpu"))
    return frequencies, float(scaling)
