"""How sure a ratio is: the jackknife over folds, the bootstrap over prompts or rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
_AT_ONCE = 4_000_000  # numbers in memory
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


def speedup(
    tokens: Sequence[int],
    seconds: Sequence[float],
    base_tokens: Sequence[int],
    base_seconds: Sequence[float],
    *,
    seed: int,
) -> dict[str, float]:
    """Ratio of (total tokens / total seconds) to the baseline's, with a 95 % interval.

    Item i of each list belongs to prompt i; prompts are drawn with replacement, both methods' together.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in (tokens, seconds, base_tokens, base_seconds)]
    count = len(arrays[0])
    draws = np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))
    sums = [values[draws].sum(axis=1) for values in arrays]
    ratios = (sums[0] / sums[1]) / (sums[2] / sums[3])
    whole = [values.sum() for values in arrays]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {"value": float((whole[0] / whole[1]) / (whole[2] / whole[3])), "low": float(low), "high": float(high)}


def ratio(over: Sequence[float], under: Sequence[float], *, seed: int) -> dict[str, float] | None:
    """sum(over) / sum(under) with a 95 % interval; item i of each belongs to prompt i. None where `under` is all zero."""
    pairs = np.array([(a, b) for a, b in zip(over, under, strict=True) if b > 0], dtype=np.float64)
    if not len(pairs):
        return None
    draws = np.random.default_rng(seed).integers(0, len(pairs), size=(RESAMPLES, len(pairs)))
    sums = pairs[draws].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    whole = pairs.sum(axis=0)
    return {"value": float(whole[0] / whole[1]), "low": float(low), "high": float(high)}


def difference(
    over: Sequence[float], under: Sequence[float], base_over: Sequence[float], base_under: Sequence[float], *, seed: int
) -> dict[str, float]:
    """sum(over) / sum(under) less the same of the base, with a 95 % interval: prompts are drawn for both together."""
    arrays = [np.asarray(values, dtype=np.float64) for values in (over, under, base_over, base_under)]
    draws = np.random.default_rng(seed).integers(0, len(over), size=(RESAMPLES, len(over)))
    sums = [values[draws].sum(axis=1) for values in arrays]
    low, high = np.quantile(sums[0] / sums[1] - sums[2] / sums[3], [0.025, 0.975])
    whole = [values.sum() for values in arrays]
    return {"value": float(whole[0] / whole[1] - whole[2] / whole[3]), "low": float(low), "high": float(high)}


Rounds = Sequence[Sequence[float]]
"""Measurements of one arm, round by round; round i of every arm ran at the same time, on the same prompt."""


def median(rounds: Rounds, *, seed: int) -> dict[str, float]:
    """The median over all measurements, with a 95 % interval by bootstrap over rounds."""
    low, high = np.quantile(_medians(rounds, seed), [0.025, 0.975])
    return {"value": float(np.median(np.concatenate(rounds))), "low": float(low), "high": float(high)}


def median_ratio(rounds: Rounds, base: Rounds, *, seed: int) -> dict[str, float]:
    """The median of `rounds` over that of `base`, with a 95 % interval: the rounds of both are drawn together."""
    low, high = np.quantile(_medians(rounds, seed) / _medians(base, seed), [0.025, 0.975])
    value = np.median(np.concatenate(rounds)) / np.median(np.concatenate(base))
    return {"value": float(value), "low": float(low), "high": float(high)}


def _medians(rounds: Rounds, seed: int) -> np.ndarray:
    """[RESAMPLES] medians over rounds drawn with replacement; one seed draws the same rounds for every arm."""
    values = np.concatenate(rounds)
    order = np.argsort(values, kind="stable")
    values, owner = values[order], np.repeat(np.arange(len(rounds)), [len(each) for each in rounds])[order]
    draws = np.random.default_rng(seed).integers(0, len(rounds), size=(RESAMPLES, len(rounds)))
    found = []
    for some in np.array_split(draws, 1 + RESAMPLES * len(values) // _AT_ONCE):
        times = (some[:, :, None] == np.arange(len(rounds))).sum(axis=1)  # how often each round was drawn
        twice = 2 * np.cumsum(times[:, owner], axis=1)
        whole = twice[:, -1:] // 2
        low, high = (twice >= whole).argmax(axis=1), (twice > whole).argmax(axis=1)
        found.append((values[low] + values[high]) / 2)
    return np.concatenate(found)
