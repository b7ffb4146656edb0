"""Sampled text follows the target's law, and is plain decoding's: through the walk, and through the whole engine.

Every seed is fixed, so the tests give the same answer each time; the odds stated are those of a correct program failing
if the seeds were drawn anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.decoding.tree import Tree, ancestors_of
from frspec_cli.decoding.walk import Walk, best, scores, walk
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.target import Target
from tests.tiny import tiny_config, tiny_target

SAMPLING = Sampling(temperature=0.7, top_k=9, top_p=0.97)
ONE_IN_A_MILLION, HOPELESS = 4.753, 12.0
"""Standard normal quantiles: the first is passed by chance with odds of 1e-6, the second with less than 1e-30."""


def _excess(counts: torch.Tensor, law: torch.Tensor) -> float:
    """G-test of counts against a law, as a standard normal deviate (Wilson and Hilferty's cube root).

    Cells expected fewer than five times are pooled into one; a cell of probability 0 that was met is infinitely bad.
    """
    counts, expected = counts.double().flatten(), law.double().flatten() * counts.sum()
    if counts[expected == 0].any():
        return float("inf")
    small = expected < 5
    counts = torch.cat((counts[~small], counts[small].sum()[None]))
    expected = torch.cat((expected[~small], expected[small].sum()[None]))
    met = counts > 0
    statistic = 2 * float((counts[met] * (counts[met] / expected[met]).log()).sum())
    freedom = int((expected > 0).sum()) - 1
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5


def test_the_g_test_is_calibrated() -> None:
    """200 samples of the law itself: mean 0 and variance 1 within six standard errors (odds below 1e-8)."""
    law = torch.softmax(torch.randn(300, generator=torch.Generator().manual_seed(1)), dim=0)
    generator = torch.Generator().manual_seed(2)
    found = torch.tensor(
        [
            _excess(law.multinomial(20_000, replacement=True, generator=generator).bincount(minlength=300), law)
            for _ in range(200)
        ]
    )
    assert abs(found.mean()) < 6 / 200**0.5
    assert abs(found.var() - 1) < 6 * (2 / 200) ** 0.5


# The walk, over a batch of noise: 200,000 draws of three tokens, V = 16, laws that depend on the whole prefix.

VOCAB, DRAWS, DEPTH = 16, 200_000, 2
RAW = [torch.randn(*[VOCAB] * size, generator=torch.Generator().manual_seed(size)) for size in (1, 2, 3)]
FIRST, SECOND, THIRD = RAW[0].topk(3).indices.tolist()
PATHS = [(), (FIRST,), (SECOND,), (THIRD,)]  # the tree's nodes: likely tokens, so that runs of every length occur
PATHS += [(FIRST, token) for token in RAW[1][FIRST].topk(2).indices.tolist()] + [(SECOND, int(RAW[1][SECOND].argmax()))]
PARENTS = torch.tensor([0, 0, 0, 0, 1, 1, 2])
LEVELS = torch.tensor([len(path) for path in PATHS])
TREE = Tree(
    tokens=torch.tensor([0, *(path[-1] for path in PATHS[1:])]),
    parents=PARENTS,
    levels=LEVELS,
    ancestors=ancestors_of(PARENTS, DEPTH),
    valid=torch.ones(len(PATHS), dtype=torch.bool),
)


def _warped(logits: torch.Tensor) -> torch.Tensor:
    flat = logits.reshape(-1, VOCAB)
    for warper in SAMPLING.warpers():
        flat = warper(None, flat)
    return flat.reshape(logits.shape)


LOGITS = [_warped(table) for table in RAW]
"""[V], [V, V] and [V, V, V]: the processed logits of the first, second and third token, behind those before them."""
JOINT = LOGITS[0].softmax(-1)[:, None, None] * LOGITS[1].softmax(-1)[:, :, None] * LOGITS[2].softmax(-1)
AT_NODES = torch.stack([LOGITS[len(path)][path] for path in PATHS])
RAW_AT_NODES = torch.stack([RAW[len(path)][path] for path in PATHS])


def _honest(noise: torch.Tensor) -> Walk:
    return walk(TREE, best(scores(AT_NODES, noise, LEVELS)), DEPTH)


def _noise(seed: int = 5) -> torch.Tensor:
    """[DRAWS, DEPTH + 1, V]."""
    draw = torch.empty(DRAWS, DEPTH + 1, VOCAB).exponential_(generator=torch.Generator().manual_seed(seed))
    return -draw.log()


def _three_tokens(noise: torch.Tensor, step: Callable[[torch.Tensor], Walk] = _honest) -> torch.Tensor:
    """int64 [DRAWS, 3]: what the walk emits, and where it ends early, what the next cycle would choose."""
    _, emitted, accepted = torch.vmap(step)(noise)
    first = emitted[:, 0]
    second = torch.where(accepted >= 1, emitted[:, 1], best(LOGITS[1][first] + noise[:, 1]))
    third = torch.where(accepted >= 2, emitted[:, 2], best(LOGITS[2][first, second] + noise[:, 2]))
    return torch.stack((first, second, third), dim=1)


def _counts(tokens: torch.Tensor) -> torch.Tensor:
    index = (tokens[:, 0] * VOCAB + tokens[:, 1]) * VOCAB + tokens[:, 2]
    return index.bincount(minlength=VOCAB**3)


def _plain(noise: torch.Tensor) -> torch.Tensor:
    first = best(LOGITS[0] + noise[:, 0])
    second = best(LOGITS[1][first] + noise[:, 1])
    return torch.stack((first, second, best(LOGITS[2][first, second] + noise[:, 2])), dim=1)


def test_the_walk_samples_the_targets_law() -> None:
    """G-test on the joint of three tokens, odds 1e-6; runs of every length occur; and the ids are plain decoding's."""
    noise = _noise()
    lengths = torch.vmap(_honest)(noise).accepted.bincount(minlength=DEPTH + 1)
    assert (lengths > DRAWS / 50).all()
    tokens = _three_tokens(noise)
    assert _excess(_counts(tokens), JOINT) < ONE_IN_A_MILLION
    assert torch.equal(tokens, _plain(noise))


@pytest.mark.parametrize("length", range(DEPTH + 1))
def test_the_last_token_of_a_run_follows_its_own_law(length: int) -> None:
    """Where `length` drafts were accepted, the bonus is the target's law without the children; odds 3e-6 in all."""
    outcome = torch.vmap(_honest)(_noise(6))
    seen = outcome.accepted == length
    found, expected = [], []
    for node in (length == LEVELS).nonzero()[:, 0].tolist():
        here = seen & (outcome.path[:, length] == node)
        law = AT_NODES[node].softmax(-1)
        law[[int(TREE.tokens[child]) for child in range(1, TREE.nodes) if int(PARENTS[child]) == node]] = 0
        found.append(outcome.emitted[here, length].bincount(minlength=VOCAB))
        expected.append(law / law.sum() * here.sum() / seen.sum())
    assert _excess(torch.cat(found), torch.cat(expected)) < ONE_IN_A_MILLION


def _child_without_comparing(noise: torch.Tensor) -> Walk:
    chosen = best(scores(AT_NODES, noise, LEVELS))
    return walk(TREE, torch.where(torch.arange(TREE.nodes) == 0, TREE.tokens[1], chosen), DEPTH)


def _noise_used_twice(noise: torch.Tensor) -> Walk:
    return walk(TREE, best(scores(AT_NODES, noise, LEVELS.clamp(max=0))), DEPTH)


def _unprocessed(noise: torch.Tensor) -> Walk:
    return walk(TREE, best(scores(RAW_AT_NODES, noise, LEVELS)), DEPTH)


def _with_bonus(outcome: Walk, bonus: torch.Tensor) -> Walk:
    last = (torch.arange(DEPTH + 1) == outcome.accepted) & (outcome.accepted > 0)
    return outcome._replace(emitted=torch.where(last, bonus, outcome.emitted))


def _bonus_of_the_parent(noise: torch.Tensor) -> Walk:
    chosen = best(scores(AT_NODES[PARENTS], noise, LEVELS))
    return _with_bonus(_honest(noise), chosen[_honest(noise).path])


def _bonus_of_the_draft(noise: torch.Tensor) -> Walk:
    """The draft's own likeliest token in place of the target's draw."""
    outcome = _honest(noise)
    return _with_bonus(outcome, best(AT_NODES)[outcome.path])


MUTANTS = [_child_without_comparing, _noise_used_twice, _unprocessed, _bonus_of_the_parent, _bonus_of_the_draft]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__.strip("_"))
def test_mutants_break_the_law_and_the_identity(mutant: Callable[[torch.Tensor], Walk]) -> None:
    noise = _noise()
    tokens = _three_tokens(noise, mutant)
    assert _excess(_counts(tokens), JOINT) > HOPELESS
    assert not torch.equal(tokens, _plain(noise))


