"""The noise is a function of (seed, position); the warpers are transformers' own."""

from __future__ import annotations

import re

import pytest
import torch

from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.noise import GumbelNoise
from frspec_cli.decoding.sampling import LARGEST_SEED, TEMPERATURES, Sampling
from frspec_cli.errors import UsageError
from tests.tiny import tiny_target

CPU = torch.device("cpu")


def test_noise_depends_on_seed_and_position_only() -> None:
    one, other = GumbelNoise(3, 50, CPU), GumbelNoise(3, 50, CPU)
    other.rows(100, 4)
    assert torch.equal(one.rows(7, 3)[1], other.at(8))
    assert not torch.equal(one.at(7), one.at(8))
    assert not torch.equal(one.at(7), GumbelNoise(4, 50, CPU).at(7))


def test_noise_is_gumbel() -> None:
    """200,000 draws: mean 0.5772, variance pi^2/6; six standard errors, so a false alarm has odds below 1e-8."""
    draws = GumbelNoise(1, 200_000, CPU).at(0).double()
    assert torch.isfinite(draws).all()
    assert abs(draws.mean() - 0.57722) < 6 * 1.2825 / 200_000**0.5
    assert abs(draws.var() - 1.64493) < 6 * (4.4 * 1.64493**2 / 200_000) ** 0.5


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"temperature": -0.1}, "temperature -0.1 is negative."),
        ({"temperature": 1e-38}, "temperature 1e-38 is neither 0 (greedy) nor between 0.0001 and 10000."),
        ({"temperature": float("nan")}, "temperature nan is neither 0"),
        ({"temperature": float("inf")}, "temperature inf is neither 0"),
        ({"temperature": 1.0, "top_k": -1}, "top_k -1 is negative; 0 is off."),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p 0.0 is not above 0 and at most 1; 1 is off."),
        ({"temperature": 1.0, "top_p": float("nan")}, "top_p nan is not above 0"),
        ({"temperature": 1.0, "min_p": 1.0}, "min_p 1.0 is not at least 0 and below 1; 0 is off."),
        ({"temperature": 1.0, "min_p": float("nan")}, "min_p nan is not at least 0"),
        ({"seed": 2**63}, "seed 9223372036854775808 is not between 0 and 9223372036854775807."),
        ({"seed": -1}, "seed -1 is not between 0"),
        ({"top_k": 5}, "top_k, top_p and min_p have no effect at temperature 0."),
    ],
)
def test_options_out_of_range_are_usage_errors(bad: dict, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        Sampling(**bad)


def test_at_the_smallest_temperature_sampling_is_greedy() -> None:
    target = tiny_target(dtype=torch.float32)
    sampling = Sampling(temperature=TEMPERATURES[0], seed=LARGEST_SEED)
    greedy, sampled = (Engine(target).complete((5, 9), max_new_tokens=16, sampling=each) for each in (None, sampling))
    assert sampled.token_ids == greedy.token_ids


def test_the_largest_seed_is_not_another_ones() -> None:
    assert not torch.equal(GumbelNoise(LARGEST_SEED, 50, CPU).at(7), GumbelNoise(LARGEST_SEED - 1, 50, CPU).at(7))


def test_warpers_stand_in_transformers_order() -> None:
    names = [type(w).__name__ for w in Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1).warpers()]
    assert names == ["TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper"]
    assert Sampling(temperature=1.0).warpers() == []
