"""How sure a ratio is: the paired bootstrap over prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


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
