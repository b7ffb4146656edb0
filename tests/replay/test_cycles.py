"""A replay is the engine, cycle by cycle; and each cycle's end is booked as a tree grown by hand says."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import numpy as np
import pytest
import torch

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import target_states
from frspec_cli.decoding.context_slots import ContextSlots
from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig, TreePrices
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import lm_head_of
from frspec_cli.replay.cycles import MISSES, Acceptance, replay
from frspec_cli.replay.grid import replay_grid
from frspec_cli.replay.slots import TextSlots
from frspec_cli.training.init_head import start_head
from tests.tiny import tiny_config, tiny_target

SHAPES = [TreeConfig(3, 2, 5), TreeConfig(4, 1, 5), TreeConfig(3, 3, 100), TreeConfig(1, 4, 4), TreeConfig(5, 4, 16)]
SHAPES += [TreeConfig(4, 3, 12, prices=TreePrices(row, level)) for row, level in ((0.02, 0.1), (0.05, 0.4), (0, 0.6))]


def make_head(config, embedding, *, taps=(1, 2), scale=0.2, seed=5):
    head = EagleHead(head_config_for(config, taps=taps), embedding_weight=embedding).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in head.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)
    return head.requires_grad_(False)


def greedy(target, prompt, count):
    text = Engine(target).complete(prompt, max_new_tokens=count, ignore_eos=True).token_ids
    return Answer(np.asarray([*prompt, *text]), len(prompt), finished=False, greedy=True)


@pytest.fixture(scope="module")
def drafting():
    """A target of 97 tokens, and a head made from its last layer, good enough that drafts are accepted."""
    target = tiny_target(config=tiny_config(vocab_size=97, initializer_range=0.15))
    generator = torch.Generator().manual_seed(0)
    texts = [greedy(target, torch.randint(1, 97, (4,), generator=generator).tolist(), 40) for _ in range(24)]
    config = head_config_for(target.config, taps=(1, 2))
    head = start_head(target.model, config, texts, generator=generator, device="cpu")
    return target, head.double().requires_grad_(False)


def states_of(model, answers, taps=(1, 2)):
    found = dict(target_states(model, answers, layers=taps))
    return [(answer, found[index]) for index, answer in enumerate(answers)]


def draft_from_scratch(head, rows, answer, features, root, path):
    """(log-probabilities over rows, ids) after the tokens `path` drafted behind answered token number `root`."""
    place = answer.prompt_length - 1 + root
    ids = torch.from_numpy(answer.ids)
    tokens = torch.cat((ids[1 : place + 2], torch.tensor(path, dtype=torch.int64)))[None]
    states = head.fuse(features.last[None, : place + 1], tuple(tap[None, : place + 1] for tap in features.taps))
    for length in range(place + 1, tokens.shape[1] + 1):
        mask = torch.full((length, length), torch.finfo(states.dtype).min, dtype=states.dtype).triu(1)
        hidden = head(head.embed(tokens[:, :length]), states, torch.arange(length)[None], mask[None, None])
        states = torch.cat((states, hidden[:, -1:]), 1)
    return rows(head.lm_input(hidden[0, -1])).log_softmax(-1)


def by_hand(head, rows, answer, features, root, shape):
    """(accepted, miss) of one cycle: every path scored from scratch."""
    beam = shape.beam

    def children(path, score):
        best = draft_from_scratch(head, rows, answer, features, root, path).topk(beam)
        ids = rows.to_token_ids(best.indices).tolist()
        return [((*path, i), score + s) for i, s in zip(ids, best.values.tolist(), strict=True)]

    row, level = (0.0, 0.0) if shape.prices is None else (shape.prices.row, shape.prices.level)
    frontier = children((), 0.0)
    pool, levels = list(frontier), 1
    for _ in range(1, shape.depth):
        if sum(max(0.0, exp(score) - row) for _, score in frontier) < level:
            break
        grown = [child for path, score in frontier for child in children(path, score)]
        pool += grown
        frontier = sorted(grown, key=lambda item: -item[1])[:beam]
        levels += 1
    kept = {path for path, score in sorted(pool, key=lambda item: -item[1])[: shape.nodes - 1] if exp(score) >= row}
    following = answer.ids[answer.prompt_length + root + 1 :].tolist()
    accepted = 0
    while accepted < min(levels, len(following)) and tuple(following[: accepted + 1]) in kept:
        accepted += 1
    if accepted == shape.depth:
        return accepted, "depth"
    if accepted == len(following):
        return accepted, "end"
    if accepted == levels:
        return accepted, "depth"
    if tuple(following[: accepted + 1]) in {path for path, _ in pool}:
        return accepted, "rerank"
    inside = rows.ids is None or following[accepted] in rows.ids.tolist()
    return accepted, "beam" if inside else "outside"


@pytest.mark.parametrize("shape", [*SHAPES[:3], *SHAPES[-3:-1]])
def test_a_cycle_and_its_end_are_those_of_a_tree_by_hand(target64, answers, shape):
    """From every token of three answers: the answer is cut there, and its first cycle is looked at."""
    head = make_head(target64.config, target64.get_input_embeddings().weight)
    rows = lm_head_of(target64).rows(torch.arange(0, 97, 3))
    seen = set()
    for answer, states in states_of(target64, [answers[10], answers[11], answers[20]]):
        roots = range(answer.queries)
        starts = [replace(answer, prompt_length=answer.prompt_length + root, finished=True) for root in roots]
        found = replay(head, rows, [(start, states) for start in starts], tree=shape)
        with torch.no_grad():
            expected = [by_hand(head, rows, answer, states, root, shape) for root in roots]
        assert [(each.accepted[0], each.misses[0]) for each in found] == expected
        seen |= {miss for _, miss in expected}
    assert {"outside", "beam"} <= seen


def test_every_way_of_missing_is_told_apart(drafting):
    """Over a few shapes every reason occurs, and they are the tree's by hand."""
    target, head = drafting
    rows = target.lm_head.rows(torch.arange(0, 97, 2))
    seen = set()
    for shape in (TreeConfig(2, 3, 4), TreeConfig(1, 12, 8), TreeConfig(2, 5, 20)):
        for prompt in ([5, 17, 20, 11], [3, 9]):
            answer = replace(greedy(target, prompt, 24), finished=True)
            [(_, states)] = states_of(target.model, [answer])
            [found] = replay(head, rows, [(answer, states)], tree=shape)
            with torch.no_grad():
                expected = [by_hand(head, rows, answer, states, root, shape) for root in found.roots]
            assert list(zip(found.accepted, found.misses, strict=True)) == expected
            seen |= set(found.misses)
    assert seen == set(MISSES)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("subset", [False, True])
