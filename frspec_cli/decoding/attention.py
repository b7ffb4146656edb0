"""Attention over a cache of fixed length: the masks, and the kernel that reads grouped heads without copying them.

A mask is additive, in the model's dtype (0 or the dtype's lowest number), shape [1, 1, T, L]: T query rows over L cache
slots. Boolean masks are right under SDPA and silently wrong under eager attention, so frspec makes none.
"""

from __future__ import annotations

from typing import Any

import torch

from frspec_cli.errors import FrspecError

KERNEL = "frspec"
"""The name under which `attend` is registered with transformers."""


HARMLESS = {
    "dropout",  # 0 outside training
    "sliding_window",  # the engine's mask has the window
    "is_causal",  # likewise
    "position_ids",  # queries and keys are rotated already
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
}
"""Arguments that families pass to attention and that change nothing here."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Softmax attention in transformers' calling convention; grouped heads are not expanded.

    query: [B, Q, T, D].
    key, value: [B, KV, L, D]; KV divides Q.
    attention_mask: additive [B or 1, 1, T, L].
    softcap: the scores are capped before the mask (Gemma-2), in float32 as transformers does.

    Returns [B, T, Q, D]. Raises `FrspecError` if the family asks for anything else.
    """
    _refuse_unknown(module, attention_mask, others)
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


def _refuse_unknown(module: torch.nn.Module, mask: torch.Tensor | None, others: dict[str, Any]) -> None:
    """Refuses what `attend` does not compute: the text would be another one from the first token on."""
    unknown = [name for name, value in others.items() if value is not None and name not in HARMLESS]
    if unknown:
        raise unsupported(module, f"passes `{unknown[0]}` to attention, which frspec's attention does not compute")
    if mask is not None and mask.shape[1] != 1:
        raise unsupported(module, "makes a mask of its own for each head, which frspec's cache cannot serve")


def unsupported(module: Any, reason: str) -> FrspecError:
    """The error for a model family that frspec cannot decode."""
    family = getattr(getattr(module, "config", module), "model_type", None) or type(module).__name__
    return FrspecError(
        f"the model family {family} {reason}.",
        hint="Its tokens can still be counted, and subsets built and exported.",
    )


def use_kernel(model: Any) -> None:
    """Makes `model` use `attend`: with an explicit mask, transformers' SDPA copies K and V over all slots."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(KERNEL, attend)
    AttentionMaskInterface.register(KERNEL, eager_mask)  # so that the model's own `generate` stays right as well
    model.set_attn_implementation(KERNEL)


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """bool [B, T, L] or [T, L], True where a row may look -> additive mask [B or 1, 1, T, L]."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min).view(-1, 1, *visible.shape[-2:])


def layer_windows(config: Any) -> tuple[dict[str, int | None], bool]:
    """The masks that a model needs: ({layer type: window in positions, or None}, whether it takes a dict of them).

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
