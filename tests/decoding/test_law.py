"""The walk keeps the target's law exactly, and accepts as much as EAGLE's rejection without replacement does.

No sampling here: every outcome is enumerated with its probability, so there is no tolerance beyond float64 rounding.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frspec_cli.decoding.tree import Tree, ancestors_of
from frspec_cli.decoding.walk import walk

Law = dict[tuple[int, ...], list[float]]
"""The target's next-token distribution after each path below the root."""


@st.composite
def cases(draw) -> tuple[int, list[int], list[int], Law]:
    """(vocabulary, tokens, parents, law) of a tree of at most five nodes; laws with zeros, one-hot ones, and ties."""
    vocab = draw(st.integers(2, 4))
    tokens, parents, paths = [0], [0], [()]
    for _ in range(draw(st.integers(0, 4))):
        parent = draw(st.integers(0, len(paths) - 1))
        taken = {path[-1] for path in paths if path and path[:-1] == paths[parent]}
        free = [token for token in range(vocab) if token not in taken]
        if not free:
            continue
        tokens.append(draw(st.sampled_from(free)))
        parents.append(parent)
        paths.append((*paths[parent], tokens[-1]))
    law: Law = {}
    depth = max(len(path) for path in paths) + 1
    for length in range(depth):
        for path in itertools.product(range(vocab), repeat=length):
            weights = draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, 5]), min_size=vocab, max_size=vocab))
            weights[draw(st.integers(0, vocab - 1))] += 1
            law[path] = [weight / sum(weights) for weight in weights]
    return vocab, tokens, parents, law


def _paths(tokens: list[int], parents: list[int]) -> list[tuple[int, ...]]:
    paths: list[tuple[int, ...]] = [()]
    for node in range(1, len(tokens)):
        paths.append((*paths[parents[node]], tokens[node]))
    return paths


def _tree(tokens: list[int], parents: list[int], depth: int) -> Tree:
    parent_nodes = torch.tensor(parents)
    levels = torch.tensor([len(path) for path in _paths(tokens, parents)])
    valid = torch.ones(len(tokens), dtype=torch.bool)
    return Tree(torch.tensor(tokens), parent_nodes, levels, ancestors_of(parent_nodes, depth), valid)


def _blocks(vocab: int, tokens: list[int], parents: list[int], law: Law, step=walk) -> dict[tuple[int, ...], float]:
    """Probability of each emitted block. The nodes' choices are enumerated as if independent: the walk looks at one node
    a level, so sharing noise within a level cannot show in a block's law."""
    paths = _paths(tokens, parents)
    depth = max(len(path) for path in paths)
    tree = _tree(tokens, parents, depth)
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for chosen in itertools.product(range(vocab), repeat=len(tokens)):
        weight = 1.0
        for path, token in zip(paths, chosen, strict=True):
            weight *= law[path][token]
        if weight:
            outcome = step(tree, torch.tensor(chosen), depth)
            found[tuple(outcome.emitted[: int(outcome.accepted) + 1].tolist())] += weight
    return found


def _completed(blocks: dict[tuple[int, ...], float], vocab: int, law: Law, length: int) -> dict[tuple[int, ...], float]:
    """The law of the first `length` tokens: each block, then the target's own law for what is missing."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for block, probability in blocks.items():
        for rest in itertools.product(range(vocab), repeat=length - len(block)):
            path, weight = block, probability
            for token in rest:
                weight *= law[path][token]
                path = (*path, token)
            found[path] += weight
    return found


def _joint(vocab: int, law: Law, length: int) -> dict[tuple[int, ...], float]:
    found = {}
    for path in itertools.product(range(vocab), repeat=length):
        weight = 1.0
        for place, token in enumerate(path):
            weight *= law[path[:place]][token]
        found[path] = weight
    return found


def _rejection(tokens: list[int], parents: list[int], law: Law) -> dict[tuple[int, ...], float]:
    """EAGLE's verification (formats: evaluate_posterior), enumerated: try the children in turn, q = 1, accept x with
    p(x), else set p(x) = 0 and renormalise; when all are rejected draw from what is left."""
    paths = _paths(tokens, parents)
    found: dict[tuple[int, ...], float] = defaultdict(float)

    def visit(node: int, weight: float) -> None:
        rest = list(law[paths[node]])
        for child in [n for n in range(1, len(tokens)) if parents[n] == node]:
            accept = rest[tokens[child]]
            visit(child, weight * accept)
            weight *= 1 - accept
            rest[tokens[child]] = 0.0
            total = sum(rest)
            if weight <= 0 or total <= 0:
                return
            rest = [value / total for value in rest]
        for token, probability in enumerate(rest):
            found[(*paths[node], token)] += weight * probability

    visit(0, 1.0)
    return found


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_emitted_blocks_follow_the_targets_joint_law_and_eagles(case) -> None:
    vocab, tokens, parents, law = case
    blocks = _blocks(vocab, tokens, parents, law)
    depth = max(len(path) for path in _paths(tokens, parents))
    completed, joint = _completed(blocks, vocab, law, depth + 1), _joint(vocab, law, depth + 1)
    assert max(abs(completed.get(path, 0.0) - weight) for path, weight in joint.items()) < 1e-12
    reference = _rejection(tokens, parents, law)
    assert max(abs(blocks.get(key, 0.0) - reference.get(key, 0.0)) for key in {*blocks, *reference}) < 1e-12


TOKENS, PARENTS = [0, 1, 2, 0], [0, 0, 0, 1]
LAW: Law = {path: [0.2, 0.5, 0.3] for length in range(3) for path in itertools.product(range(3), repeat=length)}


def _always_accept(tree, chosen, depth):
    changed = chosen.clone()
    changed[0] = tree.tokens[1]
    return walk(tree, changed, depth)


def _bonus_of_the_parent(tree, chosen, depth):
    outcome = walk(tree, chosen, depth)
    emitted = outcome.emitted.clone()
    if int(outcome.accepted):
        emitted[outcome.accepted] = chosen[tree.parents[outcome.path[outcome.accepted]]]
    return type(outcome)(path=outcome.path, emitted=emitted, accepted=outcome.accepted)


def _bonus_of_the_draft(tree, chosen, depth):
    outcome = walk(tree, chosen, depth)
    emitted = outcome.emitted.clone()
    emitted[outcome.accepted] = tree.tokens[outcome.path[outcome.accepted]]
    return type(outcome)(path=outcome.path, emitted=emitted, accepted=outcome.accepted)


@pytest.mark.parametrize("mutant", [_always_accept, _bonus_of_the_parent, _bonus_of_the_draft])
def test_mutants_break_the_law(mutant) -> None:
    completed = _completed(_blocks(3, TOKENS, PARENTS, LAW, mutant), 3, LAW, 3)
    joint = _joint(3, LAW, 3)
    assert max(abs(completed.get(path, 0.0) - weight) for path, weight in joint.items()) > 0.01
