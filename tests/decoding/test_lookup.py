"""Lookup by table against a scan of the text."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frspec_cli.decoding.lookup import LookupDrafter


def _scan(text: list[int], longest: int, depth: int) -> list[int]:
    """What followed the latest earlier occurrence of the last tokens, by comparing every place."""
    for size in range(min(longest, len(text) - 1), 0, -1):
        for begin in range(len(text) - size - 1, -1, -1):
            if text[begin : begin + size] == text[-size:]:
                return text[begin + size : begin + size + depth]
    return []


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8),
    depth=st.integers(1, 5),
    longest=st.integers(1, 4),
)
def test_the_table_finds_what_a_scan_finds(parts: list[list[int]], depth: int, longest: int) -> None:
    """However the text came: all at once, or in the pieces of cycles."""
    drafter = LookupDrafter(depth, longest=longest)
    drafter.reset(length=100)
    text: list[int] = []
    for part in parts:
        drafter.append_tokens(part)
        text += part
        expected = _scan(text, longest, depth)
        tree = drafter.propose(torch.tensor(text[-1:]), torch.tensor([len(text) - 1]), torch.tensor([1]))
        assert tree.valid.tolist() == [True] + [place < len(expected) for place in range(depth)]
        assert tree.tokens[1 : len(expected) + 1].tolist() == expected


def test_another_text_knows_nothing_of_the_first() -> None:
    drafter = LookupDrafter(3)
    drafter.reset(length=10)
    drafter.append_tokens([1, 2, 3, 1, 2])
    drafter.reset(length=10)
    drafter.append_tokens([1, 2])
    tree = drafter.propose(torch.tensor([2]), torch.tensor([1]), torch.tensor([1]))
    assert tree.valid.tolist() == [True, False, False, False]
