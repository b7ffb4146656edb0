"""Context slots draft what the subset cannot, change nothing when there are none, and never change the ids."""

from __future__ import annotations

import pytest
import torch

from frspec_cli.decoding.context_slots import ContextSlots
from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from tests.tiny import tiny_config, tiny_target

FULL = LmHead(torch.arange(20.0)[:, None].repeat(1, 2), torch.arange(20.0) * 10)


def _slots(count: int) -> ContextSlots:
    return ContextSlots(FULL.rows(torch.tensor([3, 1])), FULL, count)


def _open(slots: ContextSlots) -> dict[int, float]:
    """token -> bias of its row, for the slots that are in use."""
    return {
        int(slots.lm_head.ids[row]): float(slots.lm_head.bias[row])
        for row in range(slots.first, slots.lm_head.size)
        if slots.unused_mask[row] == 0
    }


def test_tokens_of_the_text_get_rows_and_those_of_the_subset_none() -> None:
    slots = _slots(3)
    assert _open(slots) == {}
    slots.add([1, 7, 3, 7])
    assert _open(slots) == {7: 70.0}
    assert torch.equal(slots.lm_head.weight[2], FULL.weight[7])
    assert slots.lm_head.ids[:2].tolist() == [3, 1]


def test_the_least_recently_seen_leaves() -> None:
    slots = _slots(2)
    slots.add([7, 8])
    slots.add([7, 9])
    assert set(_open(slots)) == {7, 9}
    slots.add([10, 11, 12])
    assert _open(slots) == {11: 110.0, 12: 120.0}


def test_a_new_text_starts_empty() -> None:
    slots = _slots(2)
    slots.add([7])
    slots.clear()
    assert _open(slots) == {}
    slots.add([8])
    assert _open(slots) == {8: 80.0}


def test_a_head_with_rows_of_its_own_takes_in_only_those() -> None:
    own = LmHead(FULL.weight[[1, 3, 9]], None, ids=torch.tensor([1, 3, 9]))
    slots = ContextSlots(own.restrict(torch.tensor([3])), own, 2)
    slots.add([7, 9])
    assert slots.lm_head.ids[1:].tolist() == [9, 0]
    assert slots.unused_mask.tolist() == [0.0, 0.0, float("-inf")]


@pytest.mark.parametrize("count", [1, 5, 40])
def test_ids_are_plain_decodings_and_drafts_reach_outside_the_subset(count: int) -> None:
    target = tiny_target(config=tiny_config(vocab_size=40))
    torch.manual_seed(2)
    head = EagleHead(head_config_for(target.config, taps=(1, 2)), embedding_weight=target.embedding)
    head = head.to(target.dtype).eval().requires_grad_(False)
    rows = target.lm_head.rows(torch.tensor([0, 1, 2]))
    drafter = EagleDrafter(head, rows, TreeConfig(4, 3, 12), slots=ContextSlots(rows, target.lm_head, count))
    prompt = [5, 17, 20, 31, 8]
    plain = Engine(target).complete(prompt, max_new_tokens=40, ignore_eos=True)
    drafted = Engine(target, drafter).complete(prompt, max_new_tokens=40, ignore_eos=True)
    assert drafted.token_ids == plain.token_ids
    held = set(drafter.context_slots.seen.slot_of)
    assert held <= set(prompt + plain.token_ids) - {0, 1, 2}
    assert len(held) == min(count, len(set(prompt + plain.token_ids) - {0, 1, 2}))
    assert drafter.k == 3
