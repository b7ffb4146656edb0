"""What proposes a tree each cycle: nothing (plain decoding), an EAGLE head, or n-grams of the context.

A drafter sees the past only: the tokens emitted so far and the target's hidden states of the accepted rows. It may be
wrong in any way without changing the output; it only costs acceptance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from frspec_cli.decoding.attention import additive
from frspec_cli.decoding.cache import SlotBuffer
from frspec_cli.decoding.compiling import Compiler, mark_static
from frspec_cli.decoding.context_slots import ContextSlots
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.tree import Pool, Tree, chain, grow, rerank
from frspec_cli.heads.draft_head import DraftHead
from frspec_cli.models.lm_head import LmHead


class Drafter(Protocol):
    """Drafts one text at a time for one engine; `reset` starts the next text."""

    taps: tuple[int, ...]
    """Indices of the target's hidden states that it reads, besides the post-norm last one."""
    depth: int
    """Levels of its trees: at most this many drafted tokens are accepted a cycle."""
    nodes: int
    """Rows that the target verifies each cycle, root included; 1 for plain decoding."""
    k: int
    """Number of tokens that it can propose; 0 for plain decoding."""

    def reset(self, *, length: int) -> None:
        """Starts a new text of at most `length` tokens."""

    def append_tokens(self, tokens: Sequence[int]) -> None:
        """Takes tokens that the host has just learned: the prompt's, then the emitted ones of each step."""

    def append_states(
        self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...], start: torch.Tensor
    ) -> None:
        """Takes the next T pairs of (token i+1, the target's states at i); the end of the block may be padding.

        tokens: int64 [T].
        last, taps: [T, H] each.
        start: int64 [1], the block's first i.
        """

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        """Returns the tree behind `root`.

        root: int64 [1], the text's last token.
        position: int64 [1], its position.
        valid: int64 [1], how many rows of the last block count.
        """


class NoDrafter:
    """Plain decoding: a tree that is its root."""

    taps: tuple[int, ...] = ()
    depth = 0
    nodes = 1
    k = 0

    def reset(self, *, length: int) -> None:
        pass

    def append_tokens(self, tokens: Sequence[int]) -> None:
        pass

    def append_states(
        self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...], start: torch.Tensor
    ) -> None:
        pass

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        yes, zero = torch.ones_like(root, dtype=torch.bool), torch.zeros_like(root)
        return Tree(tokens=root, parents=zero, levels=zero, ancestors=yes[None], valid=yes)


class DraftCache(NamedTuple):
    """The draft's keys and values for R texts.

    buffer: slot i < `length` holds pair i; behind them are beam * (depth - 1) rows for a tree.
    slots: int64, all slot numbers.
    length: slots for pairs.
    """

    buffer: SlotBuffer
    slots: torch.Tensor
    length: int


