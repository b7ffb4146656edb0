"""The draft tree: EAGLE-2's growth and rerank (arXiv 2406.16858, section 4), in tensor operations of fixed shape.

Levels are numbered from 1; the root, the last token that the target has emitted, is node 0 at level 0. All nodes of a
level stand at one absolute position. Nodes that no candidate fills are marked invalid and are never accepted.

With prices (`TreePrices`) a tree is only as large as it pays: shapes then differ from cycle to cycle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from frspec_cli.decoding.options import TreeConfig, TreePrices


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


class Candidates(NamedTuple):
    """The likeliest next tokens at each of K nodes of R trees.

    log_probs: [R, K, B], at most 0.
    rows: int64 [R, K, B], rows of the draft's LM head.
    """

    log_probs: torch.Tensor
    rows: torch.Tensor


def likeliest(logits: torch.Tensor, count: int) -> Candidates:
    """The `count` likeliest rows of logits [R, K, V]; log-probs in at least float32.

    Only they are normalized: a softmax over all V rows would be written and read once more.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    best, rows = wide.topk(count, dim=-1)
    # Rounding may lift a log-prob above 0.
    return Candidates((best - wide.logsumexp(dim=-1, keepdim=True)).clamp_(max=0), rows)


Step = Callable[[torch.Tensor, torch.Tensor, int], Candidates]
"""(frontier tokens int64 [R, K], each one's place in the previous frontier int64 [R, K], level) -> `beam` of each."""


def grow(first: Candidates, step: Step, token_ids: Callable, tree: TreeConfig) -> Pool:
    """Grows EAGLE-2's trees: expands the `beam` likeliest nodes of each level and keeps all candidates.

    With prices growth ends (and the host waits to know) at a level that pays in none of the trees: see `pays`.

    first: `beam` candidates after each root, R x 1 x beam.
    step: runs the draft one level on.
    token_ids: rows of the draft's LM head -> the target's ids.
    """
    beam = tree.beam
    found = first
    frontier = torch.full_like(first.rows[:, :, 0], -1)  # pool indices
    scores = torch.zeros_like(first.log_probs[:, :, 0])
    size, levels = 0, []
    for level in range(1, tree.depth + 1):
        cumulative = (found.log_probs + scores[..., None]).flatten(1)
        tokens = token_ids(found.rows).flatten(1)
        levels.append((tokens, frontier.repeat_interleave(beam, dim=1), cumulative))
        if level == tree.depth:
            break
        scores, selected = cumulative.topk(beam, dim=-1)
        if tree.prices is not None and not bool(pays(scores, tree.prices).any()):
            break
        frontier = selected + size
        size += tokens.shape[1]
        found = step(tokens.gather(1, selected), selected // beam, level)
    return Pool(*(torch.cat(columns, dim=1) for columns in zip(*levels, strict=True)))


def pays(frontier: torch.Tensor, prices: TreePrices) -> torch.Tensor:
    """bool [R]: whether the level behind a frontier (log-probs of its paths, [R, K]) can earn what drafting it costs.

    The children of a node are accepted with at most its own probability p, and each costs a row: they earn at most
    p - row. What is below the level's price even so is not worth drafting.
    """
    return (frontier.exp() - prices.row).clamp(min=0).sum(dim=-1) >= prices.level


def drafted_levels(pool: Pool, tree: TreeConfig) -> torch.Tensor:
    """int64 [R]: how many levels each tree has by itself; trees that grow together go on until none of them pays."""
    count = torch.ones(len(pool.scores), dtype=torch.int64, device=pool.scores.device)
    levels = pool.scores.split([tree.beam, *[tree.beam**2] * (tree.depth - 1)][: _levels(pool, tree)], dim=1)
    if tree.prices is None:
        return count * len(levels)
    goes_on = torch.ones_like(count, dtype=torch.bool)
    for scores in levels[:-1]:
        goes_on &= pays(scores.topk(tree.beam, dim=-1).values, tree.prices)
        count += goes_on
    return count


def chosen(pool: Pool, tree: TreeConfig) -> torch.Tensor:
    """bool [R, P]: the candidates that become nodes: the `nodes` - 1 likeliest, with prices those of them that pay.

    A child is no likelier than its parent, so what is left is a tree still.
    """
    nodes = torch.zeros_like(pool.tokens, dtype=torch.bool).scatter_(1, pool.best(tree.nodes - 1), True)
    if tree.prices is None:
        return nodes
    levels = level_of(torch.arange(pool.tokens.shape[1], device=pool.tokens.device), tree)
    return nodes & (levels <= drafted_levels(pool, tree)[:, None]) & (pool.scores.exp() >= tree.prices.row)


def level_of(candidates: torch.Tensor, tree: TreeConfig) -> torch.Tensor:
    """The levels, from 1, of candidates (int64, places in a pool)."""
    square = tree.beam * tree.beam
    return (candidates + square - tree.beam) // square + 1


def _levels(pool: Pool, tree: TreeConfig) -> int:
    return (pool.tokens.shape[1] - tree.beam) // tree.beam**2 + 1


def rerank(root: torch.Tensor, pool: Pool, tree: TreeConfig) -> Tree:
    """The root (int64 [1]) and the candidates of a pool of one tree that become its nodes (`chosen`), in pool order."""
    kept = pool.best(tree.nodes - 1)[0]
    if tree.prices is not None:
        kept = kept[chosen(pool, tree)[0, kept]]
    at_root = torch.zeros_like(root)
    # Candidate `kept[i]` is node i + 1, and the root's index -1 comes before all of them.
    parents = torch.cat((at_root, torch.searchsorted(kept, pool.parents[0, kept], right=True)))
    return Tree(
        tokens=torch.cat((root, pool.tokens[0, kept])),
        parents=parents,
        levels=torch.cat((at_root, level_of(kept, tree))),
        ancestors=ancestors_of(parents, tree.depth),
        valid=torch.cat((torch.ones_like(root, dtype=torch.bool), pool.scores[0, kept] > float("-inf"))),
    )
