"""EAGLE-2's tree in tensors against a plain-Python twin, and what must hold of any tree."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frspec_cli.decoding.options import TreeConfig, TreePrices
from frspec_cli.decoding.tree import (
    Candidates,
    Pool,
    Tree,
    ancestors_of,
    chain,
    chosen,
    drafted_levels,
    grow,
    likeliest,
    rerank,
)
from frspec_cli.decoding.walk import walk
from frspec_cli.errors import UsageError


def _law(path: tuple[int, ...], rows: int) -> list[float]:
    """Any fixed next-token distribution that depends on the whole path."""
    generator = torch.Generator().manual_seed(hash(path) % (1 << 31))
    return torch.log_softmax(2 * torch.randn(rows, generator=generator, dtype=torch.float64), dim=0).tolist()


def _twin(shape: TreeConfig, rows: int) -> set[tuple[int, ...]]:
    """The paths of EAGLE-2's tree, by lists: expand the best `beam` of each level, keep all, take the best of the pool."""
    pool: list[tuple[float, tuple[int, ...]]] = []
    frontier: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in range(shape.depth):
        level = []
        for score, path in frontier:
            law = _law(path, rows)
            best = sorted(range(rows), key=lambda row: -law[row])[: shape.beam]
            level += [(score + law[row], (*path, row)) for row in best]
        pool += level
        frontier = sorted(level, key=lambda entry: -entry[0])[: shape.beam]
        if shape.prices is not None:
            earned = sum(max(0.0, math.exp(score) - shape.prices.row) for score, _ in frontier)
            if earned < shape.prices.level:
                break
    best = sorted(pool, key=lambda entry: -entry[0])[: shape.nodes - 1]
    return {path for score, path in best if shape.prices is None or math.exp(score) >= shape.prices.row}


def _top(log_probs: torch.Tensor, beam: int) -> Candidates:
    return Candidates(*log_probs.topk(beam, dim=-1))


def _grown(shape: TreeConfig, rows: int) -> Tree:
    paths: list[tuple[int, ...]] = [()]

    def step(tokens: torch.Tensor, came_from: torch.Tensor, level: int) -> Candidates:
        nonlocal paths
        paths = [
            (*paths[parent], token) for parent, token in zip(came_from[0].tolist(), tokens[0].tolist(), strict=True)
        ]
        return _top(torch.tensor([[_law(path, rows) for path in paths]], dtype=torch.float64), shape.beam)

    first = _top(torch.tensor([[_law((), rows)]], dtype=torch.float64), shape.beam)
    return rerank(torch.tensor([99]), grow(first, step, lambda ids: ids, shape), shape)


def _paths(tree: Tree) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for node in range(1, tree.nodes):
        found.append((*found[int(tree.parents[node])], int(tree.tokens[node])))
    return found


@settings(max_examples=80, deadline=None)
@given(
    depth=st.integers(1, 6),
    beam=st.integers(1, 10),
    nodes=st.integers(2, 60),
    rows=st.integers(1, 40),
    prices=st.none() | st.builds(TreePrices, row=st.floats(0, 0.2), level=st.floats(0, 0.6)),
)
def test_grown_tree_is_the_twins_and_is_connected(
    depth: int, beam: int, nodes: int, rows: int, prices: TreePrices | None
) -> None:
    shape = TreeConfig(depth=depth, beam=beam, nodes=nodes, prices=prices).within(rows)
    tree = _grown(shape, rows)
    assert tree.nodes <= shape.nodes
    assert tree.nodes == shape.nodes or prices is not None
    assert int(tree.tokens[0]) == 99
    paths = _paths(tree)
    assert len(set(paths)) == tree.nodes
    assert set(paths[1:]) == _twin(shape, rows)
    assert all(int(tree.parents[node]) < node for node in range(1, tree.nodes))
    assert [len(path) for path in paths] == tree.levels.tolist()
    for node, path in enumerate(paths):
        expected = {other for other, prefix in enumerate(paths) if path[: len(prefix)] == prefix}
        assert set(tree.ancestors[node].nonzero()[:, 0].tolist()) == expected


def test_equal_scores_keep_parents_before_children() -> None:
    """All log-probs 0: every node of the pool ties, and the cut must still be a tree."""
    shape = TreeConfig(depth=5, beam=3, nodes=12)
    pool = grow(
        _top(torch.zeros(1, 1, 3), 3),
        lambda tokens, came_from, level: _top(torch.zeros(1, 3, 3), 3),
        lambda ids: ids,
        shape,
    )
    tree = rerank(torch.tensor([0]), pool, shape)
    assert all(int(tree.parents[node]) < node for node in range(1, tree.nodes))
    assert all(int(tree.levels[node]) == int(tree.levels[tree.parents[node]]) + 1 for node in range(1, tree.nodes))


def test_candidates_of_probability_zero_are_invalid_and_never_accepted() -> None:
    first = _top(torch.tensor([[[0.0, -math.inf, -math.inf]]]), 3)
    shape = TreeConfig(depth=1, beam=3, nodes=4)
    tree = rerank(torch.tensor([7]), grow(first, lambda *_: first, lambda ids: ids, shape), shape)
    assert tree.valid.tolist() == [True, True, False, False]
    chosen = torch.full((4,), int(tree.tokens[2]))
    assert int(walk(tree, chosen, 1).accepted) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_likeliest_have_their_log_softmax(dtype: torch.dtype) -> None:
    logits = (8 * torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(4))).to(dtype)
    logits[..., 7] = -math.inf
    found = likeliest(logits, 49)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = torch.log_softmax(logits.to(wide), dim=-1)
    torch.testing.assert_close(found.log_probs, expected.gather(-1, found.rows))
    assert found.log_probs.dtype == wide
    assert torch.equal(found.log_probs, found.log_probs.sort(dim=-1, descending=True).values)
    assert 7 not in found.rows
    one = torch.full((1, 1, 4), -math.inf)
    one[..., 2] = 3.3
    assert likeliest(one, 1) == Candidates(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2))


