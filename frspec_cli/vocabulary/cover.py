"""How much of a text a subset covers, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Two-sided 95 % of Student's t for 1 to 9 degrees of freedom: a table has at most ten folds.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Interval:
    """A share (0..1) and its 95 % interval by the jackknife over folds; low = high = value with one fold only."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """What goes into metadata and --json."""
        return {"value": self.value, "low": self.low, "high": self.high}


def jackknife(covered: np.ndarray, tokens: np.ndarray) -> Interval | None:
    """The share sum(covered) / sum(tokens) and its interval, leaving one fold out at a time.

    covered, tokens: [folds]. Folds are whole documents, so the interval holds for text whose tokens hang together by
    document (a binomial one would be far too narrow). Folds without tokens are left out. None without any tokens.
    """
    used = tokens > 0
    covered, tokens = covered[used].astype(np.float64), tokens[used].astype(np.float64)
    n = len(tokens)
    if n == 0:
        return None
    value = covered.sum() / tokens.sum()
    if n == 1:
        return Interval(float(value), float(value), float(value))
    left = (covered.sum() - covered) / (tokens.sum() - tokens)
    error = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    half = _T95[n - 2] * error
    return Interval(float(value), float(max(0.0, value - half)), float(min(1.0, value + half)))
