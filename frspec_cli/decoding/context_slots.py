"""Context slots: a few spare rows of the draft's LM head for tokens of this text that the subset lacks.

A name or a rare word in the prompt often comes again, and a static subset can never draft it. Each slot holds one
such token's row; a token that the subset has takes none, and the least recently seen token leaves when all are taken.
Unused slots have log-probability -inf, so they are never drafted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from frspec_cli.models.lm_head import LmHead


class Slots(Protocol):
    """What a drafter reads of slots, however they are filled."""

    lm_head: LmHead
    """The subset's rows, and behind them those of the slots."""
    unused_mask: torch.Tensor
    """-inf at rows that are not to be drafted and 0 elsewhere, to be added to logits [R, T, rows]."""

    def clear(self) -> None:
        """Empties every slot, for a new text."""

    def add(self, tokens: Sequence[int]) -> None:
        """Gives slots to tokens of the text, in their order."""


class LastSeen:
    """Which of a text's tokens have one of `count` slots: those seen last.

    may_have: whether a token ever gets a slot.
    """

    def __init__(self, count: int, may_have: Callable[[int], bool]) -> None:
        self.count, self.may_have = count, may_have
        self.slot_of: OrderedDict[int, int] = OrderedDict()  # token -> slot, least recently seen first

    def add(self, tokens: Sequence[int]) -> dict[int, int]:
        """Takes the next tokens of the text; returns the slots that hold another token now, each with its token."""
        changed: dict[int, int] = {}
        for token in tokens:
            if not self.may_have(token):
                continue
            if token in self.slot_of:
                self.slot_of.move_to_end(token)
                continue
            slot = len(self.slot_of) if len(self.slot_of) < self.count else self.slot_of.popitem(last=False)[1]
            self.slot_of[token] = slot
            changed[slot] = token
        return changed


class ContextSlots:
    """`count` slots behind a subset's rows.

    rows: the subset's LM head (R rows).
    full: the head that has a row for every token that may get a slot.
    lm_head: R + count rows in one contiguous tensor; its slots change in place, its shape never does.
    unused_mask: [R + count], -inf at unused slots and 0 elsewhere, to be added to the logits.
    """

    def __init__(self, rows: LmHead, full: LmHead, count: int) -> None:
        device = rows.weight.device
        self.full = full
        self.first = rows.size
        self.count = count
        ids = rows.ids if rows.ids is not None else torch.arange(rows.size, device=device)
        self.always = set(ids.tolist())
        self.row_in_full = None if full.ids is None else {token: row for row, token in enumerate(full.ids.tolist())}
        padding = rows.weight.new_zeros(count, rows.weight.shape[1])
        bias = None if rows.bias is None else torch.cat((rows.bias, rows.bias.new_zeros(count)))
        self.lm_head = LmHead(
            torch.cat((rows.weight, padding)), bias, rows.scale, rows.softcap, torch.cat((ids, ids.new_zeros(count)))
        )
        self.unused_mask = torch.zeros(rows.size + count, dtype=rows.weight.dtype, device=device)
        self.clear()

    def clear(self) -> None:
        """Empties every slot, for a new text."""
        self.seen = LastSeen(self.count, self._may_have)
        self.unused_mask[self.first :] = float("-inf")

    def add(self, tokens: Sequence[int]) -> None:
        """Gives slots to tokens of the text, in their order."""
        changed = self.seen.add(tokens)
        if changed:
            self._load(changed)

    def _may_have(self, token: int) -> bool:
        """Whether the subset lacks a token that the full head has."""
        return token not in self.always and (self.row_in_full is None or token in self.row_in_full)

    def _load(self, changed: dict[int, int]) -> None:
        """Copies the rows of the tokens into their slots (slot -> token)."""
        device = self.unused_mask.device
        rows = list(changed.values())
        if self.row_in_full is not None:
            rows = [self.row_in_full[token] for token in rows]
        host = torch.tensor([[self.first + slot for slot in changed], list(changed.values()), rows])
        if device.type == "cuda":  # one copy, and the host does not wait for it
            host = host.pin_memory()
        slots, tokens, source = host.to(device, non_blocking=True)
        assert self.lm_head.ids is not None
        self.lm_head.weight.index_copy_(0, slots, self.full.weight[source])
        self.lm_head.ids.index_copy_(0, slots, tokens)
        if self.lm_head.bias is not None and self.full.bias is not None:
            self.lm_head.bias.index_copy_(0, slots, self.full.bias[source])
        self.unused_mask[slots] = 0.0
