"""Attention over a cache of fixed length: the masks, and the kernel that reads grouped heads without copying them.

A mask is additive, in the model's dtype (0 or the dtype's lowest number), shape [1, 1, T, L]: T query rows over L cache
slots. Boolean masks are right under SDPA and silently wrong under eager attention, so frspec makes none. What is plainly
causal gets no mask but the sign for it (`causal_mask`).
"""

from __future__ import annotations

from typing import Any

import torch

from frspec_cli.errors import FrspecError
from frspec_cli.heads.grouped import causal_mask, grouped_attention

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

    Tensors as in `grouped_attention`; returns [B, T, Q, D]. Raises `FrspecError` if the family asks for anything else.
    """
    _refuse_unknown(module, attention_mask, others)
    return grouped_attention(query, key, value, attention_mask, scaling=scaling, softcap=softcap), None


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
    """Builds the masks of one model for a block of new rows behind what the cache holds.

    groups: how many query heads share a key head; the masks have the rows of all of them (see `grouped_attention`).
    """

    def __init__(self, config: Any, *, length: int, dtype: torch.dtype, device: torch.device, groups: int = 1) -> None:
        self.windows, self.as_dict = layer_windows(config)
        self.dtype = dtype
        self.groups = groups
        self.slots = torch.arange(length, device=device)

    def __call__(
        self, block: torch.Tensor, positions: torch.Tensor, among: torch.Tensor, end: int | None = None
    ) -> Any:
        """The mask(s) for T rows written at slots `block` (int64 [T], consecutive) with `positions` (int64 [T]).

        Slots before the block hold one token each, in order; a row sees all of them, and of the block what `among`
        (bool [T, T], reflexive) says. A window counts positions, never slots.
        end: only the slots before this one are attended; None for all. Returns a mask, or a dict of them.
        """
        slots = self.slots[:end]
        committed = slots[None, :] < block[:1, None]
        columns = block.expand(len(block), -1)
        visible = committed.expand(len(block), -1).scatter(1, columns, among)
        if all(window is None for window in self.windows.values()):
            masks = dict.fromkeys(self.windows, self._additive(visible))
        else:
            key_positions = slots.scatter(0, block, positions)
            distance = positions[:, None] - key_positions[None, :]
            masks = {
                kind: self._additive(visible if window is None else visible & (distance < window))
                for kind, window in self.windows.items()
            }
        return masks if self.as_dict else next(iter(masks.values()))

    def causal(self, block: torch.Tensor, end: int) -> Any:
        """The same for T rows of a prompt at slots `block`, the last of the `end` that are attended."""
        sign = causal_mask(len(block), self.dtype, block.device)
        if all(window is None or end <= window for window in self.windows.values()):
            masks: Any = dict.fromkeys(self.windows, sign)
            return masks if self.as_dict else sign
        masks = self(block, block, block[:, None] >= block[None, :], end)
        if not self.as_dict:
            return masks
        return {kind: sign if self.windows[kind] is None else mask for kind, mask in masks.items()}

    def _additive(self, visible: torch.Tensor) -> torch.Tensor:
        return additive(visible, self.dtype).repeat(1, 1, self.groups, 1)
