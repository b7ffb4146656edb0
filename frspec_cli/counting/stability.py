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

from frspec_cli.counting.table import FOLDS, FrequencyTable

SIZES = (8192, 16384, 32768, 65536)
T_95 = 2.262
"""Student's t at 97.5 % for 9 degrees of freedom (ten folds)."""


def ranking(counts: np.ndarray) -> np.ndarray:
    """Token ids by (-count, id). counts: int64 [rows] -> int64 [rows]."""
    return np.argsort(-counts, kind="stable")


def fold_totals(table: FrequencyTable) -> np.ndarray:
    """int64 [FOLDS, rows]: counts by fold, over all sources."""
    total = np.zeros((FOLDS, table.rows), dtype=np.int64)
    for source in table.sources:
        total += table.counts[source]
    return total


def stability(by_fold: np.ndarray, sizes: tuple[int, ...] = SIZES) -> dict[str, dict[str, Any]]:
    """What the module's docstring says, for every size below the number of rows.

    by_fold: int64 [FOLDS, rows]. Returns {k: {"coverage", "low", "high", "expected_loss", "kept"}}: held-out coverage with
    its 95 % interval over folds; the expected loss L; the mean share of the top-k that stays in it when a fold is left
    out. Shares, rounded to 6 digits. {} where fewer than two folds hold any token.
    """
    totals = by_fold.sum(axis=0)
    used = [fold for fold in range(FOLDS) if by_fold[fold].any()]
    if len(used) < 2:
        return {}
    full = ranking(totals)
    seen = np.cumsum(totals[full]) / totals.sum()
    orders = {fold: ranking(totals - by_fold[fold]) for fold in used}
    return {str(k): _at(k, by_fold, full, float(seen[k - 1]), orders) for k in sizes if k < by_fold.shape[1]}


def _at(
    k: int, by_fold: np.ndarray, full: np.ndarray, in_sample: float, orders: dict[int, np.ndarray]
) -> dict[str, Any]:
    inside = np.zeros(by_fold.shape[1], dtype=bool)
    inside[full[:k]] = True
    tokens = np.array([by_fold[fold].sum() for fold in orders], dtype=np.float64)
    covered = np.array([by_fold[fold][order[:k]].sum() for fold, order in orders.items()], dtype=np.float64)
    kept = float(np.mean([inside[order[:k]].mean() for order in orders.values()]))
    held_out = covered.sum() / tokens.sum()
    spread = T_95 * _ratio_error(covered, tokens)
    values = {
        "coverage": held_out,
        "low": max(0.0, held_out - spread),
        "high": min(1.0, held_out + spread),
        "expected_loss": max(0.0, (in_sample - held_out) / 2),
        "kept": kept,
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def _ratio_error(covered: np.ndarray, tokens: np.ndarray) -> float:
    """Jackknife standard error of sum(covered) / sum(tokens), each [folds], leaving one fold out at a time."""
    n = len(covered)
    left_out = (covered.sum() - covered) / (tokens.sum() - tokens)
    return float(np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum()))


def expected_loss(by_fold: np.ndarray, k: int) -> float:
    """The expected loss of the top-k alone; 1.0 where it cannot be told yet. by_fold: int64 [FOLDS, rows]."""
    k = min(k, by_fold.shape[1] - 1)
    values = stability(by_fold, (k,))
    return float(values[str(k)]["expected_loss"]) if values else 1.0
