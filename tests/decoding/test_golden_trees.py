"""Trees recorded from an earlier, unbatched implementation: tokens, parents, levels, ancestors, and ties among them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.tree import Candidates, Pool, grow, rerank

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden_trees.json").read_text())
"""draw: seed, depth, beam, nodes, rows of the draft, and the number of different log-probs (few give ties)."""
STATES, ROOT = 23, 7


class Law:
    """A next-token law that depends on the whole path, through one of `STATES` states.

    Its log-probs are integers times a power of two from Python's own generator: sums are exact, and so are ties.
    """

    def __init__(self, seed: int, rows: int, values: int) -> None:
        drawn = random.Random(f"{seed} {values}")
        table = [[-drawn.randrange(values) * 6 / values for _ in range(rows)] for _ in range(STATES)]
        self.table = torch.tensor(table, dtype=torch.float64)
        self.table[5, : rows // 2] = float("-inf")
        self.ids = torch.tensor(drawn.sample(range(1000), rows))
        self.row_of = {int(token): row for row, token in enumerate(self.ids)}
        self.start = seed % STATES

    def advance(self, state: int, token: int) -> int:
        return (3 * state + self.row_of[token] + 1) % STATES


def _grown(laws: list[Law], tree: TreeConfig) -> Pool:
    states = [[law.start] for law in laws]

    def step(tokens: torch.Tensor, came_from: torch.Tensor, level: int) -> Candidates:
        nonlocal states
        states = [
            [law.advance(old[place], token) for place, token in zip(places, row, strict=True)]
            for law, old, places, row in zip(laws, states, came_from.tolist(), tokens.tolist(), strict=True)
        ]
        return top(torch.stack([law.table[row] for law, row in zip(laws, states, strict=True)]))

    def top(log_probs: torch.Tensor) -> Candidates:
        return Candidates(*log_probs.topk(tree.beam, dim=-1))

    first = top(torch.stack([law.table[[law.start]] for law in laws]))
    ids = torch.stack([law.ids for law in laws])
    return grow(first, step, lambda rows: ids.gather(1, rows.flatten(1)).view_as(rows), tree)


def _record(pool: Pool, tree: TreeConfig) -> dict[str, Any]:
    grown = rerank(torch.tensor([ROOT]), pool, tree)
    return {
        "tokens": grown.tokens.tolist(),
        "parents": grown.parents.tolist(),
        "levels": grown.levels.tolist(),
        "ancestors": ["".join("01"[seen] for seen in row) for row in grown.ancestors.tolist()],
        "valid": grown.valid.int().tolist(),
    }


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: str(golden["draw"]))
@pytest.mark.parametrize("batch", [1, 3])
def test_trees_are_the_recorded_ones(golden: dict[str, Any], batch: int) -> None:
    """Alone, and as one of several trees that grow together: each is what it is alone."""
    seed, depth, beam, nodes, rows, values = golden["draw"]
    tree = TreeConfig(depth, beam, nodes).within(rows)
    laws = [Law(seed + 100 * other, rows, values) for other in range(batch)]
    laws[0], laws[-1] = laws[-1], laws[0]  # the recorded one is the last
    pool = _grown(laws, tree)
    last = Pool(*(each[-1:] for each in pool))
    assert _record(last, tree) == {name: value for name, value in golden.items() if name != "draw"}
    for place, law in enumerate(laws):
        alone = _grown([law], tree)
        assert all(torch.equal(a[0], b[place]) for a, b in zip(alone, pool, strict=True))
