"""The EAGLE draft head as one module: a transformer layer that predicts the target's next feature.

Alignment (EAGLE, arXiv 2401.15077): draft position i takes (token i+1, the target's post-norm feature f_i) at position
id i; its output stands for f_{i+1}, so the LM head over it predicts token i+2. The output is fed back as the feature of
the next draft step. Static shapes, no host reads: `torch.compile(fullgraph=True)` takes `forward` whole.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from frspec_cli.drafting.config import HeadConfig
from frspec_cli.models.lm_head import LmHead


class KeyValueCache(Protocol):
    """Where keys (after RoPE) and values go: takes [B, KV, T, D] twice, gives [B, KV, L, D] twice."""

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds T positions and returns all L that the mask speaks of."""


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
        inverse_frequencies, self.scaling = _inverse_frequencies(config)
        self.register_buffer("inverse_frequencies", inverse_frequencies, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Rotary:
        # Angles of far positions need float32: `head.to(bfloat16)` must not round the frequencies.
        kept = self.inverse_frequencies
        super()._apply(fn, recurse)
        if self.inverse_frequencies.dtype.itemsize < 4:
            self.inverse_frequencies = kept.to(self.inverse_frequencies.device)
        return self

    def forward(self, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """position_ids int64 [B, T] -> cos, sin [B, 1, T, D]."""
        angles = position_ids[:, None, :, None].to(self.inverse_frequencies.dtype) * self.inverse_frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * self.scaling, angles.sin() * self.scaling


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [B, heads, T, D] turned by its position; the two halves of D are the pairs (the Llama convention)."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * cos + turned * sin).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with an additive mask."""

    def __init__(self, config: HeadConfig, *, input_size: int) -> None:
        super().__init__()
        self.config = config
        bias = config.qkv_bias
        self.q_proj = nn.Linear(input_size, config.num_attention_heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(input_size, config.num_key_value_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(input_size, config.num_key_value_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)

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
        keys = rotate(self.k_proj(x).view(shape).transpose(1, 2), *rotary)
        return keys, self.v_proj(x).view(shape).transpose(1, 2)

    def attend(
        self,
        x: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """Queries from x [B, T, input] over keys and values [B, KV, L, D] -> [B, T, H]."""
        shape = (*x.shape[:2], -1, self.config.head_dim)
        queries = rotate(self.q_proj(x).view(shape).transpose(1, 2), *rotary)
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask.to(queries.dtype), enable_gqa=True
        )
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


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
    """The draft's one layer. Which norms it has, and what its attention reads, depends on the layout."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.layout = config.layout
        wide = config.layout == "eagle3"
        if config.layout != "eagle":
            self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if wide:
            self.hidden_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, input_size=config.hidden_size * (2 if wide else 1))
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def attention_input(self, embeddings: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What q, k and v read: x itself (EAGLE-1/2), its norm (ours), or norm(embedding) beside norm(x) (EAGLE-3)."""
        match self.layout:
            case "eagle":
                return x
            case "eagle3":
                return torch.cat((self.input_layernorm(embeddings), self.hidden_norm(x)), dim=-1)
            case _:
                return self.input_layernorm(x)

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Both residual additions: x + attention, then + MLP."""
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class EagleHead(nn.Module):
    """The draft head of any layout; the target's embedding is attached, not owned.

    embedding_weight: [V, H], the target's, in the dtype that the head computes in.
    own_lm_head: None where the target's LM head is used (eagle, frspec); else the head's own rows.
    """

    embedding_weight: torch.Tensor

    def __init__(
        self, config: HeadConfig, *, embedding_weight: torch.Tensor, own_lm_head: LmHead | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.own_lm_head = own_lm_head
        self.register_buffer("embedding_weight", embedding_weight.detach(), persistent=False)
        size, eps = config.hidden_size, config.rms_norm_eps
        self.layers = nn.ModuleList([Layer(config)])
        self.rotary = Rotary(config)
        if config.layout == "eagle3":
            self.fc = nn.Linear(len(config.taps) * size, size, bias=config.fc_bias)
        else:
            self.fc = nn.Linear(2 * size, size, bias=config.fc_bias)
        if config.layout != "eagle":
            self.norm = RMSNorm(size, eps)
        if config.layout == "frspec":
            self.embedding_norm = RMSNorm(size, eps)
            self.feature_norm = RMSNorm(size, eps)
            self.fuse_proj = nn.Linear((1 + len(config.taps)) * size, size, bias=False)
            self.tap_norms = nn.ModuleList(RMSNorm(size, eps) for _ in config.taps)

    @property
    def taps(self) -> tuple[int, ...]:
        """Indices of the target's `hidden_states` that `fuse` needs besides the post-norm last one."""
        return self.config.taps

    @property
    def layer(self) -> Layer:
        """The one layer."""
        layer = self.layers[0]
        assert isinstance(layer, Layer)
        return layer

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, T] -> the target's embeddings [B, T, H], scaled as the target scales them."""
        embeddings = functional.embedding(token_ids, self.embedding_weight)
        return embeddings if self.config.embedding_scale == 1.0 else embeddings * self.config.embedding_scale

    def fuse(self, last: torch.Tensor, taps: tuple[torch.Tensor, ...] = ()) -> torch.Tensor:
        """The target's post-norm last state and its taps, each [B, T, H] -> features [B, T, H]."""
        match self.config.layout:
            case "eagle":
                return last
            case "eagle3":
                return self.fc(torch.cat(taps, dim=-1))
            case _:
                normed = [norm(tap) for norm, tap in zip(self.tap_norms, taps, strict=True)]
                return self.fuse_proj(torch.cat((last, *normed), dim=-1))

    def layer_input(self, embeddings: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The residual stream that enters the layer, [B, T, H]."""
        match self.config.layout:
            case "eagle":
                return self.fc(torch.cat((embeddings, features), dim=-1))
            case "eagle3":
                return features
            case _:
                return self.fc(torch.cat((self.embedding_norm(embeddings), self.feature_norm(features)), dim=-1))

    def forward(
        self,
        embeddings: torch.Tensor,
        features: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        cache: KeyValueCache | None = None,
    ) -> torch.Tensor:
        """One draft step over T positions.

        embeddings: [B, T, H] of the *next* tokens. features: [B, T, H]. position_ids: int64 [B, T].
        attention_mask: additive [B or 1, 1, T, L]; L = T without a cache. Returns the predicted features [B, T, H].
        """
        x = self.layer_input(embeddings, features)
        attended = self.layer.self_attn(
            self.layer.attention_input(embeddings, x), self.rotary(position_ids), attention_mask, cache
        )
        return self.layer.finish(x, attended)

    def lm_input(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the LM head reads: the head's own final norm, or the output itself (EAGLE-1/2)."""
        return hidden if self.config.layout == "eagle" else self.norm(hidden)


def _inverse_frequencies(config: HeadConfig) -> tuple[torch.Tensor, float]:
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
