"""The choice of k ids: exactly k, unique, forced first, ties by id, smaller ones prefixes of larger ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frspec_cli.errors import FrspecError
from frspec_cli.subsets import choose
from frspec_cli.subsets.choose import Budget

counts_of = st.lists(st.integers(0, 4), min_size=1, max_size=40).map(lambda values: np.array(values, dtype=np.int64))


def everything(counts: np.ndarray) -> np.ndarray:
    return np.ones(len(counts), dtype=bool)


@settings(max_examples=200, deadline=None)
@given(counts=counts_of, data=st.data())
def test_exactly_k_unique_ids_in_rank_order(counts: np.ndarray, data: st.DataObject) -> None:
    forced = data.draw(st.sets(st.integers(0, len(counts) - 1), max_size=3))
    ranking = choose.rank(counts, forced=forced, allowed=everything(counts))
    k = data.draw(st.integers(max(1, len(forced)), len(counts)))
    choice = choose.choose(ranking, k, pad=True)
    ids = choice.token_ids.tolist()
    assert len(set(ids)) == k
    expected = sorted(forced, key=lambda i: (-counts[i], i))
    expected += sorted(set(range(len(counts))) - forced, key=lambda i: (-counts[i], i))
    assert ids == expected[:k]
    assert choice.padded == sum(counts[i] == 0 for i in ids[len(forced) :])
    assert (choice.reasons == choose.FORCED).sum() == len(forced)


@settings(max_examples=100, deadline=None)
@given(counts=counts_of, data=st.data())
def test_smaller_subsets_are_prefixes(counts: np.ndarray, data: st.DataObject) -> None:
    ranking = choose.rank(counts, forced=[0], allowed=everything(counts))
    small = data.draw(st.integers(1, len(counts)))
    large = data.draw(st.integers(small, len(counts)))
    first = choose.choose(ranking, small, pad=True).token_ids
    assert choose.choose(ranking, large, pad=True).token_ids[:small].tolist() == first.tolist()


@settings(max_examples=100, deadline=None)
@given(counts=counts_of, target=st.floats(0.01, 1.0))
def test_smallest_covering_is_the_smallest(counts: np.ndarray, target: float) -> None:
    if counts.sum() == 0:
        return
    ranking = choose.rank(counts, forced=[], allowed=everything(counts))
    k = choose.smallest_covering(ranking, target)
    share = [counts[choose.choose(ranking, each).token_ids].sum() / counts.sum() for each in (k, k - 1) if each]
    assert share[0] >= target - 1e-9
    assert k == 1 or share[1] < target


def test_ids_without_a_row_or_a_token_are_never_chosen() -> None:
    counts = np.array([5, 9, 7, 1], dtype=np.int64)
    allowed = np.array([True, False, True, True])
    ranking = choose.rank(counts, forced=[1, 3, 99], allowed=allowed)
    assert choose.choose(ranking, 3).token_ids.tolist() == [3, 2, 0]


@pytest.mark.parametrize(
    ("k", "words"),
    [(5, "larger than the vocabulary, which has 4"), (3, "only 2 distinct ones"), (1, "smaller than the 2 tokens")],
)
def test_impossible_sizes_are_refused(k: int, words: str) -> None:
    ranking = choose.rank(np.array([0, 3, 0, 0]), forced=[0, 1], allowed=np.ones(4, dtype=bool))
    with pytest.raises(FrspecError, match=words):
        choose.choose(ranking, k)


def test_padding_fills_by_id_and_is_counted() -> None:
    ranking = choose.rank(np.array([0, 3, 0, 0]), forced=[3], allowed=np.ones(4, dtype=bool))
    choice = choose.choose(ranking, 4, pad=True)
    assert (choice.token_ids.tolist(), choice.padded) == ([3, 1, 0, 2], 2)


def test_a_budget_brings_in_its_best_and_marks_only_what_it_added() -> None:
    counts = np.array([90, 80, 70, 60, 5, 4, 3, 0])
    ranking = choose.rank(counts, forced=[7], allowed=np.ones(8, dtype=bool))
    rare = np.array([0, 80, 0, 0, 5, 4, 3, 0])  # ids 1, 4, 5, 6 are of the script, 1 comes by frequency anyway
    choice = choose.choose(ranking, 4, budgets=[Budget("cjk", 2, rare)])
    assert choice.token_ids.tolist() == [7, 0, 1, 4]
    assert choice.reasons.tolist() == [choose.FORCED, choose.FREQUENCY, choose.FREQUENCY, choose.BUDGET]


@pytest.mark.parametrize(("rows", "words"), [(5, "more than the 4 tokens"), (4, "need 5 rows")])
def test_a_budget_that_cannot_be_met_is_refused(rows: int, words: str) -> None:
    counts = np.array([90, 80, 70, 60, 5, 4, 3, 0])
    ranking = choose.rank(counts, forced=[7], allowed=np.ones(8, dtype=bool))
    with pytest.raises(FrspecError, match=words):
        choose.choose(ranking, 4, budgets=[Budget("cjk", rows, np.array([0, 80, 0, 0, 5, 4, 3, 0]))])
