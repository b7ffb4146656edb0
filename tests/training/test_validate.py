"""The replay of all positions at once equals a tree grown and walked by hand, one position at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frspec_cli.drafting.config import head_config_for
from frspec_cli.drafting.head import EagleHead
from frspec_cli.models.lm_head import lm_head_of
from frspec_cli.training.answers import Answer
from frspec_cli.training.features import FeatureStore
from frspec_cli.training.start import start_head
from frspec_cli.training.validate import TreeShape, accepted_by_position, replay


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


def accepted_by_hand(head, rows, answer, features, root, shape):
    beam = shape.beam

    def children(path, score):
        best = draft_from_scratch(head, rows, answer, features, root, path).topk(beam)
        ids = rows.to_token_ids(best.indices).tolist()
        return [((*path, i), score + s) for i, s in zip(ids, best.values.tolist(), strict=True)]

    frontier = children((), 0.0)
    pool = list(frontier)
    for _ in range(1, shape.depth):
        grown = [child for path, score in frontier for child in children(path, score)]
        pool += grown
        frontier = sorted(grown, key=lambda item: -item[1])[:beam]
    kept = {path for path, _ in sorted(pool, key=lambda item: -item[1])[: shape.nodes - 1]}
    following = answer.ids[answer.prompt_length + root + 1 :].tolist()
    accepted = 0
    while accepted < min(shape.depth, len(following)) and tuple(following[: accepted + 1]) in kept:
        accepted += 1
    return accepted


@pytest.mark.parametrize("shape", [TreeShape(3, 2, 5), TreeShape(4, 1, 5), TreeShape(3, 3, 100)])
def test_replay_equals_the_tree_by_hand(target64, answers, tmp_path, shape):
    chosen = [answers[10], answers[11], answers[20]]
    store = FeatureStore(target64, chosen, taps=(1, 2), folder=tmp_path, identity="tiny")
    head = start_head(
        target64,
        head_config_for(target64.config, taps=(1, 2)),
        answers,
        generator=torch.Generator().manual_seed(0),
        device="cpu",
    )
    head = EagleHead(head.config, embedding_weight=target64.get_input_embeddings().weight).double()
    generator = torch.Generator().manual_seed(5)
    for parameter in head.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.2)
    rows = lm_head_of(target64).rows(torch.arange(0, 97, 3))
    with torch.no_grad():
        for index, answer in enumerate(chosen):
            # The answer follows the draft for a while, so that something is accepted.
            found = accepted_by_position(head, rows, answer, store[index], shape=shape)
            by_hand = [accepted_by_hand(head, rows, answer, store[index], q, shape) for q in range(answer.queries)]
            assert found.tolist() == by_hand


def test_a_drafted_answer_is_accepted_to_the_full_depth(target64, answers, tmp_path):
    """An answer written by the draft itself is accepted whole; the root and what lies past the end is not counted."""
    head = EagleHead(
        head_config_for(target64.config, taps=()), embedding_weight=target64.get_input_embeddings().weight
    ).double()
    generator = torch.Generator().manual_seed(5)
    for parameter in head.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.2)
    rows, first = lm_head_of(target64), answers[3]
    shape = TreeShape(3, 1, 4)
    with torch.no_grad():
        store = FeatureStore(target64, [first], taps=(), folder=tmp_path / "a", identity="tiny")
        path: tuple[int, ...] = ()
        for _ in range(3):
            law = draft_from_scratch(head, rows, first, store[0], 0, path)
            path = (*path, int(law.argmax()))
        ids = np.concatenate((first.ids[: first.prompt_length + 1], path))
        written = Answer(ids, first.prompt_length, finished=False, greedy=True)
        store = FeatureStore(target64, [written], taps=(), folder=tmp_path / "b", identity="tiny")
        found = accepted_by_position(head, rows, written, store[0], shape=shape)
        assert found[0] == 3
        assert replay(head, rows, written, store[0], shape=shape).length == 4.0
