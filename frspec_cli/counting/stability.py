"""How sure the top-k of a table is, from its folds alone.

Let S be the k most frequent tokens of the table and S* those of the text's true law. What is lost by using S is
`L = C(S*) - C(S)`, C the true coverage. Two coverages can be computed. In-sample, S on its own counts: too high, since S
was chosen for them. Held-out, every fold's coverage by the top-k of the other nine: unbiased for a ranking from 90 % of
the text. By symmetry S* sits in between (choosing by noise gains in the sample about what it loses outside it), so

    L is expected to be (in-sample - held-out) / 2, and in-sample - held-out bounds it from above in expectation.

Folds are sets of documents, so bursts (a name a thousand times in one document) are seen as the noise that they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from frspec_cli.counting.ranking import rank_by_count
from frspec_cli.counting.table import FOLDS
from frspec_cli.statistics import jackknife

SIZES = (8192, 16384, 32768, 65536)


def stability(by_fold: np.ndarray, sizes: tuple[int, ...] = SIZES) -> dict[str, dict[str, Any]]:
    """How sure the top-k is, for every size below the number of rows.

    by_fold: int64 [FOLDS, rows].

    Returns {k: {...}}, shares rounded to 6 digits; {} if fewer than two folds hold any token:
    coverage, low, high: held-out coverage with its 95 % interval over folds.
    expected_loss: L.
    kept: the mean share of the top-k that stays in it if a fold is left out.
    """
    totals = by_fold.sum(axis=0)
    used = [fold for fold in range(FOLDS) if by_fold[fold].any()]
    if len(used) < 2:
        return {}
    full = rank_by_count(totals)
    in_sample = np.cumsum(totals[full]) / totals.sum()
    orders = {fold: rank_by_count(totals - by_fold[fold]) for fold in used}
    return {str(k): _at(k, by_fold, full, float(in_sample[k - 1]), orders) for k in sizes if k < by_fold.shape[1]}


def _at(
    k: int, by_fold: np.ndarray, full: np.ndarray, in_sample: float, orders: dict[int, np.ndarray]
) -> dict[str, Any]:
    inside = np.zeros(by_fold.shape[1], dtype=bool)
    inside[full[:k]] = True
    covered = np.array([by_fold[fold][order[:k]].sum() for fold, order in orders.items()])
    held_out = jackknife(covered, by_fold[list(orders)].sum(axis=1))
    assert held_out is not None  # there are two folds with tokens at least
    values = {
        "coverage": held_out.value,
        "low": held_out.low,
        "high": held_out.high,
        "expected_loss": max(0.0, (in_sample - held_out.value) / 2),
        "kept": float(np.mean([inside[order[:k]].mean() for order in orders.values()])),
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def expected_loss(by_fold: np.ndarray, k: int) -> float:
    """The expected loss of the top-k alone; 1.0 while too little is counted to tell. by_fold: int64 [FOLDS, rows]."""
    k = min(k, by_fold.shape[1] - 1)
    values = stability(by_fold, (k,))
    return float(values[str(k)]["expected_loss"]) if values else 1.0
