"""What proposes a tree each cycle: nothing (plain decoding), an EAGLE head, or n-grams of the text (`lookup`).

A drafter sees the past only: the tokens emitted so far and the target's hidden states of the accepted rows. It may be
wrong in any way without changing the output; it only costs acceptance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from frspec_cli.decoding.attention import additive
from frspec_cli.decoding.cache import SlotBuffer, attended, round_up
from frspec_cli.decoding.compiling import Compiler, mark_static
from frspec_cli.decoding.context_slots import Slots
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.tree import Candidates, Pool, Tree, grow, likeliest, rerank
from frspec_cli.errors import UsageError, option
from frspec_cli.heads.draft_head import DraftHead
from frspec_cli.heads.grouped import causal_mask
from frspec_cli.heads.head import EagleHead
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
    reach: int
    """Set by the engine before `append_states` and `propose`: the text's rows that are final are at most this many."""

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
    reach = 0

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

    buffer: slot `front` + i holds pair i; before them is room for the beam * (depth - 1) rows of a tree.
    slots: int64, the pairs' numbers 0, 1, ..
    front: slots of the tree's region.
    """

    buffer: SlotBuffer
    slots: torch.Tensor
    front: int

    @property
    def length(self) -> int:
        """Slots for pairs."""
        return len(self.slots)


class EagleDrafter:
    """EAGLE-2 over an EAGLE head: the same code for the full LM head and for a subset's rows (FR-Spec).

    The draft's cache holds pair i = (token i+1, feature f_i). It keeps no tree row: each cycle one block of at most
    depth + 1 rows re-runs what was accepted with the target's true features, and the rows of the levels below are in a
    region of their own in front of the text, so that what a step attends to is always the start of the cache.

    slots: spare LM head rows for tokens of the text that the subset lacks; None for none.
    compiler: compiles the tree's growth and the block; None runs them as they are.
    """

    def __init__(
        self,
        head: DraftHead,
        lm_head: LmHead,
        tree: TreeConfig,
        *,
        slots: Slots | None = None,
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
        self.reach = 0
        self.cache: DraftCache | None = None
        rows = self.tree.beam * (self.depth - 1)
        # Kernels want masks and keys that begin at a multiple of 16.
        self.own_rows = torch.eye(rows, round_up(rows, 16), dtype=torch.bool, device=self.device)
        self.row_levels = torch.arange(self.own_rows.shape[1], device=self.device) // self.tree.beam + 1
        self.window = head.config.window
        self.compiled = compiler is not None
        self.grow, self.block = self._grow, self._block
        if compiler is not None:
            if tree.prices is not None:
                raise UsageError(
                    f"{option('compile')} needs trees of one size: one that is sized by cost differs from cycle to cycle."
                )
            mark_static(self.lm_head.weight, self.lm_head.bias, self.lm_head.ids)
            self.grow, self.block = compiler(self._grow), compiler(self._block)

    def allocate(self, length: int, *, texts: int = 1) -> DraftCache:
        """An empty cache for texts of up to `length` pairs."""
        config = self.head.config
        buffer = SlotBuffer.zeros(
            layers=config.layers,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            length=self.own_rows.shape[1] + length,
            dtype=self.dtype,
            device=self.device,
            texts=texts,
        )
        return DraftCache(buffer, torch.arange(length, device=self.device), self.own_rows.shape[1])

    def reset(self, *, length: int) -> None:
        """Starts a new text, in the last one's cache if that is long enough."""
        if self.cache is None or self.cache.length < length:
            self.cache = self.allocate(length)
            if self.compiled:
                self.cache.buffer.mark_static()
        if self.context_slots is not None:
            self.context_slots.clear()

    def append_tokens(self, tokens: Sequence[int]) -> None:
        if self.context_slots is not None:
            self.context_slots.add(tokens)

    def append_states(
        self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...], start: torch.Tensor
    ) -> None:
        end = self.reach + len(tokens)
        if len(tokens) > self.depth + 1:  # a part of the prompt
            self.hidden = self.read(self._cache, tokens[None], last[None], tuple(tap[None] for tap in taps), start, end)
        else:
            self.hidden = self.block(tokens, last, taps, start, self._attended(end))

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        return self.grow(root, position, self.hidden.index_select(1, valid - 1), self._attended(self.reach))

    @property
    def _cache(self) -> DraftCache:
        assert self.cache is not None, "no text was started"
        return self.cache

    def _attended(self, pairs: int) -> int:
        return min(attended(pairs, compiled=self.compiled), self._cache.length)

    def _block(
        self,
        tokens: torch.Tensor,
        last: torch.Tensor,
        taps: tuple[torch.Tensor, ...],
        start: torch.Tensor,
        end: int,
    ) -> torch.Tensor:
        visible = self._sees(self._cache, start + torch.arange(len(tokens), device=self.device), end)
        return self.read(self._cache, tokens[None], last[None], tuple(tap[None] for tap in taps), start, end, visible)

    def _grow(self, root: torch.Tensor, position: torch.Tensor, last: torch.Tensor, end: int) -> Tree:
        return rerank(root, self.pool(self._cache, position, last, end), self.tree)

    def read(
        self,
        cache: DraftCache,
        tokens: torch.Tensor,
        last: torch.Tensor,
        taps: tuple[torch.Tensor, ...],
        start: torch.Tensor,
        end: int,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Writes T pairs of each of R texts into the cache; returns the draft's hidden states [R, T, H].

        tokens: int64 [R, T].
        last, taps: the target's states, [R, T, H] each.
        start: int64 [1], the number of the first pair.
        end: pairs before this one are attended.
        visible: bool [R, T, end]; None for causal, where the T pairs are the last before `end`.
        """
        features = self.head.fuse(last, taps)
        rows = start + torch.arange(tokens.shape[1], device=self.device)
        windowed = self.window is not None and end > self.window
        if visible is None and (windowed or not isinstance(self.head, EagleHead)):  # only ours know the causal sign
            visible = self._sees(cache, rows, end)
        causal = causal_mask(tokens.shape[1], self.dtype, self.device)
        mask = causal if visible is None else additive(visible, self.dtype)
        cache.buffer.expect(cache.front + rows, cache.front, cache.front + end)
        return self._run(cache, tokens, features, rows[None], mask)

    def _sees(self, cache: DraftCache, rows: torch.Tensor, end: int) -> torch.Tensor:
        """bool [1, T, end]: the pairs that each of the pairs `rows` (int64 [T]) sees."""
        distance = rows[:, None] - cache.slots[None, :end]
        visible = distance >= 0 if self.window is None else (distance >= 0) & (distance < self.window)
        return visible[None]

    def pool(self, cache: DraftCache, position: torch.Tensor, last: torch.Tensor, end: int | None = None) -> Pool:
        """The candidates of the trees behind one token of each of R texts.

        position: int64 [R], the roots' positions.
        last: [R, 1, H], the draft's hidden states before the roots.
        end: pairs before this one are attended; None for all.
        """
        beam, end = self.tree.beam, cache.length if end is None else end
        pairs = cache.slots[:end]
        committed = (pairs < position[:, None])[:, None].expand(-1, beam, -1)
        frontier = {"hidden": last, "seen": self.own_rows.new_zeros(len(position), 1, cache.front)}

        def step(tokens: torch.Tensor, came_from: torch.Tensor, level: int) -> Candidates:
            rows = slice((level - 1) * beam, level * beam)
            seen = self.own_rows[rows] | _take(frontier["seen"], came_from)
            before, among = committed, seen
            if self.window is not None:  # in positions: of pair i it is i, and all rows of a level are at one
                first = position[:, None, None] + level - self.window
                before = committed & (pairs >= first)
                among = seen & (self.row_levels > level - self.window)
            cache.buffer.expect(torch.arange(rows.start, rows.stop, device=self.device), 0, cache.front + end)
            hidden = self._run(
                cache,
                tokens,
                _take(frontier["hidden"], came_from),
                (position[:, None] + (level - 1)).expand(-1, beam),
                additive(torch.cat((among, before), dim=-1), self.dtype),
            )
            frontier.update(hidden=hidden, seen=seen)
            return self._candidates(hidden)

        return grow(self._candidates(last), step, self.lm_head.to_token_ids, self.tree)

    def _run(
        self,
        cache: DraftCache,
        tokens: torch.Tensor,
        features: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """The head over T rows of each text, written where the cache's buffer expects them: hidden states [R, T, H].

        tokens, positions: int64 [R, T].
        features: [R, T, H].
        mask: as the head takes it.
        """
        hidden = self.head(self.head.embed(tokens), features, positions, mask, caches=cache.buffer.layers)
        cache.buffer.expect(None)
        return hidden

    def _candidates(self, hidden: torch.Tensor) -> Candidates:
        """hidden [R, T, H] -> the `beam` likeliest rows at each."""
        return likeliest(self._logits(hidden), self.tree.beam)

    def _logits(self, hidden: torch.Tensor, head: DraftHead | None = None) -> torch.Tensor:
        """hidden [R, T, H] -> the LM head's logits [R, T, V]. head: which gave them; None for the drafter's own."""
        logits = self.lm_head((self.head if head is None else head).lm_input(hidden))
        return logits if self.context_slots is None else logits + self.context_slots.unused_mask


def _take(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Of [R, N, H], the rows int64 [R, K] of each text: [R, K, H]."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
