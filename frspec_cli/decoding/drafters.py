"""What proposes a tree each cycle: nothing (plain decoding), an EAGLE head, or n-grams of the context.

A drafter sees the past only: the tokens emitted so far and the target's hidden states of the accepted rows. It may be
wrong in any way without changing the output; it only costs acceptance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from frspec_cli.decoding.attention import additive
from frspec_cli.decoding.cache import SlotBuffer
from frspec_cli.decoding.compiling import Compiler, mark_static
from frspec_cli.decoding.context_slots import ContextSlots
from frspec_cli.decoding.tree import Tree, TreeConfig, chain, grow
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead


class Drafter(Protocol):
    """One drafter serves one engine; `reset` resets it for a new text."""

    taps: tuple[int, ...]
    """Indices of the target's hidden states that it reads, besides the post-norm last one."""
    depth: int
    nodes: int
    """Rows that the target verifies each cycle, root included; 1 for plain decoding."""
    k: int
    """Number of tokens that it can propose; 0 for plain decoding."""

    def reset(self, *, length: int, start: torch.Tensor) -> None:
        """A new text: at most `length` tokens; `start` int64 [1] is the engine's count of committed target rows."""

    def append_tokens(self, tokens: Sequence[int]) -> None:
        """Tokens that the host has just learned: the prompt's, then the emitted ones of each step."""

    def append_states(self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...]) -> None:
        """The next T pairs of (token i+1: int64 [T], the target's states at i: [T, H] each); may be padded at the end."""

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        """The tree behind `root` (int64 [1]) at `position` (int64 [1]); `valid` int64 [1] of the rows last observed count."""


class NoDrafter:
    """Plain decoding: a tree that is its root."""

    taps: tuple[int, ...] = ()
    depth = 0
    nodes = 1
    k = 0

    def reset(self, *, length: int, start: torch.Tensor) -> None:
        self._zero = torch.zeros_like(start)

    def append_tokens(self, tokens: Sequence[int]) -> None:
        pass

    def append_states(self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...]) -> None:
        pass

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        yes = torch.ones_like(root, dtype=torch.bool)
        return Tree(tokens=root, parents=self._zero, levels=self._zero, ancestors=yes[None], valid=yes)


