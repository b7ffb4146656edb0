"""`verify` finds what it should: nothing on an honest engine, and planted mistakes of every kind."""

from __future__ import annotations

import pytest
import torch

from frspec_cli.bench.verify import Plan, report, verify
from frspec_cli.decoding import drafters, engine
from frspec_cli.decoding.session import Parts
from frspec_cli.decoding.tree import Shape
from frspec_cli.decoding.walk import Walk, walk
from frspec_cli.drafting.config import head_config_for
from frspec_cli.drafting.head import EagleHead
from tests.tiny import tiny_config, tiny_target

PROMPTS = [[5, 17, 20], [9, 9, 3, 1, 30], [2]]
PLAN = Plan(method="eagle", shape=Shape(4, 3, 12), max_new_tokens=30, stepwise=2, sampled=2)


def load(dtype: str) -> Parts:
    """A tiny target and a random head in the dtype that is asked for."""
    target = tiny_target(dtype=getattr(torch, dtype), config=tiny_config(vocab_size=40))
    torch.manual_seed(2)
    head = EagleHead(head_config_for(target.config, taps=(1, 2)), embedding_weight=target.embedding)
    return Parts(target=target, head=head.to(target.dtype).eval().requires_grad_(False))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_an_honest_engine_passes(dtype: str) -> None:
    found = report(verify(load, dtype, PROMPTS, PLAN))
    assert found["passed"]
    assert found["prompts"] == 3
    if dtype != "bfloat16":
        assert found["identical"] == 3
        assert found["sampling"] == {"prompts": 2, "identical": 2, "differences": []}
    assert sum(check["accepted"] for check in found["checks"]) > 0


def test_reduced_precision_brings_the_float32_rule_along() -> None:
    names = [check["name"] for check in report(verify(load, "bfloat16", PROMPTS, PLAN))["checks"]]
    assert names == ["greedy, bfloat16", "greedy, re-scored", "greedy, step by step", "seeded sampling"]


def _accept_one_too_many(tree, chosen, depth):
    step = walk(tree, chosen, depth)
    child = int(torch.where(tree.parents == step.path[step.accepted], torch.arange(tree.nodes), 0).max())
    if child == 0 or int(step.accepted) == depth:
        return step
    path, emitted = step.path.clone(), step.emitted.clone()
    at = int(step.accepted) + 1
    path[at], emitted[at - 1], emitted[at] = child, tree.tokens[child], chosen[child]
    return Walk(path=path, emitted=emitted, accepted=step.accepted + 1)


def _bonus_from_the_parent(tree, chosen, depth):
    step = walk(tree, chosen, depth)
    emitted = step.emitted.clone()
    if int(step.accepted):
        emitted[step.accepted] = emitted[step.accepted - 1]
    return Walk(path=step.path, emitted=emitted, accepted=step.accepted)


@pytest.mark.parametrize("mutant", [_accept_one_too_many, _bonus_from_the_parent])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_wrong_walk_is_found(mutant, dtype: str, monkeypatch) -> None:
    monkeypatch.setattr(engine, "walk", mutant)
    found = report(verify(load, dtype, PROMPTS, PLAN))
    assert not found["passed"]
    assert any(not each["explained"] for each in found["differences"])


def test_noise_by_node_instead_of_position_is_found(monkeypatch) -> None:
    """The law would stay right, but the same seed would give other ids than plain decoding."""
    honest = engine.scores

    def by_node(logits, noise, levels):
        rows = levels if noise is None or len(levels) == 1 else torch.arange(len(levels)).flip(0) % len(noise)
        return honest(logits, noise, rows)

    monkeypatch.setattr(engine, "scores", by_node)
    found = report(verify(load, "float64", PROMPTS, PLAN))
    assert not found["passed"]
    assert found["sampling"]["identical"] < 2


def test_a_padded_reference_is_plain_decoding() -> None:
    target = load("float64").target
    plain = engine.Engine(target).complete(PROMPTS[0], max_new_tokens=20)
    padded = engine.Engine(target, drafters.PaddedDrafter(12)).complete(PROMPTS[0], max_new_tokens=20)
    assert padded.token_ids == plain.token_ids
    assert padded.accepted == [0] * 19
