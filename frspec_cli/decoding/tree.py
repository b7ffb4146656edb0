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

    tokens: int64 [N]. parents: int64 [N] (the root is its own parent). levels: int64 [N]. ancestors: bool [N, N], row i
    True at i and at every ancestor of i. valid: bool [N].
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


def ancestors_of(parents: torch.Tensor, depth: int) -> torch.Tensor:
    """bool [N, N]: row i is True at i and at all of its ancestors. parents: int64 [N]; no path is longer than depth."""
    itself = torch.eye(len(parents), dtype=torch.bool, device=parents.device)
    known = itself
    for _ in range(depth):
        known = itself | known[parents]
    return known


def chain(root: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor) -> Tree:
    """The tree of one path: root int64 [1], then tokens int64 [D], of which valid (bool [D]) are there."""
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
"""(frontier tokens int64 [K], each one's place in the previous frontier int64 [K], level) -> log-probs [K, R]."""


def grow(root: torch.Tensor, first: torch.Tensor, step: Step, token_ids: Callable, shape: TreeConfig) -> Tree:
    """Grows EAGLE-2's tree: expand the `beam` likeliest nodes of a level, keep all candidates, rerank the pool.

    root: int64 [1]. first: log-probs [1, R] after the root. step: runs the draft one level on. token_ids: rows -> the
    target's ids. A node's score is the sum of log-probs on its path; log-probs are at most 0, so no child outranks its
    parent, and the stable sort with parents first in the pool keeps the selection connected.
    """
    beam = shape.beam
    frontier = torch.zeros(1, dtype=torch.int64, device=root.device)  # pool indices; 0 is the root
    scores = torch.zeros(1, dtype=first.dtype, device=root.device)
    log_probs = first
    pool_tokens, pool_scores, pool_parents, pool_levels = [], [], [], []
    size = 1
    for level in range(1, shape.depth + 1):
        best, rows = log_probs.clamp(max=0).topk(beam, dim=-1)  # rounding may lift a log-prob above 0
        cumulative = (best + scores[:, None]).reshape(-1)
        tokens = token_ids(rows).reshape(-1)
        pool_tokens.append(tokens)
        pool_scores.append(cumulative)
        pool_parents.append(frontier.repeat_interleave(beam))
        pool_levels.append(torch.full_like(tokens, level))
        if level == shape.depth:
            break
        scores, chosen = cumulative.topk(beam)
        frontier = chosen + size
        size += len(tokens)
        log_probs = step(tokens[chosen], chosen // beam, level)
    return _rerank(
        root,
        torch.cat(pool_tokens),
        torch.cat(pool_scores),
        torch.cat(pool_parents),
        torch.cat(pool_levels),
        shape,
    )


def _rerank(
    root: torch.Tensor,
    tokens: torch.Tensor,
    scores: torch.Tensor,
    parents: torch.Tensor,
    levels: torch.Tensor,
    shape: TreeConfig,
) -> Tree:
    """The root and the best `nodes - 1` of the pool (entry i is pool index i + 1), in pool order."""
    kept = scores.sort(descending=True, stable=True).indices[: shape.nodes - 1].sort().values
    pool_index = torch.cat((torch.zeros_like(root), kept + 1))
    parent_nodes = torch.searchsorted(pool_index, torch.cat((torch.zeros_like(root), parents[kept])))
    return Tree(
        tokens=torch.cat((root, tokens[kept])),
        parents=parent_nodes,
        levels=torch.cat((torch.zeros_like(root), levels[kept])),
        ancestors=ancestors_of(parent_nodes, shape.depth),
        valid=torch.cat((torch.ones_like(root, dtype=torch.bool), scores[kept] > float("-inf"))),
    )
