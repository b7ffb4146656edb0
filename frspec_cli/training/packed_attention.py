"""Attention of the unrolled steps: causal within each answer, plus a few keys that a single query sees, by a fused kernel.

Answers lie one after another without padding; for the kernel alone those of similar length are padded together, so that no
answer sees another and no mask is needed. In step k a query also sees its own keys of the steps 1..k. Were they columns of
the scores, each step would add as many as there are queries, of which every query sees one. Instead their scores, an
elementwise product, are handed to the kernel as numbers: slot j is one more key, in front of all others, that is 1 in a
dimension of its own, in which a query holds its score with its j-th own key. That key's value is again 1 in a dimension of
its own, so the output holds the weight that the softmax gave it, and with that the own value is added. This is plain
`scaled_dot_product_attention(is_causal=True)` over D + a few dimensions, forward and backward, on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

_ALIKE = 0.75  # answers share a call of the kernel if none is shorter than this share of the longest
_UNSEEN = -1e5  # the score of a slot that is not in use yet, before scaling: its weight is 0 in every dtype
_FUSED = 256  # CUDA's kernels with fewer key than query heads take no more dimensions


@dataclass(frozen=True, eq=False)
class _Group:
    """B answers of up to T positions. index: int64 [B, T], places in the packed order; keys, values: [B, KV, S + T, D']."""

    index: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


class PackedAttention:
    """The keys that all steps share.

    keys, values: [N, KV, D], of all positions of all answers, one answer after another.
    lengths: positions of each answer.
    slots: the number S of own keys that a query may have at most.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, *, lengths: Sequence[int], slots: int) -> None:
        self.size, self.slots = keys.shape[-1], slots
        self._parts = 2 if keys.dtype.itemsize < 4 else 1  # a score takes two bfloat16 numbers, for 16 bits of it
        extra = -(-slots * self._parts // 8) * 8  # CUDA's kernels want multiples of 8
        indices, self._slot = _padded_places(lengths, keys.device)
        own_keys, own_values = self._slot_rows(keys, extra)
        keys, values = (functional.pad(each, (0, extra)) for each in (keys, values))
        self._groups = [
            _Group(index, _with_slots(keys[index], own_keys), _with_slots(values[index], own_values))
            for index in indices
        ]

    def __call__(
        self, queries: torch.Tensor, places: torch.Tensor, own: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """queries [Q, heads, D] -> what they attended to, [Q, heads * D].

        places: int64 [Q], of the queries in the packed order; each sees its answer up to there.
        own: at most S pairs of keys and values [Q, KV, D] of the queries' own.
        """
        count, heads, size = queries.shape
        wide = self._with_scores(queries, [keys for keys, _ in own])
        row_of = torch.zeros(len(self._slot), dtype=torch.int64, device=queries.device)
        row_of[places] = torch.arange(count, device=queries.device)
        out = torch.cat([self._attend(wide[row_of[group.index]], group) for group in self._groups])[self._slot[places]]
        mixed = out[..., :size].unflatten(1, (-1, heads // self._groups[0].keys.shape[1]))
        for slot, (_, values) in enumerate(own):
            weights = out[..., size + slot].view(*mixed.shape[:3], 1)
            mixed = mixed + weights * values[:, :, None]
        return mixed.reshape(count, heads * size)

    def _slot_rows(self, like: torch.Tensor, extra: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and the values of the slots, each [S, D'] of ones and zeros."""
        rows = torch.eye(self.slots, dtype=like.dtype, device=like.device)
        keys = functional.pad(rows.repeat(1, self._parts), (self.size, extra - self.slots * self._parts))
        return keys, functional.pad(rows, (self.size, extra - self.slots))

    def _with_scores(self, queries: torch.Tensor, own: Sequence[torch.Tensor]) -> torch.Tensor:
        """queries [Q, heads, D] -> [Q, heads, D']: behind each, its scores with its own keys."""
        if not self.slots:
            return queries
        count, heads, size = queries.shape
        wide = queries.to(torch.promote_types(queries.dtype, torch.float32)).unflatten(1, (self._key_heads, -1))
        scores = wide.new_full((count, heads, self.slots), _UNSEEN)
        if own:
            found = [(wide * keys[:, :, None]).sum(-1).flatten(1) for keys in own]
            scores = torch.cat((torch.stack(found, -1), scores[..., len(own) :]), -1)
        high = scores.to(queries.dtype)
        parts = [queries, high] if self._parts == 1 else [queries, high, (scores - high).to(queries.dtype)]
        missing = self._groups[0].keys.shape[-1] - size - self.slots * self._parts
        return functional.pad(torch.cat(parts, -1), (0, missing))

    @property
    def _key_heads(self) -> int:
        return self._groups[0].keys.shape[1]

    def _attend(self, queries: torch.Tensor, group: _Group) -> torch.Tensor:
        """queries [B, T, heads, D'] -> [B * T, heads, D']."""
        heads, size = queries.shape[2:]
        keys, values, copies = group.keys, group.values, heads // self._key_heads
        if size > _FUSED and copies > 1:
            keys, values = (each.repeat_interleave(copies, 1) for each in (keys, values))
        queries = functional.pad(queries.transpose(1, 2), (0, 0, self.slots, 0))  # rows in front, as many as slots
        out = functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=self.size**-0.5, enable_gqa=keys.shape[1] != heads
        )
        return out[:, :, self.slots :].transpose(1, 2).flatten(0, 1)


def _with_slots(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """x [B, T, KV, D'] with the slots' rows [S, D'] in front -> [B, KV, S + T, D']."""
    x = x.transpose(1, 2)
    return torch.cat((rows.expand(*x.shape[:2], -1, -1), x), 2)


def _padded_places(lengths: Sequence[int], device: torch.device) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Where positions of packed answers are once answers of similar length are padded together.

    Returns for each group int64 [B, T], the packed position (past an answer's end: its last one), and int64 [N], for each
    packed position its place among all positions of all groups.
    """
    starts = np.cumsum([0, *lengths])
    slot = np.zeros(starts[-1], dtype=np.int64)
    indices, before = [], 0
    for members in _alike(lengths):
        within = np.arange(lengths[members[0]])[None]
        last = np.array([lengths[i] - 1 for i in members])[:, None]
        index = starts[members][:, None] + np.minimum(within, last)
        slot[index[within <= last]] = before + np.flatnonzero(within <= last)
        indices.append(torch.from_numpy(index).to(device))
        before += index.size
    return indices, torch.from_numpy(slot).to(device)


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Answers in groups of similar length, longest first."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not groups or lengths[i] < _ALIKE * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(i)
    return groups