def test_noise_by_node_keeps_the_law_but_not_the_ids() -> None:
    """No test of the law can see this mutant, as each emitted token still has fresh noise: the identity does."""
    noise = _noise()
    of_nodes = torch.cat((noise[:, :1], _noise(9)[:, :1], noise[:, 1:], _noise(7)), dim=1)  # a row for each node

    def by_node(rows: torch.Tensor) -> Walk:
        return walk(TREE, best(AT_NODES + rows), DEPTH)

    _, emitted, accepted = torch.vmap(by_node)(of_nodes)
    assert _excess(emitted[:, 0].bincount(minlength=VOCAB), LOGITS[0].softmax(-1)) < ONE_IN_A_MILLION
    longer = accepted >= 1
    assert not torch.equal(emitted[longer, 1], _plain(noise)[longer, 1])


# The engine, over seeds.

PROMPT = [3, 5, 1]


def _small(vocab: int) -> tuple[Target, EagleDrafter]:
    """A target of one layer, and an untrained head whose trees are wide enough to be accepted by chance."""
    config = tiny_config(vocab_size=vocab, num_hidden_layers=1, hidden_size=16, initializer_range=0.2)
    target = tiny_target(config=config)
    torch.manual_seed(2)
    head = EagleHead(head_config_for(config, taps=(0,)), embedding_weight=target.embedding)
    rows = target.lm_head.rows(torch.arange(1, vocab))
    return target, EagleDrafter(head.to(target.dtype).eval().requires_grad_(False), rows, TreeConfig(2, 4, 14))


