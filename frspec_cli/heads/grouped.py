"""Softmax attention in which several query heads share a key head: the heads of a group become rows over their keys.

So keys and values are never copied to all query heads, and a kernel sees as many query as key heads: on GPUs only such calls
may take a fused kernel together with a mask.
"""

from __future__ import annotations

import torch
from torch.nn import functional

CPU_ROWS = 64
"""With more rows than this a CPU's kernel is no quicker for it, and the mask would be copied for each head of a group."""


def causal_mask(rows: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """In the place of a mask, "row i of T sees all keys but the last T - 1 - i": [1, 1, T, 0], a mask without columns."""
    return torch.empty(1, 1, rows, 0, dtype=dtype, device=device)


def grouped_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Returns [B, T, Q, D].

    query: [B, Q, T, D].
    keys, values: [B, KV, L, D]; KV divides Q, G = Q / KV.
    mask: additive [B or 1, 1, M, L], in which M is 1, T or G * T (T rows for each head of a group, all alike); L = 0 is a
        `causal_mask`; None lets every row see everything.
    scaling: of the scores; None for D ** -0.5.
    softcap: the scores are capped before the mask (Gemma-2), in at least float32 as transformers does.
    """
    batch, heads, rows, size = query.shape
    groups = heads // keys.shape[1]
    if mask is not None and mask.shape[-1] == 0:
        if softcap is None and rows == keys.shape[2]:
            out = functional.scaled_dot_product_attention(
                query, keys, values, is_causal=True, scale=scaling, enable_gqa=groups > 1
            )
            return out.transpose(1, 2).contiguous()
        mask = _lower_right(rows, keys.shape[2], query)
    if mask is not None and softcap is None and rows > CPU_ROWS and query.device.type == "cpu":
        out = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask[:, :, :rows], scale=scaling, enable_gqa=groups > 1
        )
        return out.transpose(1, 2).contiguous()
    if mask is not None and mask.shape[2] not in (1, groups * rows):
        mask = mask[:, :, :rows].repeat(1, 1, groups, 1)
    folded = query.reshape(batch, keys.shape[1], groups * rows, size)
    if softcap is None:
        out = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scaling)
    else:
        out = _capped(folded, keys, values, mask, scaling if scaling is not None else size**-0.5, softcap)
    return out.reshape(batch, heads, rows, size).transpose(1, 2).contiguous()


def _capped(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    softcap: float,
) -> torch.Tensor:
    """Attention whose scores are soft-capped; as many query as key heads."""
    scores = query @ keys.transpose(2, 3) * scaling
    scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
    return weights @ values


def _lower_right(rows: int, length: int, like: torch.Tensor) -> torch.Tensor:
    """The additive mask [1, 1, T, L] of T rows that are the last of L."""
    lowest = torch.full((rows, length), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device)
    return lowest.triu_(length - rows + 1)[None, None]
