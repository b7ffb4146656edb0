"""The walk that verifies a tree: one rule for greedy decoding and for sampling.

At every node the target's own next token is chosen: the argmax of its logits, or with sampling the argmax of its
processed log-probabilities plus Gumbel noise keyed by (seed, absolute position), the same noise for all nodes of one
level. The walk follows the child that equals the chosen token, and ends with that token as bonus.

Why this keeps the law. Let p be the target's distribution at a node, after processing. argmax(log p + g) with i.i.d.
Gumbel noise g is a draw from p (the Gumbel-max trick), and the noise of a position is used for no other position. The
draft is a function of the past alone (its candidates are deterministic picks, point masses), so it is independent of the
noise of the positions it drafts. The emitted token at each position is therefore a draw from p(. | prefix), whatever was
drafted: the draft decides only how many tokens one pass of the target yields. Plain decoding with the same seed makes
the same draws, so the ids are the same.

Why it loses no acceptance. EAGLE's rejection without replacement accepts the first child x1 with probability p(x1), else
the second with p(x2) / (1 - p(x1)), and so on: in all it accepts child x with probability p(x). So does the walk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from frspec_cli.decoding.tree import Tree


class Walk(NamedTuple):
    """What one verification yields, in tensors of fixed shape.

    path: int64 [depth + 1], the accepted nodes from the root on; entries past `accepted` are 0. emitted: int64
    [depth + 1], the target's token after each node of the path. accepted: int64 [], drafted tokens accepted: the first
    accepted + 1 entries of `path` and `emitted` count.
    """

    path: torch.Tensor
    emitted: torch.Tensor
    accepted: torch.Tensor


def scores(logits: torch.Tensor, noise: torch.Tensor | None, levels: torch.Tensor) -> torch.Tensor:
    """What the target maximises at each node, [N, V]: its argmax is the next token.

    logits: [N, V], processed where sampling. noise: Gumbel noise float32 [depth + 1, V], row l for the position that
    follows a node of level l; None for greedy. levels: int64 [N].
    """
    if noise is None:
        return logits
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide) + noise[levels]


def best(scores: torch.Tensor) -> torch.Tensor:
    """The first maximum of each row, [N, V] -> int64 [N]: `argmax`, which on a CPU takes five times as long in bfloat16."""
    return scores.max(dim=-1).indices


def walk(tree: Tree, chosen: torch.Tensor, depth: int) -> Walk:
    """Follows from the root the child that equals the chosen token, as far as there is one.

    chosen: int64 [N], the argmax of `scores`. A node is accepted when it and all its ancestors equal what was chosen at their
    parents; a parent's children differ from one another, so the accepted nodes are one path.
    """
    agrees = (tree.tokens == chosen[tree.parents]) & tree.valid
    agrees[0] = True
    accepted = ~(tree.ancestors & ~agrees[None, :]).any(dim=1)
    at_level = accepted[None, :] & (tree.levels[None, :] == torch.arange(depth + 1, device=chosen.device)[:, None])
    path = at_level.to(torch.int8).argmax(dim=1)
    return Walk(path=path, emitted=chosen[path], accepted=accepted.sum() - 1)
