"""How certain a ratio is: the jackknife over folds, the bootstrap over prompts or rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
_IN_MEMORY = 4_000_000  # numbers of resampled rounds at once
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


Column = Sequence[float] | Sequence[Sequence[float]]
"""A number of each prompt, or of each prompt its runs' numbers, equally many of all."""


def speedup(
    tokens: Column, seconds: Column, base_tokens: Column, base_seconds: Column, *, seed: int
) -> dict[str, float]:
    """Ratio of (total tokens / total seconds) to the baseline's, with a 95 % interval.

    Item i of each column belongs to prompt i; prompts are drawn with replacement, both methods' together, and of each
    prompt drawn its runs.
    """
    return _bootstrap(
        lambda tokens, seconds, base_tokens, base_seconds: (tokens / seconds) / (base_tokens / base_seconds),
        [tokens, seconds, base_tokens, base_seconds],
        seed,
    )


def ratio(over: Sequence[float], under: Sequence[float], *, seed: int) -> dict[str, float] | None:
    """sum(over) / sum(under) with a 95 % interval; item i of each belongs to prompt i. None if `under` is all zero."""
    pairs = [(a, b) for a, b in zip(over, under, strict=True) if b > 0]
    if not pairs:
        return None
    return _bootstrap(lambda over, under: over / under, list(zip(*pairs, strict=True)), seed)


def difference(
    over: Sequence[float], under: Sequence[float], base_over: Sequence[float], base_under: Sequence[float], *, seed: int
) -> dict[str, float]:
    """sum(over) / sum(under) less the same of the base, with a 95 % interval: prompts are drawn for both together."""
    return _bootstrap(
        lambda over, under, base_over, base_under: over / under - base_over / base_under,
        [over, under, base_over, base_under],
        seed,
    )


def _bootstrap(statistic: Callable[..., np.ndarray], columns: Sequence[Column], seed: int) -> dict[str, float]:
    """A statistic of the columns' sums, and its 95 % interval over items drawn with replacement.

    columns: equally long; item i of every column belongs together and is drawn together. Of an item that is a list of runs
        as many runs are drawn with replacement, the same of every column.
    """
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    items = len(arrays[0])
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, items, size=(RESAMPLES, items))
    value = statistic(*(array.sum() for array in arrays))
    if arrays[0].ndim == 1:
        return _with_interval(value, statistic(*(array[draws].sum(axis=1) for array in arrays)))
    runs = generator.integers(0, arrays[0].shape[1], size=(*draws.shape, arrays[0].shape[1]))
    return _with_interval(value, statistic(*(array[draws[..., None], runs].sum(axis=(1, 2)) for array in arrays)))


def _with_interval(value: float | np.ndarray, resampled: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high)}


Rounds = Sequence[Sequence[float]]
"""Measurements of one arm, round by round; round i of every arm ran at the same time, on the same prompt."""


def median(rounds: Rounds, *, seed: int) -> dict[str, float]:
    """The median over all measurements, with a 95 % interval by bootstrap over rounds."""
    return _with_interval(np.median(np.concatenate(rounds)), _resampled_medians(rounds, seed))


def median_ratio(rounds: Rounds, base: Rounds, *, seed: int) -> dict[str, float]:
    """The median of `rounds` over that of `base`, with a 95 % interval: the rounds of both are drawn together."""
    value = np.median(np.concatenate(rounds)) / np.median(np.concatenate(base))
    return _with_interval(value, _resampled_medians(rounds, seed) / _resampled_medians(base, seed))


def _resampled_medians(rounds: Rounds, seed: int) -> np.ndarray:
    """[RESAMPLES] medians over rounds drawn with replacement; one seed draws the same rounds for every arm.

    The values are sorted once. A resample repeats each value as often as its round was drawn, so its median is where the
    running sum of these weights passes half of the total.
    """
    values = np.concatenate(rounds)
    round_of = np.repeat(np.arange(len(rounds)), [len(each) for each in rounds])
    order = np.argsort(values, kind="stable")
    values, round_of = values[order], round_of[order]
    draws = np.random.default_rng(seed).integers(0, len(rounds), size=(RESAMPLES, len(rounds)))
    medians = []
    for part in np.array_split(draws, 1 + RESAMPLES * len(values) // _IN_MEMORY):
        weights = (part[:, :, None] == np.arange(len(rounds))).sum(axis=1)  # how often each round was drawn
        twice_passed = 2 * np.cumsum(weights[:, round_of], axis=1)
        total = twice_passed[:, -1:] // 2
        # Of an even number the two middle values differ; of an odd one they are the same.
        lower, upper = (twice_passed >= total).argmax(axis=1), (twice_passed > total).argmax(axis=1)
        medians.append((values[lower] + values[upper]) / 2)
    return np.concatenate(medians)
