"""What is attended to is what the text has reached, however long it may become."""

from __future__ import annotations

import pytest
import torch

from frspec_cli.decoding.cache import SlotLayer, attended, bucket, cache_length, round_up
from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.target import Target
from tests.tiny import tiny_config, tiny_target

PROMPT = [5, 17, 20, 31, 8] * 7
SHAPE = TreeConfig(3, 2, 7)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(config=tiny_config(vocab_size=40, max_position_embeddings=8192))


def _engine(target: Target) -> Engine:
    torch.manual_seed(2)
    head = EagleHead(head_config_for(target.config, taps=(1,)), embedding_weight=target.embedding)
    return Engine(target, EagleDrafter(head.to(target.dtype).eval().requires_grad_(False), target.lm_head, SHAPE))


@pytest.fixture
def seen(monkeypatch) -> list[tuple[int, int, int]]:
    """Of every call of attention: the cache's length, and of it the first and last slot that is attended."""
    calls: list[tuple[int, int, int]] = []
    update = SlotLayer.update

    def recording(layer: SlotLayer, *arguments, **keywords):
        found = update(layer, *arguments, **keywords)
        calls.append((layer.buffer.length, layer.buffer.begin, layer.buffer.end))
        assert found[0].shape[2] == layer.buffer.end - layer.buffer.begin
        return found

    monkeypatch.setattr(SlotLayer, "update", recording)
    return calls


def test_a_limit_of_4096_tokens_reads_what_a_limit_of_64_reads(target: Target, seen) -> None:
    """The first 64 tokens, by target and draft: same ids, same slots, in a cache that is many times as long."""
    texts, slots, lengths = [], [], []
    for limit in (64, 4096):
        seen.clear()
        ids: list[int] = []
        for cycle in _engine(target).generate(PROMPT, max_new_tokens=limit, ignore_eos=True):
            ids += cycle.tokens
            if len(ids) >= 60:
                break
        texts.append(ids[:60])
        slots.append([call[1:] for call in seen])
        lengths.append(max(call[0] for call in seen))
    assert texts[0] == texts[1]
    assert slots[0] == slots[1]
    assert lengths[0] < 300
    assert lengths[1] > 4096


def test_at_most_31_slots_are_read_in_vain(target: Target, seen) -> None:
    engine, rows = _engine(target), SHAPE.beam * (SHAPE.depth - 1)
    text = list(PROMPT)
    for cycle in engine.generate(PROMPT, max_new_tokens=70, ignore_eos=True):
        for _, begin, end in seen:
            assert begin <= round_up(rows, 16)
            assert end - round_up(rows, 16) <= len(text) + engine.rows + 31
        seen.clear()
        text += cycle.tokens


def test_a_cache_serves_all_shorter_texts(target: Target) -> None:
    engine = _engine(target)
    first = engine.complete(PROMPT, max_new_tokens=300, ignore_eos=True)
    workspace, cache = engine.workspace(0), engine.drafter.cache
    assert engine.complete(PROMPT, max_new_tokens=30, ignore_eos=True).token_ids == first.token_ids[:30]
    assert (engine.workspace(0), engine.drafter.cache) == (workspace, cache)
    engine.complete(PROMPT, max_new_tokens=900, ignore_eos=True)
    assert engine.workspace(0) is not workspace


def test_buckets_double() -> None:
    sizes = [1, 511, 512, 513, 1024, 1025, 8192, 8193]
    assert [bucket(size) for size in sizes] == [512, 512, 512, 1024, 1024, 2048, 8192, 16384]
    assert [attended(size, compiled=False) for size in (1, 32, 33)] == [32, 32, 64]
    assert attended(600, compiled=True) == cache_length(600, compiled=True) == 1024
    assert cache_length(600) == 768
