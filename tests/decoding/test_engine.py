"""The engine's promise: the same ids as plain decoding, whatever is drafted; and honest bookkeeping."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.lookup import LookupDrafter
from frspec_cli.decoding.options import TreeConfig, TreePrices
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import FrspecError
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.target import Target
from frspec_cli.verification.identity import differences, score
from tests.tiny import ScriptedDrafter, tiny_target

PROMPT = [5, 17, 200, 31, 8]
SAMPLING = Sampling(temperature=0.9, top_p=0.95, seed=3)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target()


@pytest.fixture(scope="module")
def plain(target: Target) -> list[int]:
    return Engine(target).complete(PROMPT, max_new_tokens=60, ignore_eos=True).token_ids


def _head(target: Target, *, taps: tuple[int, ...] = (1, 2)) -> EagleHead:
    torch.manual_seed(11)
    head = EagleHead(head_config_for(target.config, taps=taps), embedding_weight=target.embedding)
    return head.to(target.dtype).eval().requires_grad_(False)


def test_plain_decoding_equals_transformers(target: Target, plain: list[int]) -> None:
    expected = target.model.generate(
        torch.tensor([PROMPT]), max_new_tokens=60, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert plain == expected[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("sampling", [None, SAMPLING], ids=["greedy", "sampling"])
@pytest.mark.parametrize(("depth", "beam", "nodes"), [(1, 1, 2), (4, 1, 5), (3, 3, 9), (5, 4, 16)])
@pytest.mark.parametrize("k", [1, 7, 319, 320])
def test_eagle_drafts_never_change_the_ids(target: Target, sampling, depth: int, beam: int, nodes: int, k: int) -> None:
    rows = target.lm_head if k == 320 else target.lm_head.rows(torch.randperm(320)[:k])
    drafter = EagleDrafter(_head(target), rows, TreeConfig(depth=depth, beam=beam, nodes=nodes))
    drafted = Engine(target, drafter).complete(PROMPT, max_new_tokens=24, sampling=sampling)
    expected = Engine(target).complete(PROMPT, max_new_tokens=24, sampling=sampling)
    assert drafted.token_ids == expected.token_ids


@pytest.mark.parametrize("sampling", [None, SAMPLING], ids=["greedy", "sampling"])
@pytest.mark.parametrize("row", [0.0, 0.004, 0.02, 1.5])
def test_trees_sized_by_cost_never_change_the_ids(target: Target, sampling, row: float) -> None:
    """From all nodes of the tree to none: the rows that the target verifies are fewer, the text is the same."""
    drafter = EagleDrafter(_head(target), target.lm_head, TreeConfig(4, 3, 12, prices=TreePrices(row, 2 * row)))
    cycles = list(Engine(target, drafter).generate(PROMPT, max_new_tokens=24, sampling=sampling, ignore_eos=True))
    expected = Engine(target).complete(PROMPT, max_new_tokens=24, sampling=sampling, ignore_eos=True)
    assert [token for cycle in cycles for token in cycle.tokens] == expected.token_ids
    drafted = [cycle.drafted for cycle in cycles[1:]]
    assert [len(cycle.scores) - 1 for cycle in cycles[1:]] == drafted
    if row in (0.0, 1.5):
        assert set(drafted) == ({11} if row == 0 else {0})
    else:
        assert 0 < min(drafted) < max(drafted) < 11 or row == 0.004


@settings(max_examples=60, deadline=None)
@given(
    wrong=st.sets(st.integers(0, 70)),
    depth=st.integers(1, 6),
    beam=st.integers(1, 3),
    new=st.integers(1, 60),
)
def test_partial_acceptance_never_changes_the_ids(target, plain, wrong, depth, beam, new) -> None:
    drafter = ScriptedDrafter(plain, wrong=wrong, vocab=320, depth=depth, beam=beam, prompt=len(PROMPT))
    generation = Engine(target, drafter).complete(PROMPT, max_new_tokens=new, ignore_eos=True)
    assert generation.token_ids == plain[:new]
    assert generation.new_tokens == 1 + sum(generation.accepted) + generation.cycles - generation.truncated


def test_the_script_is_accepted_as_far_as_it_is_right(target: Target, plain: list[int]) -> None:
    """Depth 4, and every fifth token wrong: cycles accept 3, then the bonus repairs; and so on."""
    drafter = ScriptedDrafter(plain, wrong=set(range(4, 80, 5)), vocab=320, depth=4, beam=1, prompt=len(PROMPT))
    generation = Engine(target, drafter).complete(PROMPT, max_new_tokens=41, ignore_eos=True)
    assert generation.token_ids == plain[:41]
    assert generation.accepted[0] == 3
    assert 0 < sum(generation.accepted) < 4 * generation.cycles
    assert generation.acceptance_length == pytest.approx(1 + sum(generation.accepted) / generation.cycles)


def test_a_perfect_draft_is_accepted_whole(target: Target, plain: list[int]) -> None:
    drafter = ScriptedDrafter(plain, wrong=set(), vocab=320, depth=4, beam=2, prompt=len(PROMPT))
    generation = Engine(target, drafter).complete(PROMPT, max_new_tokens=41, ignore_eos=True)
    assert generation.accepted == [4] * 8


@pytest.mark.parametrize("place", range(12))
def test_nothing_is_emitted_past_eos(plain: list[int], place: int) -> None:
    """EOS at every place inside accepted runs: the text ends with it, in every method."""
    target = tiny_target()
    eos = plain[place]
    place = plain.index(eos)
    target.model.generation_config.eos_token_id = eos
    drafter = ScriptedDrafter(plain, wrong={6}, vocab=320, depth=5, beam=1, prompt=len(PROMPT))
    generation = Engine(target, drafter).complete(PROMPT, max_new_tokens=60)
    assert generation.token_ids == plain[: place + 1]
    assert Engine(target).complete(PROMPT, max_new_tokens=60).token_ids == plain[: place + 1]


def test_the_cache_after_every_cycle_is_a_fresh_prefill(target: Target, plain: list[int]) -> None:
    drafter = ScriptedDrafter(plain, wrong={3, 9, 10, 20}, vocab=320, depth=4, beam=2, prompt=len(PROMPT))
    engine = Engine(target, drafter)
    length = engine.cache_length(len(PROMPT), 30)
    state, _ = engine.prefill(PROMPT, length)
    tokens = [*PROMPT, int(state.root)]
    while len(tokens) < len(PROMPT) + 30:
        committed = int(state.committed)
        assert committed == len(tokens) - 1
        fresh, _ = Engine(target).prefill(tokens[:committed], length)
        rows, expected = (each.workspace.buffer.data[:, :, :, :committed] for each in (state, fresh))
        assert torch.allclose(rows, expected, atol=1e-12)
        state, done = engine.cycle(state)
        accepted, *emitted = done.outcome.tolist()
        tokens += emitted[: accepted + 1]
    assert tokens[len(PROMPT) :] == plain[: len(tokens) - len(PROMPT)]


def test_a_long_prompt_is_prefilled_in_chunks(target: Target, monkeypatch) -> None:
    prompt = [int(token) for token in torch.randint(0, 320, (130,), generator=torch.Generator().manual_seed(1))]
    whole = Engine(target, EagleDrafter(_head(target), target.lm_head, TreeConfig())).complete(
        prompt, max_new_tokens=12
    )
    monkeypatch.setattr("frspec_cli.decoding.engine.PREFILL_ROWS", 16)
    parts = Engine(target, EagleDrafter(_head(target), target.lm_head, TreeConfig())).complete(
        prompt, max_new_tokens=12
    )
    assert parts.token_ids == whole.token_ids
    assert parts.accepted == whole.accepted


def test_lookup_finds_repetitions_and_keeps_the_ids(target: Target, plain: list[int]) -> None:
    """The prompt holds the answer already, so what follows its last tokens is drafted from there and accepted."""
    prompt = PROMPT + plain[:40] + PROMPT
    expected = Engine(target).complete(prompt, max_new_tokens=40, ignore_eos=True)
    drafted = Engine(target, LookupDrafter(4)).complete(prompt, max_new_tokens=40, ignore_eos=True)
    assert drafted.token_ids == expected.token_ids
    assert sum(drafted.accepted) > 0


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("nodes", [2, 3, 4, 8])
def test_fewer_nodes_than_levels_stay_inside_the_cache(target: Target, depth: int, nodes: int) -> None:
    """At every distance from the end of a cache of 256 slots: the drafter's block of depth + 1 rows must fit too."""
    drafter = EagleDrafter(_head(target), target.lm_head, TreeConfig(depth, 3, nodes))
    engine = Engine(target, drafter)
    prompt = PROMPT * 46  # 230 tokens
    expected = Engine(target).complete(prompt, max_new_tokens=26, ignore_eos=True).token_ids
    for new in range(26 - depth - 1, 27):
        generation = engine.complete(prompt, max_new_tokens=new, ignore_eos=True)
        assert generation.token_ids == expected[:new]


