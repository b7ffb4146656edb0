"""What a table says of its own top-k holds on text whose true law is known."""

from __future__ import annotations

import numpy as np
import pytest

from frspec_cli.counting.ranking import rank_by_count
from frspec_cli.counting.stability import expected_loss, stability

ROWS, K = 4000, 800


def _law(seed: int = 0) -> np.ndarray:
    weights = 1.0 / (np.arange(ROWS) + 2.7) ** 1.1
    return np.random.default_rng(seed).permutation(weights / weights.sum())


def _folds(law: np.ndarray, tokens: int, seed: int, burst: int = 1) -> np.ndarray:
    """int64 [10, rows] drawn from the law; burst: every token comes so often in one document, hence in one fold."""
    random = np.random.default_rng(seed)
    return np.stack([random.multinomial(tokens // burst // 10, law) * burst for _ in range(10)])


def _true_loss(law: np.ndarray, by_fold: np.ndarray, k: int = K) -> float:
    best = np.sort(law)[::-1][:k].sum()
    return float(best - law[rank_by_count(by_fold.sum(axis=0))[:k]].sum())


@pytest.mark.parametrize("tokens", [20_000, 100_000, 1_000_000])
@pytest.mark.parametrize("burst", [1, 5])
def test_the_expected_loss_is_near_the_true_one(tokens: int, burst: int) -> None:
    """Means over 20 tables: within a third below and two thirds above (fixed seeds, so it cannot fail by chance)."""
    law = _law()
    tables = [_folds(law, tokens, seed, burst) for seed in range(20)]
    said = np.mean([expected_loss(table, K) for table in tables])
    true = np.mean([_true_loss(law, table) for table in tables])
    assert 0.66 * true < said < 1.67 * true


def test_held_out_coverage_is_that_of_new_text() -> None:
    law = _law()
    inside = 0
    for seed in range(40):
        by_fold = _folds(law, 200_000, seed)
        row = stability(by_fold, (K,))[str(K)]
        # The ranking that is judged comes from nine tenths of the text.
        true = np.mean([law[rank_by_count(by_fold.sum(axis=0) - by_fold[fold])[:K]].sum() for fold in range(10)])
        inside += row["low"] <= true <= row["high"]
    assert inside >= 34  # of 40; 95 % intervals


def test_more_text_makes_it_surer() -> None:
    law = _law()
    losses = [expected_loss(_folds(law, tokens, 1), K) for tokens in (10_000, 100_000, 1_000_000)]
    assert losses[0] > losses[1] > losses[2]
    kept = [stability(_folds(law, tokens, 1), (K,))[str(K)]["kept"] for tokens in (10_000, 1_000_000)]
    assert kept[0] < kept[1] <= 1.0


def test_sizes_beyond_the_vocabulary_are_left_out() -> None:
    by_fold = _folds(_law(), 10_000, 1)
    assert list(stability(by_fold, (8, ROWS - 1, ROWS, 10 * ROWS))) == ["8", str(ROWS - 1)]


def test_too_little_text_says_nothing() -> None:
    by_fold = np.zeros((10, 50), dtype=np.int64)
    assert stability(by_fold, (8,)) == {}
    assert expected_loss(by_fold, 8) == 1.0
    by_fold[3, 4] = 7
    assert stability(by_fold, (8,)) == {}


def test_ties_are_broken_by_id() -> None:
    assert rank_by_count(np.array([1, 3, 3, 0, 1])).tolist() == [1, 2, 0, 4, 3]
