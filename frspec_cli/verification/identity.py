"""Is an output the target's? Checked by ids, and by re-scoring when rounding may have broken a tie.

Plain decoding runs one row at a time and verification many: their logits differ in the last bits, so a near tie of the
two most likely tokens may fall either way. In float32 a difference counts as such only if the top-2 margin is below
`NEAR_TIE`, and then the prompt is decoded again in float64, where the ids must be equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from frspec_cli.decoding.cache import attended, cache_length
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.tree import Tree, ancestors_of
from frspec_cli.models.target import Target

NEAR_TIE = 1e-3
"""Largest top-2 margin, in logits, at which a float32 run may differ (one row against 64: up to 4e-5 in a logit)."""


PASS_ROWS = 256
"""Rows of a text that are re-scored in one pass."""


@dataclass(frozen=True)
class Scores:
    """A prefill over prompt and emitted ids, at the N emitted positions.

    best: the argmax before each emitted id.
    margin: the difference of the two highest logits.
    unit: one unit in the last place of the highest; [] if it is not known.
    """

    best: list[int]
    margin: list[float]
    unit: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Mismatch:
    """An emitted id that is not the argmax of the re-scoring prefill: its position, and the top-2 margin there."""

    position: int
    margin: float

    @property
    def is_near_tie(self) -> bool:
        """Whether rounding may explain it in float32."""
        return self.margin < NEAR_TIE


@torch.inference_mode()
def score(target: Target, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> Scores:
    """One prefill over both, in parts; what the target would have emitted greedily at each of the N emitted positions."""
    engine = Engine(target)
    ids = torch.tensor([*prompt_ids, *token_ids[:-1]], dtype=torch.int64, device=target.device)
    workspace = engine.workspace(cache_length(len(ids)))
    first, scores = len(prompt_ids) - 1, Scores([], [])
    for begin in range(0, len(ids), PASS_ROWS):
        chunk = ids[begin : begin + PASS_ROWS]
        rows = torch.arange(begin, begin + len(chunk), device=target.device)
        # An index copies these rows; a count leads to a copy of the LM head.
        keep = torch.arange(min(max(0, first - begin), len(chunk) - 1), len(chunk), device=target.device)
        logits, _ = engine.forward(workspace, chunk, rows, rows, None, end=begin + len(chunk), keep=keep)
        if begin + len(chunk) > first:
            top = logits.topk(2, dim=-1)
            scores.best.extend(top.indices[:, 0].tolist())
            scores.margin.extend((top.values[:, 0] - top.values[:, 1]).tolist())
            scores.unit.extend(unit_in_last_place(value) for value in top.values[:, 0])
    return scores


@torch.inference_mode()
def rounding(
    engine: Engine, prompt_ids: Sequence[int], token_ids: Sequence[int], top: Sequence[Any], *, nodes: int, depth: int
) -> float:
    """How far the logits of one row are from those of many: the largest difference in the two highest of a position.

    token_ids: what plain decoding emitted.
    top: its two highest logits before each of them, values and indices [2].
    nodes, depth: the trees in which the tokens are read here, as verification reads drafts (`_tree_of_text`).
    """
    length = engine.cache_length(len(prompt_ids), len(token_ids) + nodes)
    state, _ = engine.prefill(prompt_ids, length)
    following = torch.tensor(token_ids, dtype=torch.int64, device=engine.device)
    second = torch.stack([indices[1] for _, indices in top])
    generator = torch.Generator().manual_seed(0)
    offsets = torch.arange(nodes, device=engine.device)
    largest = 0.0
    most = min(depth + 1, nodes)
    for begin in range(0, len(token_ids) - 1, most):
        count = min(most, len(token_ids) - 1 - begin)
        tree, path = _tree_of_text(following[begin:], second[begin:], count, nodes, generator)
        slots = len(prompt_ids) + begin + offsets
        end = attended(len(prompt_ids) + begin + nodes, compiled=False)
        logits, _ = engine.forward(state.workspace, tree.tokens, slots[0] + tree.levels, slots, tree.ancestors, end=end)
        for row, (values, indices) in zip(logits[path], top[begin + 1 :], strict=False):
            largest = max(largest, float((row[indices] - values).abs().max()))
        state.workspace.buffer.move(slots[path], slots[:count])
    return largest


def _tree_of_text(
    tokens: torch.Tensor, others: torch.Tensor, count: int, nodes: int, generator: torch.Generator
) -> tuple[Tree, torch.Tensor]:
    """(a tree of `nodes` whose longest path is the first `count` of tokens, int64 [count]: the nodes of that path).

    Between the path's nodes, at places drawn by `generator`, stand leaves with another token for the same position
    (`others`), as rejected drafts do: a path's keys then lie apart, and attention adds them in another order. Rows that lie
    side by side show none of that.
    """
    path = torch.cat(
        (torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(nodes - 1, generator=generator)[: count - 1])
    )
    path = path.sort().values.to(tokens.device)
    on_path = torch.zeros(nodes, dtype=torch.bool, device=tokens.device).index_fill_(0, path, True)
    levels = on_path.cumsum(0) - on_path.long()
    parents = path[(levels - 1).clamp(min=0)]
    return Tree(
        tokens=torch.where(on_path, tokens[levels], others[levels]),
        parents=parents,
        levels=levels,
        ancestors=ancestors_of(parents, count),
        valid=torch.ones_like(on_path),
    ), path


def differences(scores: Scores, token_ids: Sequence[int]) -> list[Mismatch]:
    """Every emitted id that is not the prefill's argmax: [] proves greedy identity by induction over the positions."""
    return [
        Mismatch(position, margin)
        for position, (best, margin, token) in enumerate(zip(scores.best, scores.margin, token_ids, strict=True))
        if best != token
    ]


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The first position at which two id lists differ (a missing id differs); None if they are equal."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return None if len(a) == len(b) else min(len(a), len(b))


def unit_in_last_place(value: torch.Tensor) -> float:
    """The distance from |value| to the next number of its dtype."""
    size = value.abs()
    return float(torch.nextafter(size, torch.full_like(size, float("inf"))) - size)
