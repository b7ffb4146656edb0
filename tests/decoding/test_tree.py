"""EAGLE-2's tree in tensors against a plain-Python twin, and what must hold of any tree."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.tree import Tree, ancestors_of, chain, grow, rerank
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
    best = sorted(pool, key=lambda entry: -entry[0])[: shape.nodes - 1]
    return {path for _, path in best}


def _grown(shape: TreeConfig, rows: int) -> Tree:
    paths: list[tuple[int, ...]] = [()]

    def step(tokens: torch.Tensor, came_from: torch.Tensor, level: int) -> torch.Tensor:
        nonlocal paths
        paths = [
            (*paths[parent], token) for parent, token in zip(came_from[0].tolist(), tokens[0].tolist(), strict=True)
        ]
        return torch.tensor([[_law(path, rows) for path in paths]], dtype=torch.float64)

    first = torch.tensor([[_law((), rows)]], dtype=torch.float64)
    return rerank(torch.tensor([99]), grow(first, step, lambda ids: ids, shape), shape)


def _paths(tree: Tree) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for node in range(1, tree.nodes):
        found.append((*found[int(tree.parents[node])], int(tree.tokens[node])))
    return found


@settings(max_examples=80, deadline=None)
@given(depth=st.integers(1, 6), beam=st.integers(1, 10), nodes=st.integers(2, 60), rows=st.integers(1, 40))
def test_grown_tree_is_the_twins_and_is_connected(depth: int, beam: int, nodes: int, rows: int) -> None:
    shape = TreeConfig(depth=depth, beam=beam, nodes=nodes).within(rows)
    tree = _grown(shape, rows)
    assert tree.nodes == shape.nodes
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
        torch.zeros(1, 1, 3),
        lambda tokens, came_from, level: torch.zeros(1, 3, 3),
        lambda ids: ids,
        shape,
    )
    tree = rerank(torch.tensor([0]), pool, shape)
    assert all(int(tree.parents[node]) < node for node in range(1, tree.nodes))
    assert all(int(tree.levels[node]) == int(tree.levels[tree.parents[node]]) + 1 for node in range(1, tree.nodes))


def test_candidates_of_probability_zero_are_invalid_and_never_accepted() -> None:
    first = torch.tensor([[[0.0, -math.inf, -math.inf]]])
    shape = TreeConfig(depth=1, beam=3, nodes=4)
    tree = rerank(torch.tensor([7]), grow(first, lambda *_: first, lambda ids: ids, shape), shape)
    assert tree.valid.tolist() == [True, True, False, False]
    chosen = torch.full((4,), int(tree.tokens[2]))
    assert int(walk(tree, chosen, 1).accepted) == 0


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
