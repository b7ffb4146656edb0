"""Attention over a cache of fixed length: the masks, and the kernel that reads grouped heads without copying them.

A mask is additive, in the model's dtype (0 or the dtype's lowest number), shape [1, 1, T, L]: T query rows over L cache
slots. Boolean masks are right under SDPA and silently wrong under eager attention, so frspec makes none.
"""

from __future__ import annotations

from typing import Any

import torch

KERNEL = "frspec"
"""The name under which `attend` is registered with transformers."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Softmax attention in transformers' calling convention; grouped heads are not expanded.

    query [1, Q, T, D]; key, value [1, KV, L, D] (KV divides Q); attention_mask additive [1, 1, T, L]; returns
    [1, T, Q, D]. With `softcap` (Gemma-2) the scores are capped before the mask, in float32 as transformers does.
    """
    if softcap is None and query.shape[2] == 1:
        # The heads of a group as rows over the keys that they share: one row a head takes seven times as long in
        # bfloat16 on a CPU, where a product with a single row has no fast kernel.
        batch, heads, size = query.shape[0], query.shape[1], query.shape[3]
        rows = query.reshape(batch, key.shape[1], -1, size)
        out = torch.nn.functional.scaled_dot_product_attention(
            rows, key, value, attn_mask=attention_mask, scale=scaling
        )
        return out.reshape(batch, 1, heads, size), None
    if softcap is None:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return out.transpose(1, 2).contiguous(), None
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), None


def use_kernel(model: Any) -> None:
    """Makes `model` attend with `attend`: with an explicit mask, transformers' SDPA copies K and V over all slots."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(KERNEL, attend)
    AttentionMaskInterface.register(KERNEL, eager_mask)  # so that the model's own `generate` stays right as well
    model.set_attn_implementation(KERNEL)


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """bool [T, L], True where a row may look -> additive mask [1, 1, T, L]."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[None, None]


def layer_windows(config: Any) -> tuple[dict[str, int | None], bool]:
    """Which masks a model asks for: ({layer type: window in positions, or None}, whether it takes a dict of them).

    A dict goes only to models whose `layer_types` has more than one kind; the others refuse one. Mistral, Phi-3 and
    Starcoder2 have a `sliding_window` and no `layer_types`: their one mask must be windowed.
    """
    window = getattr(config, "sliding_window", None)
    kinds = sorted(set(getattr(config, "layer_types", None) or []))
    windows = {kind: window if kind == "sliding_attention" else None for kind in kinds}
    if len(kinds) > 1:
        return windows, True
    if kinds:
        return windows, False
    return {"full_attention": window if getattr(config, "use_sliding_window", True) else None}, False


class TargetMasks:
    """Builds the masks of one model for a block of new rows behind what the cache holds."""

    def __init__(self, config: Any, *, length: int, dtype: torch.dtype, device: torch.device) -> None:
        self.windows, self.as_dict = layer_windows(config)
        self.dtype = dtype
        self.slots = torch.arange(length, device=device)

    def __call__(self, block: torch.Tensor, positions: torch.Tensor, among: torch.Tensor) -> Any:
        """The mask(s) for T rows written at slots `block` (int64 [T], consecutive) with `positions` (int64 [T]).

        Slots before the block hold one token each, in order; a row sees all of them, and of the block what `among`
        (bool [T, T], reflexive) says. A window counts positions, never slots. Returns a mask, or a dict of them.
        """
        committed = self.slots[None, :] < block[:1, None]
        columns = block.expand(len(block), -1)
        visible = committed.expand(len(block), -1).scatter(1, columns, among)
        if all(window is None for window in self.windows.values()):
            masks = dict.fromkeys(self.windows, additive(visible, self.dtype))
        else:
            key_positions = self.slots.scatter(0, block, positions)
            distance = positions[:, None] - key_positions[None, :]
            masks = {
                kind: additive(visible if window is None else visible & (distance < window), self.dtype)
                for kind, window in self.windows.items()
            }
        return masks if self.as_dict else next(iter(masks.values()))
