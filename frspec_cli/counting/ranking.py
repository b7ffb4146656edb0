"""The order of tokens by frequency, the one that every ranking in frspec has."""

from __future__ import annotations

import numpy as np


def rank_by_count(counts: np.ndarray) -> np.ndarray:
    """Indices by (-count, index): the most frequent first, equal counts by id. counts: [n] -> int64 [n]."""
    return np.argsort(-counts, kind="stable")
