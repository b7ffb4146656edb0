"""The noise is a function of (seed, position); the warpers are transformers' own."""

from __future__ import annotations

import pytest
import torch

from frspec_cli.decoding.noise import GumbelNoise
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import UsageError

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
    "bad",
    [{"temperature": -0.1}, {"temperature": 1.0, "top_p": 0.0}, {"temperature": 1.0, "min_p": 1.0}, {"top_k": 5}],
)
def test_options_out_of_range_are_usage_errors(bad: dict) -> None:
    with pytest.raises(UsageError):
        Sampling(**bad)


def test_warpers_stand_in_transformers_order() -> None:
    names = [type(w).__name__ for w in Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1).warpers()]
    assert names == ["TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper"]
    assert Sampling(temperature=1.0).warpers() == []
