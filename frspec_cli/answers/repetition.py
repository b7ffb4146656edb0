"""How much of some texts repeats itself: what repeats is easy to draft, so it flatters every drafter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MOST = 0.5
"""A suite whose texts repeat more of their 4-grams than this says little about drafting."""


def repeated_4grams(texts: Iterable[Sequence[int]]) -> float:
    """The share of the texts' 4-grams of token ids that occurred before in the same text; 0 if there are none."""
    grams = [list(zip(*(text[start:] for start in range(4)), strict=False)) for text in texts]
    return sum(len(each) - len(set(each)) for each in grams) / max(1, sum(map(len, grams)))
