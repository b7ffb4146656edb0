"""The noise is a function of (seed, position); the warpers are transformers' own; the walk samples the target's law."""

from __future__ import annotations

import pytest
import torch

from frspec_cli.decoding.sampling import GumbelNoise, Sampling
from frspec_cli.decoding.tree import Tree, ancestors_of
from frspec_cli.decoding.walk import scores, walk
from frspec_cli.errors import UsageError

CPU = torch.device("cpu")


def test_noise_depends_on_seed_and_position_only() -> None:
    one, other = GumbelNoise(3, 50, CPU), GumbelNoise(3, 50, CPU)
    other.rows(100, 4)
    assert torch.equal(one.rows(7, 3)[1], other.at(8))
    assert not torch.equal(one.at(7), one.at(8))
    assert not torch.equal(one.at(7), GumbelNoise(4, 50, CPU).at(7))


def test_noise_is_gumbel() -> None:
    """200,000 draws: mean 0.5772, variance pi^2/6; six standard errors, so a false alarm has odds below 1e-8."""
    draws = GumbelNoise(1, 200_000, CPU).at(0).double()
    assert torch.isfinite(draws).all()
    assert abs(draws.mean() - 0.57722) < 6 * 1.2825 / 200_000**0.5
    assert abs(draws.var() - 1.64493) < 6 * (4.4 * 1.64493**2 / 200_000) ** 0.5


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -0.1}, {"temperature": 1.0, "top_p": 0.0}, {"temperature": 1.0, "min_p": 1.0}, {"top_k": 5}],
)
def test_options_out_of_range_are_usage_errors(bad: dict) -> None:
    with pytest.raises(UsageError):
        Sampling(**bad)


def test_warpers_stand_in_transformers_order() -> None:
    names = [type(w).__name__ for w in Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1).warpers()]
    assert names == ["TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper"]
    assert Sampling(temperature=1.0).warpers() == []


def _g_statistic(counts: torch.Tensor, law: torch.Tensor) -> float:
    expected = law * counts.sum()
    seen = counts > 0
    return float(2 * (counts[seen] * (counts[seen] / expected[seen]).log()).sum())


def _two_tokens(laws: torch.Tensor, tree: Tree, draws: int, *, mutant: str | None = None) -> torch.Tensor:
    """Counts of the first two emitted tokens over `draws` walks of one tree; laws: log-probs [V + 1, V], row 0 first."""
    vocab = laws.shape[1]
    levels, generator = tree.levels, torch.Generator().manual_seed(12)
    state = torch.where(torch.arange(tree.nodes) == 0, 0, 1 + tree.tokens)  # the law after each node
    counts = torch.zeros(vocab, vocab, dtype=torch.float64)
    for _ in range(draws):
        noise = -torch.log(torch.empty(3, vocab).exponential_(generator=generator))
        if mutant == "noise used twice":
            noise[1] = noise[0]
        chosen = scores(laws[state], noise, levels).argmax(-1)
        if mutant == "child followed without comparing":
            chosen = chosen.clone()
            chosen[0] = tree.tokens[1]
        step = walk(tree, chosen, 1)
        first = int(step.emitted[0])
        second = step.emitted[1] if int(step.accepted) else (laws[1 + first] + noise[1]).argmax()
        counts[first, int(second)] += 1
    return counts


VOCAB = 4
PARENTS = torch.tensor([0, 0, 0])
TREE = Tree(
    torch.tensor([9, 1, 2]), PARENTS, torch.tensor([0, 1, 1]), ancestors_of(PARENTS, 1), torch.ones(3, dtype=torch.bool)
)
LAWS = torch.log_softmax(1.5 * torch.randn(VOCAB + 1, VOCAB, generator=torch.Generator().manual_seed(2)), dim=-1)
JOINT = (LAWS[0].exp()[:, None] * LAWS[1:].exp()).double()


def test_two_tokens_through_the_walk_follow_the_targets_joint_law() -> None:
    """G-test, 15 degrees of freedom: above 60.0 has odds of 2e-7 by chance (the seed is fixed)."""
    assert _g_statistic(_two_tokens(LAWS, TREE, 6000), JOINT) < 60


@pytest.mark.parametrize("mutant", ["noise used twice", "child followed without comparing"])
def test_mutants_of_the_walk_are_caught(mutant: str) -> None:
    assert _g_statistic(_two_tokens(LAWS, TREE, 6000, mutant=mutant), JOINT) > 200
