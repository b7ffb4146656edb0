from __future__ import annotations

import pytest
import torch

from frspec_cli.training.optimizer import HeadOptimizer
from frspec_cli.training.options import OPTIMIZERS


def _weights():
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc.weight": (24, 48), "norm.weight": (24,), "lm_head.weight": (40, 24)}
    return {name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in shapes.items()}


def _step(weights, optimizer, number):
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
    optimizer.step(0.01)
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