def test_replayed_cycles_are_the_engines(drafting, shape, subset):
    """Greedy, float64, three prompts of unequal length replayed at once: accepted tokens are equal cycle by cycle."""
    target, head = drafting
    rows = target.lm_head.rows(torch.arange(0, 97, 2)) if subset else target.lm_head
    engine = Engine(target, EagleDrafter(head, rows, shape))
    prompts = [[5, 17, 20, 11], [3, 9], [7, 7, 9, 1, 22, 23, 4, 8, 15, 16, 2, 3, 90]]
    new, made, expected = 40, [], []
    for prompt in prompts:
        made.append(greedy(target, prompt, new + shape.depth + 1))
        expected.append(engine.complete(prompt, max_new_tokens=new, ignore_eos=True).accepted)
    found = replay(head, rows, states_of(target.model, made), tree=shape, new_tokens=new)
    assert [each.accepted for each in found] == expected
    assert sum(map(sum, expected)) > 0
    for each in found:
        steps = [count + 1 for count in each.accepted]
        assert each.roots == [sum(steps[:index]) for index in range(len(steps))]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_replayed_context_slots_are_the_engines(drafting, count):
    """Float64, prompts of unequal length at once: with slots that overflow and with some for every token of the text."""
    target, head = drafting
    rows, shape = target.lm_head.rows(torch.arange(0, 97, 3)), TreeConfig(4, 3, 10)
    engine = Engine(target, EagleDrafter(head, rows, shape, slots=ContextSlots(rows, target.lm_head, count)))
    prompts = [[5, 17, 20, 11], [3, 9], [7, 7, 9, 1, 22, 23, 4, 8, 15, 16, 2, 3, 90]]
    made = [greedy(target, prompt, 60 - 12 * i) for i, prompt in enumerate(prompts)]
    news = [each.response_length - shape.depth - 1 for each in made]
    expected = [
        engine.complete(prompt, max_new_tokens=new, ignore_eos=True).accepted
        for prompt, new in zip(prompts, news, strict=True)
    ]
    found = replay(
        head, rows, states_of(target.model, made), tree=shape, slots=TextSlots(rows, target.lm_head, count, made)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.accepted[: len(theirs)] == theirs
    without = replay(head, rows, states_of(target.model, made), tree=shape)
    outside = [sum(each.misses.count("outside") for each in some) for some in (found, without)]
    assert outside[0] < outside[1]
    assert Acceptance.of(found).length > Acceptance.of(without).length


def test_a_miss_is_outside_only_of_what_the_slots_hold_then(drafting):
    """One slot, and a text that comes back to a token after another took the slot: it is outside again."""
    target, _ = drafting
    rows = target.lm_head.rows(torch.arange(40))
    answer = Answer(np.asarray([50, 51, 50, 51, 52]), 2, finished=True, greedy=True)
    slots = TextSlots(rows, target.lm_head, 1, [answer])
    assert slots.lm_head.ids.tolist() == [*range(40), 50, 51, 52]
    for end, held in ((2, [51]), (3, [50]), (5, [52])):
        slots.advance({0: end})
        slots.show([0])
        assert slots.lm_head.ids[slots.unused_mask[0, 0] == 0].tolist() == [*range(40), *held]
    own = target.lm_head.restrict(torch.tensor([3, 51, 7]))
    assert TextSlots(own.restrict(torch.tensor([3])), own, 1, [answer]).lm_head.ids.tolist() == [3, 51]


def test_an_answer_that_ended_is_replayed_to_its_end():
    """The engine's last cycle may run past the end of sequence, where nothing is known; all before it are equal."""
    target = tiny_target(config=tiny_config(vocab_size=24))
    target.model.generation_config.eos_token_id = [0, 3, 6]
    head, shape = make_head(target.config, target.embedding, scale=0.1), TreeConfig(3, 4, 12)
    engine = Engine(target, EagleDrafter(head, target.lm_head, shape))
    ended = 0
    for first in range(8, 20):
        expected = engine.complete([first, 5], max_new_tokens=64)
        if expected.token_ids[-1] not in target.eos_ids or expected.new_tokens < 2:
            continue
        ended += 1
        answer = Answer(np.asarray([first, 5, *expected.token_ids]), 2, finished=True, greedy=True)
        [found] = replay(head, target.lm_head, states_of(target.model, [answer]), tree=shape)
        assert found.accepted[:-1] == expected.accepted[:-1]
        assert found.accepted[-1] <= expected.accepted[-1]
        assert len(found.accepted) == len(expected.accepted)
    assert ended >= 3


def test_a_drafted_answer_is_accepted_to_the_full_depth(target64, answers):
    """An answer written by the draft itself is accepted whole; the root and what lies past the end is not counted."""
    head, first, shape = (
        make_head(target64.config, target64.get_input_embeddings().weight, taps=()),
        answers[3],
        TreeConfig(3, 1, 4),
    )
    rows = lm_head_of(target64)
    [(_, states)] = states_of(target64, [first], taps=())
    path: tuple[int, ...] = ()
    with torch.no_grad():
        for _ in range(3):
            path = (*path, int(draft_from_scratch(head, rows, first, states, 0, path).argmax()))
    ids = np.concatenate((first.ids[: first.prompt_length + 1], path))
    written = Answer(ids, first.prompt_length, finished=False, greedy=True)
    [(_, states)] = states_of(target64, [written], taps=())
    assert Acceptance.of(replay(head, rows, [(written, states)], tree=shape)).length == 4.0
    longer = TreeConfig(4, 1, 5)
    assert (
        Acceptance.of(replay(head, rows, [(written, states)], tree=longer)).cycles == 0
    )  # the fourth token is not known
    assert replay(head, rows, [(replace(written, finished=True), states)], tree=longer)[0].misses == ["end"]


@pytest.mark.parametrize("new_tokens", [None, 12])
def test_a_grid_of_trees_is_each_tree_replayed_alone(drafting, new_tokens) -> None:
    """24 answers, one of them finished, one cut short: every depth and number of nodes of a beam, cycle for cycle."""
    target, head = drafting
    generator = torch.Generator().manual_seed(3)
    answers = [
        greedy(target, torch.randint(1, 97, (3 + i % 4,), generator=generator).tolist(), 30 - i % 5) for i in range(12)
    ]
    answers[1] = replace(answers[1], finished=True)
    answers[2] = replace(answers[2], ids=answers[2].ids[: answers[2].prompt_length + 4])
    texts = states_of(target.model, answers)
    for beam, rows in ((1, lm_head_of(target.model)), (3, lm_head_of(target.model).rows(torch.arange(20, 80)))):
        grid = replay_grid(
            head, rows, texts, beam=beam, depths=(1, 2, 4), nodes=(2, 3, 5, 9, 40), new_tokens=new_tokens
        )
        sizes = {1: [(1, 2), (2, 2), (2, 3), (4, 2), (4, 3), (4, 5)]}.get(
            beam,
            [(1, 2), (1, 3), (2, 2), (2, 3), (2, 5), (2, 9), (4, 2), (4, 3), (4, 5), (4, 9)],
        )
        assert [(tree.depth, tree.nodes) for tree in grid] == sizes
        assert any(each.total.accepted for each in grid.values())
        for tree, found in grid.items():
            alone = replay(head, rows, texts, tree=tree, new_tokens=new_tokens)
            assert found.cycles == [len(each.accepted) for each in alone], tree
            assert found.accepted == [sum(each.accepted) for each in alone], tree
            assert found.total == Acceptance.of(alone)
