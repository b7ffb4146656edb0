"""Every tree of one beam replayed at once: exact acceptance lengths of all depths and numbers of nodes from one pool each.

The candidates of a tree of depth d are the first levels of any deeper tree of the same beam, and which of them are kept
depends on their scores alone. So the deepest tree is grown once behind every answered token; how far the answer follows it
is then known for each depth and number of nodes, and with that the cycles of each. `cycles.replay` of one tree gives the
same cycles, and why each ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import States
from frspec_cli.decoding.modules_drafter import head_drafter
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.tree import Pool
from frspec_cli.heads.draft_head import DraftHead
from frspec_cli.heads.mtp import MtpModules
from frspec_cli.models.lm_head import LmHead
from frspec_cli.replay.cycles import Acceptance, BatchedTrees, groups, may_begin


@dataclass(frozen=True)
class GridAcceptance:
    """The cycles of one tree over some answers. cycles, accepted: of each answer."""

    cycles: list[int]
    accepted: list[int]

    @property
    def total(self) -> Acceptance:
        """Over all answers."""
        return Acceptance(sum(self.cycles), sum(self.accepted))


@torch.no_grad()
def replay_grid(
    head: DraftHead,
    lm_head: LmHead,
    texts: Sequence[tuple[Answer, States]],
    *,
    beam: int,
    depths: Sequence[int],
    nodes: Sequence[int],
    new_tokens: int | None = None,
    look_ahead: int = 0,
    finished: Callable[[int], None] = lambda count: None,
) -> dict[TreeConfig, GridAcceptance]:
    """The acceptance of every tree of `beam` candidates a level that can be filled: a tree of more nodes than its candidates
    and the root is left out, and one deeper than several MTP modules have steps.

    new_tokens, look_ahead: as in `cycles.replay`.
    finished: called with the number of texts that are done.
    """
    trees = [
        TreeConfig(depth=depth, beam=beam, nodes=count)
        for depth in depths
        for count in nodes
        if TreeConfig(depth=depth, beam=beam, nodes=count).within(lm_head.size).nodes == count and beam <= lm_head.size
    ]
    if isinstance(head, MtpModules):
        trees = [tree for tree in trees if tree.depth <= head.config.layers]
    if not trees:
        return {}
    largest = TreeConfig(depth=max(tree.depth for tree in trees), beam=beam, nodes=max(tree.nodes for tree in trees))
    drafter = head_drafter(head, lm_head, largest)
    cycles = {tree: [0] * len(texts) for tree in trees}
    accepted = {tree: [0] * len(texts) for tree in trees}
    for group in groups(drafter, texts):
        answers = [texts[index][0] for index in group]
        places = _places(BatchedTrees.read(drafter, [texts[index] for index in group]), answers, trees, new_tokens)
        for tree in trees:
            for index, answer, row in zip(group, answers, _accepted(places, tree), strict=True):
                cycles[tree][index], accepted[tree][index] = _walk(answer, row, max(look_ahead, tree.depth), new_tokens)
        finished(len(group))
    return {tree: GridAcceptance(cycles[tree], accepted[tree]) for tree in trees}


Places = dict[int, torch.Tensor]
"""By depth, int64 [R, roots, depth]: among the candidates of that depth's tree, the place by score (0 is the likeliest) of
the node that the answer passes through at each level; a number past all places if there is none."""

_NONE = 1 << 40


def _places(
    batch: BatchedTrees, answers: Sequence[Answer], trees: Sequence[TreeConfig], new_tokens: int | None
) -> Places:
    """The places behind every answered token where a cycle of any tree may begin."""
    depths = sorted({tree.depth for tree in trees})
    last = [
        max((r for r in range(answer.response_length) if may_begin(answer, r, depths[0], new_tokens)), default=-1)
        for answer in answers
    ]
    by_root: list[Places] = []
    for root in range(max(last) + 1):
        pool, future = batch.pools([min(root, max(0, end)) for end in last])
        path = _path(pool, future)
        by_root.append({depth: _ranks(pool, path[:, :depth], trees[0].beam, depth) for depth in depths})
    return {depth: torch.stack([each[depth] for each in by_root], dim=1) for depth in depths} if by_root else {}


def _path(pool: Pool, future: torch.Tensor) -> torch.Tensor:
    """int64 [R, depth]: the candidate that the answer passes through at each level, -1 where it has left the pool."""
    node = torch.full_like(future[:, 0], -1)
    alive = torch.ones_like(node, dtype=torch.bool)
    path = []
    for wanted in future.unbind(1):
        match = (pool.parents == node[:, None]) & (pool.tokens == wanted[:, None]) & (wanted[:, None] >= 0)
        alive = alive & match.any(1)
        node = torch.where(alive, match.int().argmax(1), node)
        path.append(torch.where(alive, node, -1))
    return torch.stack(path, dim=1)


def _ranks(pool: Pool, path: torch.Tensor, beam: int, depth: int) -> torch.Tensor:
    """int64 [R, depth]: the place of each node of `path` by score, as a stable sort of the tree's candidates gives it."""
    size = beam + (depth - 1) * beam * beam
    scores = pool.scores[:, :size]
    own = scores.gather(1, path.clamp(min=0))
    order = torch.arange(size, device=path.device)
    before = (scores[:, None] > own[..., None]) | ((scores[:, None] == own[..., None]) & (order < path[..., None]))
    return before.sum(-1).masked_fill((path < 0) | (path >= size), _NONE)


def _accepted(places: Places, tree: TreeConfig) -> list[list[int]]:
    """Of each text, what a cycle of `tree` accepts behind each answered token."""
    if not places:
        return [[]]
    kept = places[tree.depth] < tree.nodes - 1
    return kept.int().cumprod(-1).sum(-1).tolist()


def _walk(answer: Answer, accepted: Sequence[int], ahead: int, new_tokens: int | None) -> tuple[int, int]:
    """(cycles, accepted tokens) of one answer, given what a cycle accepts behind each answered token."""
    root = cycles = total = 0
    while may_begin(answer, root, ahead, new_tokens):
        cycles += 1
        total += accepted[root]
        root += accepted[root] + 1
    return cycles, total