class EagleDrafter:
    """EAGLE-2 over an EAGLE head: the same code for the full LM head and for a subset's rows (FR-Spec).

    The draft's cache holds pair i = (token i+1, feature f_i) at slot i. It keeps no tree row: each cycle one fixed block
    of depth + 1 rows re-runs what was accepted with the target's true features, and the rows of the levels below are in
    a region of their own behind the text.

    slots: spare LM head rows for tokens of the text that the subset lacks; None for none.
    compiler: compiles the tree's growth and the block; None runs them as they are.
    """

    def __init__(
        self,
        head: DraftHead,
        lm_head: LmHead,
        tree: TreeConfig,
        *,
        slots: ContextSlots | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        self.head = head
        self.context_slots = slots
        self.lm_head = slots.lm_head if slots is not None else lm_head
        self.tree = tree.within(lm_head.size)
        self.taps = head.taps
        self.depth = self.tree.depth
        self.nodes = self.tree.nodes
        self.k = lm_head.size  # without the context slots
        self.device = lm_head.weight.device
        self.dtype = lm_head.weight.dtype
        self.caches: dict[int, DraftCache] = {}
        self.own_rows = torch.eye(self.tree.beam * (self.depth - 1), dtype=torch.bool, device=self.device)
        self.row_levels = torch.arange(len(self.own_rows), device=self.device) // self.tree.beam + 1
        self.window = head.config.window
        self.compiled = compiler is not None
        self.grow, self.block = self._grow, self._block
        if compiler is not None:
            mark_static(self.lm_head.weight, self.lm_head.bias, self.lm_head.ids)
            self.grow, self.block = compiler(self._grow), compiler(self._block)

    def allocate(self, length: int, *, texts: int = 1) -> DraftCache:
        """An empty cache for texts of up to `length` pairs."""
        config = self.head.config
        buffer = SlotBuffer.zeros(
            layers=config.layers,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            length=length + len(self.own_rows),
            dtype=self.dtype,
            device=self.device,
            texts=texts,
        )
        return DraftCache(buffer, torch.arange(buffer.length, device=self.device), length)

    def reset(self, *, length: int) -> None:
        """Starts a new text, in a new cache or the last one of this length."""
        if length not in self.caches:
            if not self.compiled:  # as in the engine: a compiled step is bound to its buffer
                self.caches.clear()
            self.caches[length] = self.allocate(length)
            if self.compiled:
                self.caches[length].buffer.mark_static()
        self.cache = self.caches[length]
        if self.context_slots is not None:
            self.context_slots.clear()

    def append_tokens(self, tokens: Sequence[int]) -> None:
        if self.context_slots is not None:
            self.context_slots.add(tokens)

    def append_states(
        self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...], start: torch.Tensor
    ) -> None:
        block = self.block if len(tokens) == self.depth + 1 else self._block  # the prompt's passes are not compiled
        self.hidden = block(tokens, last, taps, start)

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        return self.grow(root, position, self.hidden.index_select(1, valid - 1))

    def _block(
        self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...], start: torch.Tensor
    ) -> torch.Tensor:
        return self.read(self.cache, tokens[None], last[None], tuple(tap[None] for tap in taps), start)

    def _grow(self, root: torch.Tensor, position: torch.Tensor, last: torch.Tensor) -> Tree:
        return rerank(root, self.pool(self.cache, position, last), self.tree)

    def read(
        self,
        cache: DraftCache,
        tokens: torch.Tensor,
        last: torch.Tensor,
        taps: tuple[torch.Tensor, ...],
        start: torch.Tensor,
    ) -> torch.Tensor:
        """Writes T pairs of each of R texts into the cache; returns the draft's hidden states [R, T, H].

        tokens: int64 [R, T].
        last, taps: the target's states, [R, T, H] each.
        start: int64 [1], the first pair's slot.
        """
        features = self.head.fuse(last, taps)
        slots = start + torch.arange(tokens.shape[1], device=self.device)
        visible = (cache.slots[None, :] <= slots[:, None])[None]
        if self.window is not None:
            visible = visible & (slots[:, None] - cache.slots[None, :] < self.window)
        return self._run(cache, tokens, features, slots[None], slots, visible)

    def pool(self, cache: DraftCache, position: torch.Tensor, last: torch.Tensor) -> Pool:
        """The candidates of the trees behind one token of each of R texts.

        position: int64 [R], the roots' positions.
        last: [R, 1, H], the draft's hidden states before the roots.
        """
        beam = self.tree.beam
        pairs = cache.slots[: cache.length]
        committed = (pairs < position[:, None])[:, None].expand(-1, beam, -1)
        frontier = {"hidden": last, "seen": self.own_rows.new_zeros(len(position), 1, len(self.own_rows))}

        def step(tokens: torch.Tensor, came_from: torch.Tensor, level: int) -> torch.Tensor:
            rows = slice((level - 1) * beam, level * beam)
            seen = self.own_rows[rows] | _take(frontier["seen"], came_from)
            before, among = committed, seen
            if self.window is not None:  # in positions: of pair i it is i, and all rows of a level are at one
                first = position[:, None, None] + level - self.window
                before = committed & (pairs >= first)
                among = seen & (self.row_levels > level - self.window)
            hidden = self._run(
                cache,
                tokens,
                _take(frontier["hidden"], came_from),
                (position[:, None] + (level - 1)).expand(-1, beam),
                cache.slots[cache.length + rows.start : cache.length + rows.stop],
                torch.cat((before, among), dim=-1),
            )
            frontier.update(hidden=hidden, seen=seen)
            return self._log_probs(hidden)

        return grow(self._log_probs(last), step, self.lm_head.to_token_ids, self.tree)

    def _run(
        self,
        cache: DraftCache,
        tokens: torch.Tensor,
        features: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        visible: torch.Tensor,
    ) -> torch.Tensor:
        """The head over T rows of each text, written at `slots`: hidden states [R, T, H].

        tokens, positions: int64 [R, T].
        features: [R, T, H].
        slots: int64 [T].
        visible: bool [R, T, L].
        """
        cache.buffer.slots = slots
        hidden = self.head(
            self.head.embed(tokens), features, positions, additive(visible, self.dtype), caches=cache.buffer.layers
        )
        cache.buffer.slots = None
        return hidden

    def _log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [R, T, H] -> log-softmax over the LM head's rows, at least float32 [R, T, V]."""
        logits = self.lm_head(self.head.lm_input(hidden))
        if self.context_slots is not None:
            logits = logits + self.context_slots.unused_mask
        return torch.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _take(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Of [R, N, H], the rows int64 [R, K] of each text: [R, K, H]."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


class LookupDrafter:
    """Drafts by n-gram: what followed the most recent earlier occurrence of the text's last tokens."""

    taps: tuple[int, ...] = ()

    def __init__(self, depth: int, *, longest: int = 3) -> None:
        self.depth = depth
        self.nodes = depth + 1
        self.k = 0
        self.longest = longest

    def reset(self, *, length: int) -> None:
        self.text: list[int] = []

    def append_tokens(self, tokens: Sequence[int]) -> None:
        self.text.extend(tokens)

    def append_states(
        self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...], start: torch.Tensor
    ) -> None:
        pass

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        drafted = self._continuation()
        padded = drafted + [0] * (self.depth - len(drafted))
        present = torch.arange(self.depth, device=root.device) < len(drafted)
        return chain(root, torch.tensor(padded, dtype=torch.int64, device=root.device), present)

    def _continuation(self) -> list[int]:
        text = self.text
        for size in range(min(self.longest, len(text) - 1), 0, -1):
            tail = text[-size:]
            for begin in range(len(text) - size - 1, -1, -1):
                if text[begin : begin + size] == tail:
                    return text[begin + size : begin + size + self.depth]
        return []
