from __future__ import annotations

import pytest
import torch

from frspec_cli.errors import UsageError
from frspec_cli.training.optimizer import HeadOptimizer
from frspec_cli.training.options import OPTIMIZERS, LearningRates, TrainOptions, learning_rates


def _weights():
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc.weight": (24, 48), "norm.weight": (24,), "lm_head.weight": (40, 24)}
    return {name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in shapes.items()}


def _step(weights, optimizer, number, rest=0.01):
    generator = torch.Generator().manual_seed(number)
    for weight in weights.values():
        # one strong direction beside noise a hundredth as large, as gradients are
        strong = torch.randn(weight.shape[:1], generator=generator)
        weight.grad = torch.randn(weight.shape, generator=generator) * 0.01
        weight.grad += (
            strong if weight.ndim == 1 else strong[:, None] * torch.randn(weight.shape[1], generator=generator)
        )
    weights["lm_head.weight"].grad[7:] = 0.0
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer.step(0.01, rest)
    return {name: weight.detach() - before[name] for name, weight in weights.items()}


def test_muon_moves_a_matrix_alike_in_all_directions_and_the_rest_as_adamw_does():
    moved = {}
    for name in OPTIMIZERS:
        weights = _weights()
        moved[name] = _step(weights, HeadOptimizer(weights, name, weight_decay=0.0), 1)
    spread = {name: torch.linalg.svdvals(step["fc.weight"]) for name, step in moved.items()}
    assert spread["muon"].max() / spread["muon"].median() < 2
    assert spread["adamw"].max() / spread["adamw"].median() > 10
    for same in ("norm.weight", "lm_head.weight"):
        assert torch.equal(moved["muon"][same], moved["adamw"][same])
    assert not moved["muon"]["lm_head.weight"][7:].any()  # rows without a gradient stay where they are


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_it_remembers_makes_the_next_step_the_same_to_the_last_bit(name):
    weights = _weights()
    optimizer = HeadOptimizer(weights, name, weight_decay=0.01)
    for number in range(3):
        _step(weights, optimizer, number)
    copies = {key: weight.detach().clone().requires_grad_() for key, weight in weights.items()}
    again = HeadOptimizer(copies, name, weight_decay=0.01)
    again.load({key: value.clone() for key, value in optimizer.state().items()})
    _step(weights, optimizer, 3)
    _step(copies, again, 3)
    assert all(torch.equal(weights[key], copies[key]) for key in weights)


def test_what_muon_leaves_has_a_rate_of_its_own():
    moved = {}
    for rest in (0.01, 0.001, 0.0):
        weights = _weights()
        moved[rest] = _step(weights, HeadOptimizer(weights, "muon", weight_decay=0.0), 1, rest)
    assert torch.equal(moved[0.01]["fc.weight"], moved[0.0]["fc.weight"])
    for name in ("norm.weight", "lm_head.weight"):
        assert not moved[0.0][name].any()
        torch.testing.assert_close(moved[0.001][name], moved[0.01][name] / 10, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "width", "own_rows", "expected"),
    [
        ({}, 576, False, (4e-3, 4e-3)),  # what the heads that ship were trained with
        ({}, 640, False, (4e-3, 4e-3)),
        ({}, 640, True, (4e-3, 1e-3)),
        ({}, 4096, False, (6.25e-4, 6.25e-4)),
        ({}, 4096, True, (6.25e-4, 1.5625e-4)),
        ({"optimizer": "adamw"}, 4096, True, (1.5625e-4, 1.5625e-4)),
        ({"learning_rate": 2e-3}, 4096, False, (2e-3, 2e-3)),
        ({"learning_rate": 2e-3}, 4096, True, (2e-3, 5e-4)),
        ({"adamw_learning_rate": 3e-5}, 8192, True, (3.125e-4, 3e-5)),
        ({"learning_rate": 0.0}, 576, True, (0.0, 0.0)),
    ],
)
def test_rates_follow_layout_and_width(options, width, own_rows, expected):
    rates = learning_rates(TrainOptions(**options), width=width, own_rows=own_rows)
    assert (rates.matrices, rates.rest) == pytest.approx(expected, rel=1e-12)
    assert isinstance(rates, LearningRates)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "adamw", "adamw_learning_rate": 1e-4}, "learning_rate is the rate of all weights"),
        ({"ema": 1.0}, "ema 1 is not between 0 and 1, 1 excluded"),
        ({"warmup": -0.1}, "warmup -0.1 is not between 0 and 1"),
        ({"final_rate": 1.5}, "final_rate 1.5 is not between 0 and 1"),
        ({"clip": 0.0}, "clip 0 is not above 0"),
    ],
)
def test_values_that_mean_nothing_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        TrainOptions(**options)