def test_trees_that_grow_together_are_sized_one_by_one() -> None:
    """One pays for its second level and one does not: growth goes on for the first, and the second keeps one level."""
    sure = torch.tensor([[0.90, 0.08, 0.02], [0.40, 0.35, 0.25]]).log()[:, None]
    shape = TreeConfig(3, 2, 30, prices=TreePrices(row=0.05, level=0.8))
    calls = []

    def step(tokens: torch.Tensor, came_from: torch.Tensor, level: int) -> Candidates:
        calls.append(level)
        return _top(sure.expand(2, 2, 3), 2)

    pool = grow(_top(sure, 2), step, lambda rows: rows, shape)
    assert calls == [1]  # 0.85 + 0.03 pays, 0.35 + 0.30 does not; then 0.81 + 0.072 - 0.1 does not
    assert drafted_levels(pool, shape).tolist() == [2, 1]
    assert pool.scores.exp()[chosen(pool, shape)].tolist() == pytest.approx([0.9, 0.08, 0.81, 0.072, 0.072, 0.4, 0.35])
    alone = rerank(torch.tensor([9]), Pool(*(each[1:] for each in pool)), shape)
    assert alone.tokens.tolist() == [9, 0, 1]


def test_where_nothing_pays_the_tree_is_its_root() -> None:
    first = _top(torch.tensor([[[0.5, 0.3, 0.2]]]).log(), 2)
    shape = TreeConfig(3, 2, 8, prices=TreePrices(row=0.6, level=0.1))
    tree = rerank(torch.tensor([9]), grow(first, lambda *_: pytest.fail("drafted"), lambda rows: rows, shape), shape)
    assert (tree.tokens.tolist(), tree.parents.tolist(), tree.levels.tolist()) == ([9], [0], [0])
    assert walk(tree, torch.tensor([4]), 3).emitted.tolist() == [4] * 4


@pytest.mark.parametrize("prices", [{"row": -0.1, "level": 0}, {"row": 0, "level": math.nan}])
def test_a_price_is_a_number(prices: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"^the price of a (row|level), .* is not a number of at least 0"):
        TreePrices(**prices)
    assert TreePrices.measured(row_seconds=0.5, level_seconds=2, tokens_per_second=0.1) == TreePrices(0.05, 0.2)


def test_eagle_default_pool() -> None:
    """EAGLE's (depth 5, top-k 10, total-token 60) is (6, 10, 60) here: a pool of 510, of which 59 stay."""
    assert TreeConfig(6, 10, 60).within(128256) == TreeConfig(6, 10, 60)
    assert TreeConfig(6, 10, 600).within(128256).nodes == 511


@pytest.mark.parametrize(
    ("bad", "name"),
    [((0, 1, 2), "depth"), ((1, 0, 2), "beam"), ((1, 1, 1), "nodes"), ((100_000, 4, 16), "depth"),
     ((5, 5000, 16), "beam"), ((5, 4, 100_000), "nodes")],
)  # fmt: skip
def test_a_size_outside_its_range_is_a_usage_error(bad: tuple[int, int, int], name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} [0-9]+ is not between"):
        TreeConfig(*bad)


@settings(max_examples=200, deadline=None)
@given(depth=st.integers(1, 64), beam=st.integers(1, 128), nodes=st.integers(2, 2048), rows=st.integers(1, 200_000))
def test_what_a_draft_can_fill_is_a_tree_too(depth: int, beam: int, nodes: int, rows: int) -> None:
    tree = TreeConfig(depth, beam, nodes).within(rows)
    assert (tree.depth, tree.beam) == (depth, min(beam, rows))
    assert 2 <= tree.nodes <= nodes


def test_chain_is_a_path() -> None:
    tree = chain(torch.tensor([5]), torch.tensor([6, 7]), torch.tensor([True, False]))
    assert _paths(tree) == [(), (6,), (6, 7)]
    assert tree.ancestors.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert int(walk(tree, torch.tensor([6, 7, 1]), 2).accepted) == 1


@settings(max_examples=100, deadline=None)
@given(data=st.data(), nodes=st.integers(1, 12), vocab=st.integers(2, 4))
def test_walk_equals_following_children_one_by_one(data, nodes: int, vocab: int) -> None:
    parents, tokens, levels = [0], [0], [0]
    for _ in range(nodes):
        parent = data.draw(st.integers(0, len(parents) - 1))
        taken = {tokens[node] for node in range(1, len(parents)) if parents[node] == parent}
        free = [token for token in range(vocab) if token not in taken]
        if free:
            parents.append(parent)
            tokens.append(data.draw(st.sampled_from(free)))
            levels.append(levels[parent] + 1)
    chosen = data.draw(st.lists(st.integers(0, vocab - 1), min_size=len(parents), max_size=len(parents)))
    depth = max(levels) + data.draw(st.integers(0, 2))
    parent_nodes = torch.tensor(parents)
    tree = Tree(
        torch.tensor(tokens),
        parent_nodes,
        torch.tensor(levels),
        ancestors_of(parent_nodes, depth),
        torch.ones(len(parents), dtype=torch.bool),
    )
    node, expected = 0, []
    while True:
        expected.append(chosen[node])
        following = [n for n in range(1, len(parents)) if parents[n] == node and tokens[n] == chosen[node]]
        if not following:
            break
        node = following[0]
    step = walk(tree, torch.tensor(chosen), depth)
    count = int(step.accepted) + 1
    assert step.emitted[:count].tolist() == expected
    assert len(step.path) == depth + 1
