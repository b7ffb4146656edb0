"""Cycles of speculative decoding over recorded answers, replayed by the draft alone.

Output that is lossless depends on neither head, subset nor tree. So with the target's states of an answer available, every
cycle can be replayed without the target: the tree that the head grows behind a token, and how far the answer follows it.
Many answers are replayed at once, one cycle each; what an engine would have accepted is known cycle by cycle. Of the time
that it would have taken, a replay says nothing.

Why a cycle ended: at the last node that the answer followed, the target's next token was

    outside     not among the draft's tokens: no head over this subset could have drafted it
    beam        among them, but not in the pool of candidates there (the node had children, and it was none of the best,
                or the node itself was below the beam and had none)
    rerank      a candidate of the pool, cut from the `nodes` best, or below the price of a row
    depth       one level below the deepest that was drafted: the whole path was accepted
    end         none: the answer was over
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import States
from frspec_cli.decoding.drafters import DraftCache, EagleDrafter
from frspec_cli.decoding.modules_drafter import head_drafter
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.tree import Pool, chosen, drafted_levels
from frspec_cli.heads.draft_head import DraftHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.replay.slots import TextSlots

MISSES = ("outside", "beam", "rerank", "depth", "end")
_OUTSIDE, _BEAM, _RERANK, _DEPTH, _END = range(len(MISSES))
_LOGITS = 1 << 24  # scores of full-vocabulary rows in memory at once
_CACHED = 1 << 25  # numbers in the draft's keys in memory at once


@dataclass(frozen=True)
class Replayed:
    """One answer's cycles.

    roots: the answered token (0, 1, ..) that each tree hangs from.
    accepted: drafted tokens accepted by each.
    misses: why each ended, names of `MISSES`.
    """

    roots: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Acceptance:
    """Totals over answers.

    cycles: their number.
    accepted: the tokens that they accepted, the target's own one per cycle not counted.
    """

    cycles: int = 0
    accepted: int = 0

    @staticmethod
    def of(answers: Sequence[Replayed]) -> Acceptance:
        """The totals of replayed answers."""
        return Acceptance(sum(len(each.accepted) for each in answers), sum(sum(each.accepted) for each in answers))

    @property
    def length(self) -> float:
        """(accepted + 1) averaged over cycles; 1 if there was no cycle."""
        return 1.0 + self.accepted / self.cycles if self.cycles else 1.0


@torch.no_grad()
def replay(
    head: DraftHead,
    lm_head: LmHead,
    texts: Sequence[tuple[Answer, States]],
    *,
    tree: TreeConfig | None = None,
    new_tokens: int | None = None,
    look_ahead: int = 0,
    slots: TextSlots | None = None,
) -> list[Replayed]:
    """The cycles of each answer, in order.

    lm_head: the draft's rows, a subset's or all.
    slots: context slots behind those rows, of these very answers; None for none.
    new_tokens: no cycle begins once the answer has this many tokens, as in an engine with that limit.
    look_ahead: begin no cycle of an unfinished answer with fewer tokens than this ahead, so that trees of several depths
        run over the same text; at least the tree's own depth.

    A cycle that might look past the end of an unfinished answer is left out, for what it would have accepted is not known;
    past the end of a finished one nothing is accepted.
    """
    drafter = head_drafter(head, lm_head, tree or TreeConfig(), slots=slots)
    ahead = max(look_ahead, drafter.depth)
    replayed = [Replayed() for _ in texts]
    for group in groups(drafter, texts):
        trees = BatchedTrees.read(drafter, [texts[i] for i in group])
        cursors = {i: 0 for i in group if may_begin(texts[i][0], 0, ahead, new_tokens)}
        rows = list(group)
        while cursors:
            if 2 * len(cursors) <= len(rows):
                keep = [row for row, i in enumerate(rows) if i in cursors]
                trees, rows = trees.only(keep), [rows[row] for row in keep]
            if slots is not None:
                slots.advance({i: texts[i][0].prompt_length + root + 1 for i, root in cursors.items()})
                slots.show(rows)
            accepted, misses = trees.cycle([cursors.get(i, 0) for i in rows])
            for i, count, miss in zip(rows, accepted, misses, strict=True):
                if i not in cursors:
                    continue
                replayed[i].roots.append(cursors[i])
                replayed[i].accepted.append(count)
                replayed[i].misses.append(MISSES[miss])
                cursors[i] += count + 1
                if not may_begin(texts[i][0], cursors[i], ahead, new_tokens):
                    del cursors[i]
    return replayed


def may_begin(answer: Answer, root: int, ahead: int, new_tokens: int | None) -> bool:
    """Whether a cycle begins behind answered token `root`, and what it accepts at up to `ahead` levels is known."""
    if new_tokens is not None and root + 1 >= new_tokens:
        return False
    left = answer.response_length - 1 - root
    return left > 0 and (answer.finished or left >= ahead)


def groups(drafter: EagleDrafter, texts: Sequence[tuple[Answer, States]]) -> list[list[int]]:
    """Indices of texts that are replayed together: of similar length, and few enough for memory."""
    config, tree = drafter.head.config, drafter.tree
    groups: list[list[int]] = []
    for i in sorted(range(len(texts)), key=lambda i: len(texts[i][0].ids)):
        rows = len(texts[i][0].ids) + tree.beam * tree.depth
        cached = config.layers * config.num_key_value_heads * config.head_dim * rows
        most = max(1, min(_LOGITS // (tree.beam * drafter.lm_head.size), _CACHED // cached))
        if not groups or len(groups[-1]) >= most:
            groups.append([])
        groups[-1].append(i)
    return groups


@dataclass(frozen=True, eq=False)
class BatchedTrees:
    """R texts, and in each the tree behind one token at a time.

    ids: int64 [R, T], -1 past the end of a text.
    starts: int64 [R], number of the prompt's tokens.
    cache: the draft's keys and values over each text.
    hidden: [R, width, H], the draft's hidden states over each text.
    row_of: int64 [ids], the draft's row of a token, -1 if it has none; None if it has all in order.
    """

    drafter: EagleDrafter
    ids: torch.Tensor
    starts: torch.Tensor
    cache: DraftCache
    hidden: torch.Tensor
    row_of: torch.Tensor | None

    @staticmethod
    def read(drafter: EagleDrafter, texts: Sequence[tuple[Answer, States]]) -> BatchedTrees:
        """The draft's own pass over each text, with the target's true states: pair i is (token i+1, state i)."""
        device, dtype = drafter.device, drafter.dtype
        lengths = [len(answer.ids) - 2 for answer, _ in texts]
        width = max(lengths)
        ids = torch.full((len(texts), width + 2 + drafter.depth), -1, dtype=torch.int64)
        for row, (answer, _) in enumerate(texts):
            ids[row, : len(answer.ids)] = torch.from_numpy(answer.ids)
        ids = ids.to(device)
        cache = drafter.allocate(width, texts=len(texts))
        hidden = torch.zeros(len(texts), width, drafter.head.config.hidden_size, dtype=dtype, device=device)
        start = torch.zeros(1, dtype=torch.int64, device=device)
        for row, (length, (_, states)) in enumerate(zip(lengths, texts, strict=True)):
            last, *taps = (each[None, :length].to(device, dtype) for each in (states.last, *states.taps))
            own = cache._replace(buffer=cache.buffer.text(row))
            tokens = ids[row : row + 1, 1 : length + 1]
            hidden[row, :length] = drafter.read(own, tokens, last, tuple(taps), start, length)[0]
        starts = torch.tensor([answer.prompt_length for answer, _ in texts], device=device)
        return BatchedTrees(drafter, ids, starts, cache, hidden, _row_of(drafter.lm_head, device))

    def only(self, rows: list[int]) -> BatchedTrees:
        """The same for some of the texts."""
        index = torch.tensor(rows, device=self.ids.device)
        return dataclasses.replace(
            self,
            ids=self.ids[index],
            starts=self.starts[index],
            cache=self.cache._replace(buffer=self.cache.buffer.texts(index)),
            hidden=self.hidden[index],
        )

    def cycle(self, roots: list[int]) -> tuple[list[int], list[int]]:
        """One cycle in each text behind answered token `roots[row]`: (accepted, index of the miss)."""
        accepted, misses = self._follow(*self.pools(roots))
        outcome = torch.stack((accepted, misses)).tolist()
        return outcome[0], outcome[1]

    def pools(self, roots: list[int]) -> tuple[Pool, torch.Tensor]:
        """The candidates behind answered token `roots[row]` of each text, and what the answer continues with there: int64
        [R, depth], -1 past its end."""
        device = self.ids.device
        position = self.starts + torch.tensor(roots, device=device)
        last = self.hidden[torch.arange(len(position), device=device), position - 1][:, None]
        levels = torch.arange(1, self.drafter.depth + 1, device=device)
        return self.drafter.pool(self.cache, position, last), self.ids.gather(1, position[:, None] + levels)

    def _follow(self, pool: Pool, future: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How far `future` int64 [R, depth] (-1 past the end) runs inside the `nodes` - 1 best candidates, and why no
        further: two int64 [R]."""
        kept, levels = chosen(pool, self.drafter.tree), drafted_levels(pool, self.drafter.tree)
        node = torch.full_like(future[:, 0], -1)
        alive = torch.ones_like(node, dtype=torch.bool)
        accepted, misses = torch.zeros_like(node), torch.full_like(node, _DEPTH)
        for level, wanted in enumerate(future.unbind(1), start=1):
            candidates = (pool.parents == node[:, None]) & (pool.tokens == wanted[:, None])
            match = candidates & kept
            follows = alive & match.any(1)
            why = torch.where(candidates.any(1), _RERANK, torch.where(self._is_known(wanted), _BEAM, _OUTSIDE))
            why = torch.where(level > levels, _DEPTH, why)
            misses = torch.where(alive & ~follows, torch.where(wanted < 0, _END, why), misses)
            alive = follows
            accepted += alive
            node = torch.where(alive, match.int().argmax(1), node)
        return accepted, misses

    def _is_known(self, tokens: torch.Tensor) -> torch.Tensor:
        """bool [R]: whether the draft has a row for the token, now."""
        if self.row_of is None:
            return tokens >= 0
        inside = (tokens >= 0) & (tokens < len(self.row_of))
        rows = self.row_of[tokens.clamp(0, len(self.row_of) - 1)]
        known = inside & (rows >= 0)
        slots = self.drafter.context_slots
        return (
            known
            if slots is None
            else known & (slots.unused_mask[:, 0].gather(1, rows.clamp(min=0)[:, None])[:, 0] == 0)
        )


def _row_of(lm_head: LmHead, device: torch.device) -> torch.Tensor | None:
    if lm_head.ids is None:
        return None
    row_of = torch.full((int(lm_head.ids.max()) + 1,), -1, dtype=torch.int64, device=device)
    row_of[lm_head.ids] = torch.arange(lm_head.size, device=device)
    return row_of