def test_texts_of_two_engines_may_take_turns(target: Target) -> None:
    prompts = [PROMPT, PROMPT[::-1]]
    expected = [Engine(target).complete(prompt, max_new_tokens=20, ignore_eos=True).token_ids for prompt in prompts]
    engines = [Engine(target, EagleDrafter(_head(target), target.lm_head, TreeConfig())) for _ in prompts]
    running = [
        engine.generate(prompt, max_new_tokens=20, ignore_eos=True)
        for engine, prompt in zip(engines, prompts, strict=True)
    ]
    texts: list[list[int]] = [[], []]
    while any(len(text) < 20 for text in texts):
        for text, cycles in zip(texts, running, strict=True):
            cycle = next(cycles, None)
            text += cycle.tokens if cycle else []
    assert texts == expected


def test_an_engine_that_has_started_another_text_refuses_the_first(target: Target, plain: list[int]) -> None:
    """Its memory is the second text's now: the first must not continue with it, and the second is right."""
    engine = Engine(target, EagleDrafter(_head(target), target.lm_head, TreeConfig()))
    first = engine.generate(PROMPT[::-1], max_new_tokens=20, ignore_eos=True)
    next(first)
    second = engine.generate(PROMPT, max_new_tokens=20, ignore_eos=True)
    tokens = next(second).tokens
    with pytest.raises(FrspecError, match="started another text"):
        next(first)
    for cycle in second:
        tokens += cycle.tokens
    assert tokens == plain[:20]


