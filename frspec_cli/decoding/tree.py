"""The draft tree: EAGLE-2's growth and rerank (arXiv 2406.16858, section 4), in tensor operations of fixed shape.

Levels are numbered from 1; the root, the last token that the target has emitted, is node 0 at level 0. All nodes of a
level stand at one absolute position. Nodes that no candidate fills are marked invalid and are never accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from frspec_cli.decoding.options import TreeConfig


class Tree(NamedTuple):
    """N nodes, parents before children, node 0 the root.

    tokens: int64 [N].
    parents: int64 [N]; the root is its own parent.
    levels: int64 [N].
    ancestors: bool [N, N], row i True at i and at every ancestor of i.
    valid: bool [N].
    """

    tokens: torch.Tensor
    parents: torch.Tensor
    levels: torch.Tensor
    ancestors: torch.Tensor
    valid: torch.Tensor

    @property
    def nodes(self) -> int:
        """N, the root included: the rows that the target verifies."""
        return self.tokens.shape[0]


class Pool(NamedTuple):
    """All candidates of R trees, level by level: `beam` of the first, then beam * beam of each.

    tokens: int64 [R, P].
    parents: int64 [R, P], indices into the pool; -1 is the root.
    scores: [R, P], the sum of log-probs on the path of each.
    """

    tokens: torch.Tensor
    parents: torch.Tensor
    scores: torch.Tensor

    def best(self, count: int) -> torch.Tensor:
        """int64 [R, min(count, P)]: the likeliest candidates, in pool order.

        Log-probs are at most 0, so no child outranks its parent, and the stable sort with parents first in the pool keeps
        the selection connected.
        """
        return self.scores.sort(dim=-1, descending=True, stable=True).indices[:, :count].sort(dim=-1).values


def ancestors_of(parents: torch.Tensor, depth: int) -> torch.Tensor:
    """bool [N, N]: row i is True at i and at all of its ancestors. parents: int64 [N]; no path is longer than depth."""
    itself = torch.eye(len(parents), dtype=torch.bool, device=parents.device)
    known = itself
    for _ in range(depth):
        known = itself | known[parents]
    return known


def chain(root: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor) -> Tree:
    """The tree of one path: root int64 [1], then tokens int64 [D], of which valid (bool [D]) are real."""
    count = len(tokens) + 1
    levels = torch.arange(count, device=root.device)
    return Tree(
        tokens=torch.cat((root, tokens)),
        parents=(levels - 1).clamp(min=0),
        levels=levels,
        ancestors=levels[:, None] >= levels[None, :],
        valid=torch.cat((torch.ones_like(root, dtype=torch.bool), valid)),
    )


Step = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""(frontier tokens int64 [R, K], each one's place in the previous frontier int64 [R, K], level) -> log-probs [R, K, V]."""


def grow(first: torch.Tensor, step: Step, token_ids: Callable, tree: TreeConfig) -> Pool:
    """Grows EAGLE-2's trees: expands the `beam` likeliest nodes of each level and keeps all candidates.

    first: log-probs [R, 1, V] after each root.
    step: runs the draft one level on.
    token_ids: rows of the draft's LM head -> the target's ids.
    """
    beam = tree.beam
    frontier = torch.full((len(first), 1), -1, dtype=torch.int64, device=first.device)  # pool indices
    scores = first.new_zeros(len(first), 1)
    log_probs, size, levels = first, 0, []
    for level in range(1, tree.depth + 1):
        best, rows = log_probs.clamp(max=0).topk(beam, dim=-1)  # rounding may lift a log-prob above 0
        cumulative = (best + scores[..., None]).flatten(1)
        tokens = token_ids(rows).flatten(1)
        levels.append((tokens, frontier.repeat_interleave(beam, dim=1), cumulative))
        if level == tree.depth:
            break
        scores, selected = cumulative.topk(beam, dim=-1)
        frontier = selected + size
        size += tokens.shape[1]
        log_probs = step(tokens.gather(1, selected), selected // beam, level)
    return Pool(*(torch.cat(columns, dim=1) for columns in zip(*levels, strict=True)))


def rerank(root: torch.Tensor, pool: Pool, tree: TreeConfig) -> Tree:
    """The root (int64 [1]) and the best `nodes - 1` candidates of a pool of one tree, in pool order."""
    kept = pool.best(tree.nodes - 1)[0]
    square = tree.beam * tree.beam
    at_root = torch.zeros_like(root)
    # Candidate `kept[i]` is node i + 1, and the root's index -1 comes before all of them.
    parents = torch.cat((at_root, torch.searchsorted(kept, pool.parents[0, kept], right=True)))
    return Tree(
        tokens=torch.cat((root, pool.tokens[0, kept])),
        parents=parents,
        levels=torch.cat((at_root, (kept + square - tree.beam) // square + 1)),
        ancestors=ancestors_of(parents, tree.depth),
        valid=torch.cat((torch.ones_like(root, dtype=torch.bool), pool.scores[0, kept] > float("-inf"))),
    )