class EagleDrafter:
    """EAGLE-2 over an EAGLE head: the same code for the full LM head and for a subset's rows (FR-Spec).

    The draft's cache holds pair i = (token i+1, feature f_i) at slot i. It keeps no tree row: each cycle one fixed block
    of depth + 1 rows re-runs what was accepted with the target's true features, and the rows of the levels below lie in
    a region of their own behind the text.

    slots: spare LM head rows for tokens of the text that the subset lacks; None for none. compiler: compiles the tree's
    growth and the block; None runs them as they are.
    """

    def __init__(
        self,
        head: EagleHead,
        lm_head: LmHead,
        shape: TreeConfig,
        *,
        slots: ContextSlots | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        self.head = head
        self.context_slots = slots
        self.lm_head = slots.lm_head if slots is not None else lm_head
        self.shape = shape.within(lm_head.size)
        self.taps = head.taps
        self.depth = self.shape.depth
        self.nodes = self.shape.nodes
        self.k = lm_head.size  # without the context slots
        self.device = lm_head.weight.device
        self.dtype = lm_head.weight.dtype
        self.rooms: dict[int, tuple[SlotBuffer, torch.Tensor]] = {}
        self.own_rows = torch.eye(self.shape.beam * (self.depth - 1), dtype=torch.bool, device=self.device)
        self.compiled = compiler is not None
        self.grow, self.block = self._grow, self._block
        if compiler is not None:
            mark_static(self.lm_head.weight, self.lm_head.bias, self.lm_head.ids)
            self.grow, self.block = compiler(self._grow), compiler(self._block)

    def reset(self, *, length: int, start: torch.Tensor) -> None:
        """Allocates (or reuses) a cache of `length` text rows and beam * (depth - 1) tree rows."""
        if length not in self.rooms:
            if not self.compiled:  # as in the engine: a compiled step is bound to its buffer
                self.rooms.clear()
            config = self.head.config
            buffer = SlotBuffer(
                layers=1,
                kv_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                length=length + len(self.own_rows),
                dtype=self.dtype,
                device=self.device,
            )
            if self.compiled:
                buffer.mark_static()
            self.rooms[length] = buffer, torch.arange(buffer.length, device=self.device)
        self.buffer, self.slots = self.rooms[length]
        self.length = length
        self.start = start  # the engine's own tensor: pairs before it are final
        if self.context_slots is not None:
            self.context_slots.clear()

    def append_tokens(self, tokens: Sequence[int]) -> None:
        if self.context_slots is not None:
            self.context_slots.see(tokens)

    def append_states(self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...]) -> None:
        block = self.block if len(tokens) == self.depth + 1 else self._block  # the prompt's passes are not compiled
        self.hidden = block(tokens, last, taps, self.start)

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        return self.grow(root, position, self.hidden.index_select(1, valid - 1))

    def _block(
        self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...], start: torch.Tensor
    ) -> torch.Tensor:
        """T pairs from slot `start` on -> the draft's hidden states [1, T, H]."""
        features = self.head.fuse(last[None], tuple(tap[None] for tap in taps))
        positions = start + torch.arange(len(tokens), device=self.device)
        visible = self.slots[None, :] <= positions[:, None]
        return self._run(tokens, features, positions, positions, visible)

    def _grow(self, root: torch.Tensor, position: torch.Tensor, last: torch.Tensor) -> Tree:
        """The tree behind `root`, from the draft's hidden state before it [1, 1, H]."""
        beam = self.shape.beam
        committed = self.slots[None, : self.length] < position[:, None]
        state: dict[str, torch.Tensor] = {"hidden": last.expand(1, beam, -1)}

        def step(tokens: torch.Tensor, came_from: torch.Tensor, level: int) -> torch.Tensor:
            rows = slice((level - 1) * beam, level * beam)
            own = self.own_rows[rows]
            seen = own if level == 1 else own | state["seen"][came_from]
            features = state["hidden"][:, came_from] if level > 1 else state["hidden"]
            visible = torch.cat((committed.expand(beam, -1), seen), dim=1)
            positions = (position + (level - 1)).expand(beam)
            slots = self.slots[self.length + rows.start : self.length + rows.stop]
            state["hidden"] = self._run(tokens, features, positions, slots, visible)
            state["seen"] = seen
            return self._log_probs(state["hidden"])

        return grow(root, self._log_probs(last), step, self.lm_head.to_token_ids, self.shape)

    def _run(
        self,
        tokens: torch.Tensor,
        features: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        visible: torch.Tensor,
    ) -> torch.Tensor:
        """One forward pass of the head over T rows -> hidden [1, T, H]."""
        self.buffer.slots = slots
        hidden = self.head(
            self.head.embed(tokens[None]),
            features,
            positions[None],
            additive(visible, self.dtype),
            cache=self.buffer.layers[0],
        )
        self.buffer.slots = None
        return hidden

    def _log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [1, T, H] -> log-softmax over the LM head's rows, at least float32 [T, R]."""
        logits = self.lm_head(self.head.lm_input(hidden))[0]
        if self.context_slots is not None:
            logits = logits + self.context_slots.closed
        return torch.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


class LookupDrafter:
    """Drafts by n-gram: what followed the most recent earlier occurrence of the text's last tokens."""

    taps: tuple[int, ...] = ()

    def __init__(self, depth: int, *, longest: int = 3) -> None:
        self.depth = depth
        self.nodes = depth + 1
        self.k = 0
        self.longest = longest

    def reset(self, *, length: int, start: torch.Tensor) -> None:
        self.text: list[int] = []

    def append_tokens(self, tokens: Sequence[int]) -> None:
        self.text.extend(tokens)

    def append_states(self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...]) -> None:
        pass

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        found = self._continuation()
        padded = found + [0] * (self.depth - len(found))
        present = torch.arange(self.depth, device=root.device) < len(found)
        return chain(root, torch.tensor(padded, dtype=torch.int64, device=root.device), present)

    def _continuation(self) -> list[int]:
        text = self.text
        for size in range(min(self.longest, len(text) - 1), 0, -1):
            tail = text[-size:]
            for begin in range(len(text) - size - 1, -1, -1):
                if text[begin : begin + size] == tail:
                    return text[begin + size : begin + size + self.depth]
        return []