def test_a_cycle_changes_no_state_but_makes_the_next(target: Target, plain: list[int]) -> None:
    """The same state twice gives the same outcome: a cycle writes only behind the state's committed rows."""
    engine = Engine(target, ScriptedDrafter(plain, wrong={6}, vocab=320, depth=4, beam=2, prompt=len(PROMPT)))
    state, _ = engine.prefill(PROMPT, 256)
    before = [int(each) for each in state[1:]]
    (one, first), (other, second) = engine.cycle(state), engine.cycle(state)
    assert [int(each) for each in state[1:]] == before
    assert torch.equal(first.outcome, second.outcome)
    assert [int(each) for each in one[1:]] == [int(each) for each in other[1:]]
    assert int(one.committed) == len(PROMPT) + int(first.valid)


def test_one_engine_serves_many_texts(target: Target) -> None:
    engine = Engine(target, EagleDrafter(_head(target), target.lm_head, TreeConfig()))
    first = engine.complete(PROMPT, max_new_tokens=20)
    engine.complete(PROMPT[::-1] * 60, max_new_tokens=20)
    again = engine.complete(PROMPT, max_new_tokens=20)
    assert (again.token_ids, again.accepted) == (first.token_ids, first.accepted)


@pytest.mark.parametrize("sampling", [None, SAMPLING], ids=["greedy", "sampling"])
def test_global_random_state_is_untouched(target: Target, sampling: Sampling | None) -> None:
    drafter = EagleDrafter(_head(target), target.lm_head, TreeConfig())

    def states() -> list[str]:
        _, key, place, *_ = numpy.random.get_state()
        return [str(torch.get_rng_state().tolist()), str((key.tolist(), place)), str(random.getstate())]

    before = states()
    Engine(target, drafter).complete(PROMPT, max_new_tokens=5, sampling=sampling)
    assert states() == before
    for leak in (lambda: torch.rand(1), lambda: numpy.random.rand(), random.random):
        leak()
        assert states() != before
        before = states()


def test_another_seed_gives_another_text(target: Target) -> None:
    texts = [
        Engine(target).complete(PROMPT, max_new_tokens=20, sampling=Sampling(temperature=1.5, seed=seed)).token_ids
        for seed in range(3)
    ]
    assert len({tuple(text) for text in texts}) == 3


def test_rescoring_proves_identity_and_finds_a_planted_error(target: Target, plain: list[int]) -> None:
    assert differences(score(target, PROMPT, plain), plain) == []
    planted = [*plain[:9], (plain[9] + 1) % 320, *plain[10:]]
    assert differences(score(target, PROMPT, planted), planted)[0].position == 9


def test_what_cannot_be_decoded_is_said(target: Target) -> None:
    engine = Engine(target)
    with pytest.raises(FrspecError, match="no tokens"):
        engine.complete([], max_new_tokens=5)
    with pytest.raises(FrspecError, match="token id 320, but the model has 320 rows"):
        engine.complete([7, 320], max_new_tokens=5)
    with pytest.raises(FrspecError, match="token id -3,"):
        engine.complete([7, -3], max_new_tokens=5)
    with pytest.raises(FrspecError, match="context of 512"):
        engine.complete([1] * 500, max_new_tokens=13)
