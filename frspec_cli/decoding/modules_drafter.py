"""Chains by several MTP modules of one checkpoint, each for its step.

Module 0 is an EAGLE head as any other. Module k reads, at pair q = (token q + 1, ..), what module k - 1 gave at pair q - 1, and
sees its own pairs k..q. So over a text the modules follow each other, and behind its last pair module k goes on over the k
tokens that were drafted before its step. Trees would need these rows anew for every branch: only chains are drafted.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from frspec_cli.decoding.attention import additive
from frspec_cli.decoding.compiling import Compiler
from frspec_cli.decoding.context_slots import Slots
from frspec_cli.decoding.drafters import DraftCache, EagleDrafter
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.tree import Candidates, Pool, grow, likeliest
from frspec_cli.errors import UsageError, option
from frspec_cli.heads.draft_head import DraftHead
from frspec_cli.heads.mtp import MtpModules
from frspec_cli.models.lm_head import LmHead


def head_drafter(
    head: DraftHead,
    lm_head: LmHead,
    tree: TreeConfig,
    *,
    slots: Slots | None = None,
    compiler: Compiler | None = None,
) -> EagleDrafter:
    """The drafter of any head. Raises `UsageError` for what several modules cannot draft."""
    kind = ModulesDrafter if isinstance(head, MtpModules) else EagleDrafter
    return kind(head, lm_head, tree, slots=slots, compiler=compiler)


class ModulesDrafter(EagleDrafter):
    """Its hidden states are those of all modules side by side, [R, T, modules * H]; its chains have at most a step each."""

    head: MtpModules

    def __init__(
        self,
        head: DraftHead,
        lm_head: LmHead,
        tree: TreeConfig,
        *,
        slots: Slots | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        assert isinstance(head, MtpModules)
        count = len(head.modules_in_order)
        if tree.beam > 1:
            raise UsageError(
                f"several MTP modules draft chains, not trees with branches ({tree.depth},{tree.beam},{tree.nodes}).",
                hint=f"Give a tree of beam 1, such as {option('tree')} {count},1,{count + 1}.",
            )
        if compiler is not None:
            raise UsageError(f"{option('compile')} does not know several MTP modules: leave it out.")
        depth = min(tree.depth, count)
        super().__init__(head, lm_head, replace(tree, depth=depth, nodes=min(tree.nodes, depth + 1)), slots=slots)
        self.began: torch.Tensor | None = None
        """The first pair of the last block, int64 [1]; None before the first one."""

    def reset(self, *, length: int) -> None:
        super().reset(length=length)
        self.began = None

    def append_states(
        self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...], start: torch.Tensor
    ) -> None:
        super().append_states(tokens, last, taps, start)
        self.began = start.clone()

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
        rows = start + torch.arange(tokens.shape[1], device=self.device)
        embeddings, features = self.head.embed(tokens), self.head.fuse(last)
        before = self._before(start, features)
        outputs = []
        for number, module in enumerate(self.head.modules_in_order):
            seen = self._sees(cache, rows, end) & (cache.slots[:end] >= number)
            cache.buffer.expect(cache.front + rows, cache.front, cache.front + end)
            mask = additive(seen, self.dtype)
            hidden = module(embeddings, features, rows[None], mask, caches=[cache.buffer.layers[number]])
            outputs.append(hidden)
            features = torch.cat((before[number], hidden[:, :-1]), dim=1)
        cache.buffer.expect(None)
        return torch.cat(outputs, dim=-1)

    def _before(self, start: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What each module gave at the pair before `start`, [R, 1, H]; anything before the first, where none sees it."""
        if self.began is None:
            return (torch.zeros_like(like[:, :1]),) * len(self.head.modules_in_order)
        return self.hidden.index_select(1, start - self.began - 1).chunk(len(self.head.modules_in_order), dim=-1)

    def pool(self, cache: DraftCache, position: torch.Tensor, last: torch.Tensor, end: int | None = None) -> Pool:
        end = cache.length if end is None else end
        given = last.chunk(len(self.head.modules_in_order), dim=-1)
        drafted: list[torch.Tensor] = []
        state = {"outputs": last[:, :0, : given[0].shape[-1]]}

        def step(tokens: torch.Tensor, came_from: torch.Tensor, level: int) -> Candidates:
            drafted.append(tokens)
            module, ahead = self.head.modules_in_order[level], torch.arange(level, device=self.device)
            rows = position[:, None] + ahead
            cache.buffer.expect(ahead, 0, cache.front + end)
            outputs = module(
                self.head.embed(torch.cat(drafted, dim=1)),
                torch.cat((given[level - 1], state["outputs"]), dim=1),
                rows,
                additive(self._sees_drafted(cache, rows, end, level), self.dtype),
                caches=[cache.buffer.layers[level]],
            )
            cache.buffer.expect(None)
            state["outputs"] = outputs
            return self._candidates_of(level, outputs[:, -1:])

        return grow(self._candidates_of(0, given[0]), step, self.lm_head.to_token_ids, self.tree)

    def _sees_drafted(self, cache: DraftCache, rows: torch.Tensor, end: int, number: int) -> torch.Tensor:
        """bool [R, T, front + end]: what module `number` sees from the drafted pairs `rows` (int64 [R, T]): those drafted up to
        each, in the slots in front, and the text's before them. Any window is wider than the modules are many."""
        pairs = cache.slots[:end]
        among = torch.arange(cache.front, device=self.device)
        places = rows[:, :1, None] + among  # the pair in each slot in front
        seen = (places >= number) & (places <= rows[..., None]) & (among < rows.shape[1])
        before = (pairs >= number) & (pairs < rows[:, :1, None]).expand(-1, rows.shape[1], -1)
        if self.window is not None:
            before = before & (pairs > rows[..., None] - self.window)
        return torch.cat((seen, before), dim=-1)

    def _candidates_of(self, number: int, hidden: torch.Tensor) -> Candidates:
        """Module `number`'s hidden states [R, 1, H] -> its likeliest row."""
        return likeliest(self._logits(hidden, self.head.modules_in_order[number]), 1)
