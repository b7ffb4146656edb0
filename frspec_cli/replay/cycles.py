"""Cycles of speculative decoding over recorded answers, replayed by the draft alone.

Output that is lossless depends on neither head, subset nor tree. So with the target's states of an answer at hand, every
cycle can be replayed without the target: the tree that the head grows behind a token, and how far the answer follows it.
Many answers go at once, one cycle each, and what an engine would have accepted is had cycle by cycle. Of the time it
would have taken, a replay says nothing.

Why a cycle ended: at the last node that the answer followed, the target's next token was

    outside     not among the draft's tokens: no head over this subset could have drafted it
    beam        among them, but not in the pool of candidates there (the node had children, and it was none of the best,
                or the node itself was below the beam and had none)
    rerank      a candidate of the pool, cut from the `nodes` best
    depth       one level below the deepest: the whole path was accepted
    end         none: the answer was over
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import States
from frspec_cli.decoding.tree import TreeConfig
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead

MISSES = ("outside", "beam", "rerank", "depth", "end")
_OUTSIDE, _BEAM, _RERANK, _DEPTH, _END = range(len(MISSES))
_LOGITS = 1 << 24  # scores of full-vocabulary rows held at once
_CACHED = 1 << 25  # numbers in the draft's keys held at once


@dataclass(frozen=True)
class Replayed:
    """One answer's cycles. roots: the answered token (0, 1, ..) that each tree hangs from. accepted: drafted tokens.
    misses: why each ended, names of `MISSES`."""

    roots: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)


@torch.no_grad()
def replay(
    head: EagleHead,
    lm_head: LmHead,
    texts: Sequence[tuple[Answer, States]],
    *,
    shape: TreeConfig,
    new_tokens: int | None = None,
) -> list[Replayed]:
    """The cycles of each answer, in order.

    lm_head: the draft's rows, a subset's or all. new_tokens: no cycle begins once so many tokens are there, as in an engine
    with that limit. A cycle that might look past the end of an unfinished answer is left out, for what it would have
    accepted is not known; past the end of a finished one nothing is accepted.
    """
    shape = shape.within(lm_head.size)
    found = [Replayed() for _ in texts]
    for group in _groups(head, lm_head, texts, shape):
        forest = _Forest(head, lm_head, [texts[i] for i in group], shape)
        cursors = {i: 0 for i in group if _may_begin(texts[i][0], 0, shape, new_tokens)}
        rows = list(group)
        while cursors:
            if 2 * len(cursors) <= len(rows):
                keep = [row for row, i in enumerate(rows) if i in cursors]
                forest, rows = forest.only(keep), [rows[row] for row in keep]
            accepted, misses = forest.cycle([cursors.get(i, 0) for i in rows])
            for i, count, miss in zip(rows, accepted, misses, strict=True):
                if i not in cursors:
                    continue
                found[i].roots.append(cursors[i])
                found[i].accepted.append(count)
                found[i].misses.append(MISSES[miss])
                cursors[i] += count + 1
                if not _may_begin(texts[i][0], cursors[i], shape, new_tokens):
                    del cursors[i]
    return found


def _may_begin(answer: Answer, root: int, shape: TreeConfig, new_tokens: int | None) -> bool:
    if new_tokens is not None and root + 1 >= new_tokens:
        return False
    left = answer.response_length - 1 - root
    return left > 0 and (answer.finished or left >= shape.depth)


def _groups(
    head: EagleHead, lm_head: LmHead, texts: Sequence[tuple[Answer, States]], shape: TreeConfig
) -> list[list[int]]:
    """Indices of texts that go together: of like length, and few enough for memory."""
    config = head.config
    groups: list[list[int]] = []
    for i in sorted(range(len(texts)), key=lambda i: len(texts[i][0].ids)):
        cached = config.num_key_value_heads * config.head_dim * (len(texts[i][0].ids) + shape.beam * shape.depth)
        most = max(1, min(_LOGITS // (shape.beam * lm_head.size), _CACHED // cached))
        if not groups or len(groups[-1]) >= most:
            groups.append([])
        groups[-1].append(i)
    return groups


@dataclass(frozen=True, eq=False)
class _Pool:
    """All candidates of R trees, level by level. tokens, parents (index into the pool, -1 the root): int64 [R, P].
    scores: [R, P], sums of log-probabilities."""

    tokens: torch.Tensor
    parents: torch.Tensor
    scores: torch.Tensor


class _Forest:
    """R texts, and in each the tree behind one token at a time."""

    def __init__(
        self, head: EagleHead, lm_head: LmHead, texts: Sequence[tuple[Answer, States]], shape: TreeConfig
    ) -> None:
        self.head, self.lm_head, self.shape = head, lm_head, shape
        self.device, self.dtype = head.embedding_weight.device, head.embedding_weight.dtype
        answers = [answer for answer, _ in texts]
        self.width = max(len(answer.ids) for answer in answers) - 2
        ids = torch.full((len(texts), self.width + 2 + shape.depth), -1, dtype=torch.int64)
        for row, answer in enumerate(answers):
            ids[row, : len(answer.ids)] = torch.from_numpy(answer.ids)
        self.ids = ids.to(self.device)
        self.starts = torch.tensor([answer.prompt_length for answer in answers], device=self.device)
        config = head.config
        room = self.width + shape.beam * (shape.depth - 1)
        # Zeros, not empty memory: a NaN in a masked row would still poison every sum it is in.
        self.keys = torch.zeros(
            len(texts), config.num_key_value_heads, room, config.head_dim, dtype=self.dtype, device=self.device
        )
        self.values = torch.zeros_like(self.keys)
        self.hidden = torch.zeros(len(texts), self.width, config.hidden_size, dtype=self.dtype, device=self.device)
        for row, (answer, states) in enumerate(texts):
            self._read(row, len(answer.ids) - 2, states)
        self.inside = None
        if lm_head.ids is not None:
            self.inside = torch.zeros(int(lm_head.ids.max()) + 1, dtype=torch.bool, device=self.device)
            self.inside[lm_head.ids] = True

    def _read(self, row: int, length: int, states: States) -> None:
        """The draft's own pass over a text, with the target's true states: pair i is (token i+1, state i)."""
        fused = self.head.fuse(
            states.last[None, :length].to(self.device, self.dtype),
            tuple(tap[None, :length].to(self.device, self.dtype) for tap in states.taps),
        )
        at = torch.arange(length, device=self.device)
        cache = _Rows(self.keys[row : row + 1], self.values[row : row + 1], 0)
        mask = _additive(at <= at[:, None], self.dtype)[None, None]
        embedded = self.head.embed(self.ids[row : row + 1, 1 : length + 1])
        self.hidden[row, :length] = self.head(embedded, fused, at[None], mask, cache)[0]

    def only(self, rows: list[int]) -> _Forest:
        """The forest of some of its texts."""
        chosen = torch.tensor(rows, device=self.device)
        made = object.__new__(_Forest)
        made.__dict__.update(self.__dict__)
        for name in ("ids", "starts", "keys", "values", "hidden"):
            setattr(made, name, getattr(self, name)[chosen])
        return made

    def cycle(self, roots: list[int]) -> tuple[list[int], list[int]]:
        """One cycle in each text behind answered token `roots[row]`: (accepted, index of the miss)."""
        at = self.starts + torch.tensor(roots, device=self.device)  # the root's place among the ids
        pool = self._grow(at)
        levels = torch.arange(1, self.shape.depth + 1, device=self.device)
        future = self.ids.gather(1, at[:, None] + levels)
        accepted, misses = self._follow(pool, future)
        outcome = torch.stack((accepted, misses)).tolist()
        return outcome[0], outcome[1]

    def _grow(self, at: torch.Tensor) -> _Pool:
        """EAGLE-2's growth (arXiv 2406.16858): the best `beam` nodes of each level are expanded, scores add up in logs."""
        count, beam = len(at), self.shape.beam
        own = torch.arange(count, device=self.device)
        root_hidden = self.hidden[own, at - 1]
        visible = (torch.arange(self.width, device=self.device) < at[:, None])[:, None].expand(-1, beam, -1)
        scores, tokens = self._best(root_hidden)
        parents = torch.full_like(tokens, -1)
        pool = [(tokens, parents, scores)]
        frontier = torch.arange(beam, device=self.device).expand(count, beam)  # indices into the pool
        features = root_hidden[:, None].expand(-1, beam, -1)
        ancestors = torch.zeros(count, beam, 0, dtype=torch.bool, device=self.device)
        itself = torch.eye(beam, dtype=torch.bool, device=self.device).expand(count, beam, beam)
        for level in range(1, self.shape.depth):
            ancestors = torch.cat((ancestors, itself), -1)
            mask = _additive(torch.cat((visible, ancestors), -1), self.dtype)[:, None]
            positions = (at + level - 1)[:, None].expand(-1, beam)
            cache = _Rows(self.keys, self.values, self.width + (level - 1) * beam)
            hidden = self.head(self.head.embed(tokens), features, positions, mask, cache)
            best, candidates = self._best(hidden)
            summed, flat = (best + scores[..., None]).flatten(1), candidates.flatten(1)
            base = sum(entry[0].shape[1] for entry in pool)
            pool.append((flat, frontier.repeat_interleave(beam, 1), summed))
            scores, chosen = summed.topk(beam)
            tokens, parent = flat.gather(1, chosen), chosen // beam
            features = hidden.gather(1, parent[..., None].expand(-1, -1, hidden.shape[-1]))
            ancestors = ancestors.gather(1, parent[..., None].expand(-1, -1, ancestors.shape[-1]))
            frontier = base + chosen
        return _Pool(*(torch.cat(columns, 1) for columns in zip(*pool, strict=True)))

    def _best(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden [..., H] -> log-probabilities and ids [..., beam] of the likeliest tokens."""
        logits = self.lm_head(self.head.lm_input(hidden))
        dtype = torch.promote_types(logits.dtype, torch.float32)
        best = torch.log_softmax(logits, -1, dtype=dtype).clamp(max=0).topk(self.shape.beam)
        return best.values, self.lm_head.to_token_ids(best.indices)

    def _follow(self, pool: _Pool, future: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How far `future` int64 [R, depth] (-1 past the end) runs inside the `nodes` - 1 best candidates, and why no
        further: two int64 [R]."""
        best = pool.scores.sort(descending=True, stable=True).indices[:, : self.shape.nodes - 1]
        kept = torch.zeros_like(pool.tokens, dtype=torch.bool).scatter_(1, best, True)
        node = torch.full((len(future),), -1, dtype=torch.int64, device=self.device)
        alive = torch.ones_like(node, dtype=torch.bool)
        accepted, misses = torch.zeros_like(node), torch.full_like(node, _DEPTH)
        for level in range(self.shape.depth):
            wanted = future[:, level]
            candidates = (pool.parents == node[:, None]) & (pool.tokens == wanted[:, None])
            match = candidates & kept
            goes_on = alive & match.any(1)
            why = torch.where(candidates.any(1), _RERANK, torch.where(self._is_inside(wanted), _BEAM, _OUTSIDE))
            misses = torch.where(alive & ~goes_on, torch.where(wanted < 0, _END, why), misses)
            alive = goes_on
            accepted += alive
            node = torch.where(alive, match.int().argmax(1), node)
        return accepted, misses

    def _is_inside(self, tokens: torch.Tensor) -> torch.Tensor:
        """bool [R]: whether the draft has a row for the token."""
        if self.inside is None:
            return tokens >= 0
        known = (tokens >= 0) & (tokens < len(self.inside))
        return known & self.inside[tokens.clamp(0, len(self.inside) - 1)]


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    zeros = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return zeros.masked_fill(~visible, torch.finfo(dtype).min)


class _Rows:
    """A cache of R texts, [R, KV, L, D], in which the next rows are written at `begin`; all before them are read."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, begin: int) -> None:
        self.keys, self.values, self.begin = keys, values, begin

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes [R, KV, T, D] and returns everything up to its end."""
        end = self.begin + keys.shape[2]
        self.keys[:, :, self.begin : end] = keys
        self.values[:, :, self.begin : end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]
