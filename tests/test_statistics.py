"""Intervals: they are those of the draws that they claim, and an equal has one around 1."""

from __future__ import annotations

import numpy as np
import pytest

from frspec_cli.statistics import RESAMPLES, difference, median, median_ratio, ratio, speedup


def test_medians_and_their_ratio() -> None:
    rounds, base = [[1.0, 2.0, 3.0], [2.0, 2.0]], [[4.0], [4.0, 4.0]]
    assert median(rounds, seed=0) == {"value": 2.0, "low": 2.0, "high": 2.0}
    assert median_ratio(base, rounds, seed=0)["value"] == 2.0


def test_the_interval_is_that_of_medians_over_drawn_rounds() -> None:
    """Against the same draws, one by one."""
    generator = np.random.default_rng(6)
    rounds = [generator.lognormal(size=size).tolist() for size in (3, 1, 4, 2, 6)]
    draws = np.random.default_rng(9).integers(0, 5, size=(RESAMPLES, 5))
    medians = [np.median([value for index in draw for value in rounds[index]]) for draw in draws]
    interval = median(rounds, seed=9)
    assert [interval["low"], interval["high"]] == pytest.approx(list(np.quantile(medians, [0.025, 0.975])))


def test_a_ratio_of_equals_has_an_interval_around_one() -> None:
    """200 runs of 12 rounds, A against A: the 95 % interval misses 1.0 in at most 40 (odds of more: below 1e-6 at 8 %)."""
    generator = np.random.default_rng(4)
    missed = 0
    for run in range(200):
        speed = generator.lognormal(0, 0.2, size=(12, 1))  # the machine's, which both arms share
        a, b = (speed * generator.lognormal(0, 0.1, size=(12, 5)) for _ in range(2))
        interval = median_ratio(a.tolist(), b.tolist(), seed=run)
        missed += not interval["low"] <= 1.0 <= interval["high"]
    assert missed <= 40


def test_a_method_against_itself_has_an_interval_around_one() -> None:
    """A against A, each time drawn afresh: 200 runs, and the 95 % interval misses 1.0 in at most 30 (odds of more: 1e-6)."""
    generator = np.random.default_rng(3)
    missed = 0
    for run in range(200):
        work = generator.uniform(1, 4, size=40)
        a, b = (work * generator.lognormal(0, 0.1, size=40) for _ in range(2))
        interval = speedup([64] * 40, a.tolist(), [64] * 40, b.tolist(), seed=run)
        missed += not interval["low"] <= 1.0 <= interval["high"]
    assert missed <= 30


def test_speed_up_is_a_ratio_of_totals() -> None:
    """Two prompts, 10 and 30 tokens in 1 and 9 s against 2 and 10 s: (40 / 10) / (40 / 12), not a mean of ratios."""
    assert speedup([10, 30], [1, 9], [10, 30], [2, 10], seed=0)["value"] == pytest.approx(1.2)


def test_one_run_of_each_prompt_is_as_if_runs_were_not_known() -> None:
    seconds, base = [1.0, 9.0, 4.0], [2.0, 10.0, 3.0]
    flat = speedup([10, 30, 20], seconds, [10, 30, 20], base, seed=3)
    assert speedup([[10], [30], [20]], [[s] for s in seconds], [[10], [30], [20]], [[b] for b in base], seed=3) == flat


def test_of_each_prompt_its_runs_are_drawn_too() -> None:
    """One prompt alone: only its runs can make the interval, and a run is drawn for both methods at once."""
    tokens, seconds = [[10, 10, 10]], [[1.0, 2.0, 3.0]]
    assert speedup(tokens, seconds, tokens, seconds, seed=0) == {"value": 1.0, "low": 1.0, "high": 1.0}
    interval = speedup(tokens, seconds, tokens, [[2.0, 2.0, 2.0]], seed=0)
    assert interval["value"] == pytest.approx(1.0)
    assert interval["low"] < 0.8 < 1.2 < interval["high"]


def test_a_slowdown_of_five_per_cent_is_found_and_none_is_not() -> None:
    """80 prompts, 3 runs, 3 % noise a run and 20 % drift that both share: the null contains 1, 0.95 is told from it."""
    generator = np.random.default_rng(11)
    drift = generator.lognormal(0, 0.2, size=(80, 3))
    ours, again = (drift * generator.lognormal(0, 0.03, size=(80, 3)) for _ in range(2))
    tokens = np.full((80, 3), 64).tolist()
    null = speedup(tokens, again.tolist(), tokens, ours.tolist(), seed=0)
    slow = speedup(tokens, (again / 0.95).tolist(), tokens, ours.tolist(), seed=0)
    assert null["low"] <= 1.0 <= null["high"]
    assert slow["low"] <= 0.95 <= slow["high"] < 1.0


def test_an_acceptance_length_is_a_ratio_of_totals_and_its_interval_covers_it() -> None:
    """2 of 2 and 9 of 3: 11 / 5. Then 200 draws of 40 prompts with mean 2: the 95 % interval misses it in at most 30
    (odds of more: 1e-6)."""
    assert ratio([2, 9, 0], [2, 3, 0], seed=0)["value"] == pytest.approx(11 / 5)
    assert ratio([0], [0], seed=0) is None
    generator, missed = np.random.default_rng(5), 0
    for draw in range(200):
        cycles = generator.integers(5, 30, size=40)
        emitted = cycles + generator.poisson(cycles)
        interval = ratio(emitted.tolist(), cycles.tolist(), seed=draw)
        missed += not interval["low"] <= 2.0 <= interval["high"]
    assert missed <= 30


def test_a_difference_is_paired() -> None:
    """Prompts differ a lot, the two arms by one token each: the interval of the difference is narrow."""
    cycles = [10, 20, 30, 40]
    emitted = [12, 55, 61, 180]
    interval = difference([e + c / 10 for e, c in zip(emitted, cycles, strict=True)], cycles, emitted, cycles, seed=0)
    assert (interval["low"], interval["value"], interval["high"]) == pytest.approx((0.1, 0.1, 0.1))
    apart = ratio(emitted, cycles, seed=0)
    assert apart["high"] - apart["low"] > 0.5
