"""Acceptance length of a head over recorded answers, without running the target again.

Output that is lossless depends on neither head, subset nor tree. So with the target's features of an answer at hand,
every cycle can be replayed by the draft alone, and all positions of the answer at once: the tree that the head would
grow at each position, and how far the answer follows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from frspec_cli.drafting.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.training.answers import Answer
from frspec_cli.training.features import Features


@dataclass(frozen=True)
class TreeShape:
    """depth: draft levels (forward passes of the head). beam: candidates kept per level. nodes: root included."""

    depth: int = 5
    beam: int = 4
    nodes: int = 16


@dataclass(frozen=True)
class Acceptance:
    """cycles, and the tokens that they accepted, the target's own one per cycle not counted."""

    cycles: int = 0
    accepted: int = 0

    @property
    def length(self) -> float:
        """(accepted + 1) averaged over cycles; 1 where there was no cycle."""
        return 1.0 + self.accepted / self.cycles if self.cycles else 1.0

    def __add__(self, other: Acceptance) -> Acceptance:
        return Acceptance(self.cycles + other.cycles, self.accepted + other.accepted)


def replay(
    head: EagleHead, lm_head: LmHead, answer: Answer, features: Features, *, shape: TreeShape | None = None
) -> Acceptance:
    """Replays one answer. lm_head: the draft's rows, a subset's or all. Cycles that would look past the end of an
    unfinished answer are left out."""
    shape = shape or TreeShape()
    accepted = accepted_by_position(head, lm_head, answer, features, shape=shape).tolist()
    position, total = answer.prompt_length, Acceptance()
    last = len(answer.ids) - 1
    while position < last and (answer.finished or position + shape.depth <= last):
        count = accepted[position - answer.prompt_length]
        total += Acceptance(1, count)
        position += count + 1
    return total


@torch.no_grad()
def accepted_by_position(
    head: EagleHead, lm_head: LmHead, answer: Answer, features: Features, *, shape: TreeShape
) -> torch.Tensor:
    """int64 [Q]: how many tokens a cycle would accept whose root is answered token 0, 1, .., Q - 1."""
    device, dtype = head.embedding_weight.device, head.embedding_weight.dtype
    ids = torch.from_numpy(answer.ids).to(device)
    width = len(ids) - 2
    places = torch.arange(answer.prompt_length - 1, width, device=device)
    record = _Prefix()
    fused = head.fuse(
        features.last[None, :width].to(device, dtype),
        tuple(tap[None, :width].to(device, dtype) for tap in features.taps),
    )
    everywhere = torch.arange(width, device=device)
    causal = everywhere <= everywhere[:, None]
    hidden = head(head.embed(ids[None, 1:-1]), fused, everywhere[None], _additive(causal[None, None], dtype), record)
    cache = _TreeCache(record.keys, record.values, roots=len(places))
    pool = _grow(head, lm_head, hidden[0, places], places, causal[places], cache, shape)
    future = torch.full((len(places), shape.depth), -1, dtype=torch.int64, device=device)
    for level in range(shape.depth):
        following = places + 2 + level  # the root is token places + 1
        known = following < len(ids)
        future[known, level] = ids[following[known]]
    return _follow(pool, future, shape)


@dataclass(frozen=True, eq=False)
class _Pool:
    """All candidates of R trees. tokens, parents (index into the pool, -1 the root) int64 [R, P]; scores float32."""

    tokens: torch.Tensor
    parents: torch.Tensor
    scores: torch.Tensor


def _grow(
    head: EagleHead,
    lm_head: LmHead,
    root_hidden: torch.Tensor,
    places: torch.Tensor,
    visible: torch.Tensor,
    cache: _TreeCache,
    shape: TreeShape,
) -> _Pool:
    """EAGLE-2's growth (arXiv 2406.16858): the best `beam` nodes of each level are expanded, scores add up in logs."""
    roots, beam = len(places), shape.beam
    scores, tokens = _best(head, lm_head, root_hidden, beam)
    parents = torch.full_like(tokens, -1)
    pool_scores, pool_tokens, pool_parents = [scores], [tokens], [parents]
    frontier = torch.arange(beam, device=places.device).expand(roots, beam)  # indices into the pool
    features = root_hidden[:, None].expand(-1, beam, -1)
    ancestors = torch.zeros(roots, beam, 0, dtype=torch.bool, device=places.device)
    own = torch.eye(beam, dtype=torch.bool, device=places.device).expand(roots, beam, beam)
    for level in range(1, shape.depth):
        ancestors = torch.cat((ancestors, own), -1)
        mask = torch.cat((visible[:, None].expand(-1, beam, -1), ancestors), -1)[:, None]
        positions = (places + level)[:, None].expand(-1, beam)
        hidden = head(head.embed(tokens), features, positions, _additive(mask, features.dtype), cache)
        child_scores, child_tokens = _best(head, lm_head, hidden, beam)
        child_scores = child_scores + scores[..., None]
        base = sum(x.shape[1] for x in pool_scores)
        pool_scores.append(child_scores.flatten(1))
        pool_tokens.append(child_tokens.flatten(1))
        pool_parents.append(frontier[..., None].expand(-1, -1, beam).flatten(1))
        scores, chosen = child_scores.flatten(1).topk(beam)
        tokens = child_tokens.flatten(1).gather(1, chosen)
        parent = chosen // beam
        features = hidden.gather(1, parent[..., None].expand(-1, -1, hidden.shape[-1]))
        ancestors = ancestors.gather(1, parent[..., None].expand(-1, -1, ancestors.shape[-1]))
        frontier = base + chosen
    return _Pool(torch.cat(pool_tokens, 1), torch.cat(pool_parents, 1), torch.cat(pool_scores, 1))


def _best(head: EagleHead, lm_head: LmHead, hidden: torch.Tensor, beam: int) -> tuple[torch.Tensor, torch.Tensor]:
    scores = lm_head(head.lm_input(hidden)).float().log_softmax(-1)
    best = scores.topk(beam)
    return best.values, lm_head.to_token_ids(best.indices)


def _follow(pool: _Pool, future: torch.Tensor, shape: TreeShape) -> torch.Tensor:
    """int64 [R]: how far `future` [R, depth] (-1 unknown) runs inside the `nodes` - 1 best candidates."""
    kept = torch.zeros_like(pool.tokens, dtype=torch.bool)
    best = pool.scores.topk(min(shape.nodes - 1, pool.scores.shape[1])).indices
    kept.scatter_(1, best, True)
    node = torch.full((len(future),), -1, dtype=torch.int64, device=future.device)
    alive = torch.ones_like(node, dtype=torch.bool)
    accepted = torch.zeros_like(node)
    for level in range(shape.depth):
        match = kept & (pool.parents == node[:, None]) & (pool.tokens == future[:, level, None])
        alive = alive & match.any(1)
        accepted += alive
        node = torch.where(alive, match.int().argmax(1), -2)
    return accepted


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    zeros = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return zeros.masked_fill(~visible, torch.finfo(dtype).min)


class _Prefix:
    """A cache that only remembers what it was given."""

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = keys, values
        return keys, values


class _TreeCache:
    """One prefix [1, KV, T, D] shared by R trees, each of which adds its own nodes."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, *, roots: int) -> None:
        self.keys = keys.expand(roots, -1, -1, -1)
        self.values = values.expand(roots, -1, -1, -1)

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys = torch.cat((self.keys, keys), 2)
        self.values = torch.cat((self.values, values), 2)
        return self.keys, self.values
