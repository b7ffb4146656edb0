"""Top-p by the likeliest tokens is transformers' own, to the bit; it sorts only what is doubtful."""

from __future__ import annotations

import pytest
import torch
from transformers import TopPLogitsWarper

from frspec_cli.answers.top_p import LIKELIEST, QuickTopP

V = 5000


class Counting(TopPLogitsWarper):
    rows = 0

    def __call__(self, input_ids, scores):
        self.rows += len(scores)
        return super().__call__(input_ids, scores)


def scores(spread: float, rows: int = 40) -> torch.Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(2)) * spread


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 8.0])
def test_it_is_transformers_own_warper_to_the_bit(top_p, spread):
    given = scores(spread)
    exact = Counting(top_p)
    found = QuickTopP(exact)(None, given)
    assert torch.equal(found, TopPLogitsWarper(top_p)(None, given))
    if spread == 8.0:
        assert exact.rows < 20  # most rows were not sorted
    if spread == 0.0:
        assert exact.rows == 40  # all alike: the likeliest hold a fifth


@pytest.mark.parametrize("tied", [False, True])
def test_a_tie_or_a_mass_at_the_boundary_is_left_to_the_sort(tied):
    """Half the mass exactly in the first token; or two equal ones, of which one is needed."""
    law = torch.full((1, V), 1e-12, dtype=torch.float64)
    law[0, [7, 3, 9]] = torch.tensor([0.4, 0.3, 0.3] if tied else [0.5, 0.3, 0.2], dtype=torch.float64)
    exact = Counting(0.6 if tied else 0.5)
    given = law.log().float()
    found = QuickTopP(exact)(None, given)
    assert exact.rows == 1
    assert torch.equal(found, TopPLogitsWarper(exact.top_p)(None, given))


def test_small_vocabularies_are_sorted():
    exact = Counting(0.9)
    QuickTopP(exact)(None, torch.randn(3, LIKELIEST))
    assert exact.rows == 3
