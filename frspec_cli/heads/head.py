"""The EAGLE draft head as one module: a transformer layer (in a few heads, more) that predicts the target's next feature.

Alignment (EAGLE, arXiv 2401.15077): draft position i takes (token i+1, the target's post-norm feature f_i) at position
id i; its output predicts f_{i+1}, so the LM head over it predicts token i+2. The output is fed back as the feature of
the next draft step. Static shapes, no host reads: `torch.compile(fullgraph=True)` takes `forward` whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from frspec_cli.heads.config import HeadConfig
from frspec_cli.heads.layer import KeyValueCache, Layer, RMSNorm, Rotary
from frspec_cli.models.lm_head import LmHead


class EagleHead(nn.Module):
    """The draft head of any layout; the target's embedding is attached, not owned.

    embedding_weight: [V, H], the target's, in the dtype that the head computes in.
    own_lm_head: the head's own rows; None if the target's LM head is used (all but most of eagle3).
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
        self.layers = nn.ModuleList(Layer(config, first=index == 0) for index in range(config.layers))
        self.rotary = Rotary(config)
        if config.layout == "eagle3":
            self.fc = nn.Linear(len(config.taps) * config.feature_size, size, bias=config.fc_bias)
        else:
            self.fc = nn.Linear(2 * size, size, bias=config.fc_bias)
        if config.layout != "eagle2":
            self.norm = RMSNorm(size, eps)
        if config.tap_norm == "joint":
            self.input_norm = RMSNorm(len(config.taps) * config.feature_size, eps)
        elif config.tap_norm == "each":
            self.fc_norm = nn.ModuleList(RMSNorm(config.feature_size, eps) for _ in config.taps)
        if config.layout in ("fused", "mtp"):
            self.embedding_norm = RMSNorm(size, eps)
            self.feature_norm = RMSNorm(size, eps)
        if config.layout == "fused":
            self.fuse_proj = nn.Linear((1 + len(config.taps)) * size, size, bias=False)
            self.tap_norms = nn.ModuleList(RMSNorm(size, eps) for _ in config.taps)

    @property
    def taps(self) -> tuple[int, ...]:
        """Indices of the target's `hidden_states` that `fuse` needs besides the post-norm last one."""
        return self.config.taps

    @property
    def layer(self) -> Layer:
        """The first layer, in most heads the only one."""
        layer = self.layers[0]
        assert isinstance(layer, Layer)
        return layer

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, T] -> the target's embeddings [B, T, H], scaled as the target scales them."""
        embeddings = functional.embedding(token_ids, self.embedding_weight)
        return embeddings if self.config.embedding_scale == 1.0 else embeddings * self.config.embedding_scale

    def fuse(self, last: torch.Tensor, taps: tuple[torch.Tensor, ...] = ()) -> torch.Tensor:
        """The target's post-norm last state and its taps, each [B, T, its H] -> features [B, T, H]."""
        match self.config.layout:
            case "eagle2" | "mtp":
                return last
            case "eagle3":
                return self.fc(self._normed_taps(taps))
            case _:
                normed = [norm(tap) for norm, tap in zip(self.tap_norms, taps, strict=True)]
                return self.fuse_proj(torch.cat((last, *normed), dim=-1))

    def _normed_taps(self, taps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        match self.config.tap_norm:
            case "joint":
                return self.input_norm(torch.cat(taps, dim=-1))
            case "each":
                return torch.cat([norm(tap) for norm, tap in zip(self.fc_norm, taps, strict=True)], dim=-1)
            case _:
                return torch.cat(taps, dim=-1)

    def layer_input(self, embeddings: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The residual stream that enters the layer, [B, T, H]."""
        match self.config.layout:
            case "eagle2":
                return self.fc(torch.cat((embeddings, features), dim=-1))
            case "eagle3":
                return self.layer.hidden_norm(features) if self.config.norm_before_residual else features
            case _:
                return self.fc(torch.cat((self.embedding_norm(embeddings), self.feature_norm(features)), dim=-1))

    def forward(
        self,
        embeddings: torch.Tensor,
        features: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        caches: Sequence[KeyValueCache] = (),
    ) -> torch.Tensor:
        """One draft step over T positions; returns the predicted features [B, T, H].

        embeddings: [B, T, H] of the *next* tokens.
        features: [B, T, H].
        position_ids: int64 [B, T].
        attention_mask: additive [B or 1, 1, T, L]; L = T without caches.
        caches: one for each layer, or none.
        """
        x = self.layer_input(embeddings, features)
        rotary = self.rotary(position_ids)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            cache = caches[index] if caches else None
            x = layer.finish(x, layer.self_attn(layer.attention_input(embeddings, x), rotary, attention_mask, cache))
        return self._output(x)

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """What the layer of a head of one layer makes of its input x and what it attended to: the predicted features."""
        return self._output(self.layer.finish(x, attended))

    def _output(self, hidden: torch.Tensor) -> torch.Tensor:
        """The predicted features: the last layer's output, already normed if normed ones are fed back."""
        return self.norm(hidden) if self.config.norm_output else hidden

    def lm_input(self, hidden: torch.Tensor) -> torch.Tensor:
        """The LM head's input: after the head's own final norm, or the output itself (EAGLE-1/2, or already normed)."""
        return hidden if self.config.layout == "eagle2" or self.config.norm_output else self.norm(hidden)