@pytest.mark.parametrize("seeds", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_seeds_ids_are_plain_decodings(seeds: int) -> None:
    target, drafter = _small(24)
    plain, drafted = Engine(target), Engine(target, drafter)
    accepted = cycles = 0
    for seed in range(seeds):
        options = Sampling(temperature=1.1, top_k=(0, 12)[seed % 2], top_p=(1.0, 0.9)[seed // 2 % 2], seed=seed)
        expected = plain.complete(PROMPT, max_new_tokens=12, sampling=options, ignore_eos=True)
        found = drafted.complete(PROMPT, max_new_tokens=12, sampling=options, ignore_eos=True)
        assert found.token_ids == expected.token_ids, options
        accepted, cycles = accepted + sum(found.accepted), cycles + found.cycles
    assert 0 < accepted < drafter.depth * cycles


def _joint_of_three(target: Target) -> torch.Tensor:
    """[V, V, V]: the processed law of the first three tokens after `PROMPT`, by plain passes of the model."""
    vocab, tables = target.rows, []
    for size in range(3):
        prefixes = torch.tensor([[*PROMPT, *path] for path in itertools.product(range(vocab), repeat=size)])
        logits = target.model(input_ids=prefixes).logits[:, -1]
        for warper in SAMPLING.warpers():
            logits = warper(None, logits)
        tables.append(logits.softmax(-1).reshape([vocab] * (size + 1)))
    return tables[0][:, None, None] * tables[1][:, :, None] * tables[2]


@pytest.mark.slow
def test_the_engine_samples_the_targets_law() -> None:
    """10,000 seeds, V = 12, the joint of three tokens (the second and third through trees): odds 1e-6."""
    target, drafter = _small(12)
    engine, draws, accepted = Engine(target, drafter), 10_000, 0
    counts = torch.zeros(12, 12, 12)
    for seed in range(draws):
        options = Sampling(SAMPLING.temperature, SAMPLING.top_k, SAMPLING.top_p, seed=seed)
        found = engine.complete(PROMPT, max_new_tokens=3, sampling=options, ignore_eos=True)
        counts[tuple(found.token_ids)] += 1
        accepted += sum(found.accepted)
    assert accepted > draws / 5
    assert _excess(counts, _joint_of_three(target)) < ONE_IN_A_MILLION
