"""The estimate of a step is what the step takes: counted by torch's own allocator events on small shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import profile

from frspec_cli.answers.records import Answer
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.training.average import AveragedWeights
from frspec_cli.training.memory import (
    CARDS,
    Sequences,
    estimate,
    fake_batch,
    fake_rows,
    measure_step,
    public_config,
    public_table,
    target_parameters,
)
from frspec_cli.training.optimizer import HeadOptimizer
from frspec_cli.training.options import TrainOptions
from frspec_cli.training.step import batch_loss
from frspec_cli.training.trainer import trained_weights
from tests.conftest import ROOT


def problem(target, layout, options):
    """A head, a batch of 6 answers of unequal lengths and the loss's rows, in float32."""
    rows = 40 if layout == "eagle3" else None
    config = head_config_for(
        target.config, layout=layout, draft_vocab_size=rows, taps=None if layout == "eagle2" else (1, 2)
    )
    own = None if rows is None else LmHead(torch.nn.Parameter(torch.zeros(rows, config.hidden_size)))
    head = EagleHead(config, embedding_weight=torch.zeros(config.vocab_size, config.hidden_size), own_lm_head=own)
    answers = [Answer(np.zeros(60 + 7 * n, np.int64), 20 + n, True, False) for n in range(6)]
    batch = fake_batch(answers, hidden=config.hidden_size, taps=len(config.taps), dtype=torch.float32)
    return head, batch, fake_rows(config, options, vocabulary=config.vocab_size, own=own, dtype=torch.float32)


def allocated(prof) -> int:
    """The most bytes that were allocated at once, by the profiler's memory events."""
    events = [event for event in prof.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("layout", ["fused", "eagle2", "eagle3"])
def test_the_peak_of_a_fake_step_is_that_of_a_real_one(target, layout, recompute):
    options = TrainOptions(steps=4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        predicted = measure_step(*problem(target, layout, options), options, recompute=recompute, autocast=False)
    head, batch, rows = problem(target, layout, options)
    with profile(profile_memory=True) as prof:
        loss, _ = batch_loss(head, batch, rows, tokens=len(batch.left), options=options, recompute=recompute)
        loss.backward()
    measured = allocated(prof)
    assert measured > 500_000
    assert measured < 1.01 * predicted.peak
    assert predicted.peak < (1.3 if recompute else 1.01) * measured


def test_recomputing_takes_less_memory_and_more_operations(target):
    options = TrainOptions(steps=4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        plain, again = (
            measure_step(*problem(target, "fused", options), options, recompute=recompute, autocast=False)
            for recompute in (False, True)
        )
    assert again.peak < 0.7 * plain.peak
    assert 1.1 * plain.operations < again.operations < 1.4 * plain.operations


@pytest.mark.parametrize("ema", [0.0, 0.99])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_what_stays_is_what_weights_optimizer_and_average_hold(target, optimizer, ema):
    options = TrainOptions(optimizer=optimizer, ema=ema, batch_tokens=64)
    config = head_config_for(target.config, layout="eagle3", draft_vocab_size=40, taps=(1, 2, 3))
    found = estimate(target.config, config, options, Sequences(10, 20), online=True, recompute=False)
    own = LmHead(torch.nn.Parameter(torch.zeros(40, 32)))
    weights = trained_weights(EagleHead(config, embedding_weight=torch.zeros(97, 32), own_lm_head=own))
    stepper = HeadOptimizer(weights, optimizer, weight_decay=0.0)
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    stepper.step(1e-3, 1e-3)
    held = [*weights.values(), *(x for name, x in stepper.state().items() if not name.startswith("step."))]
    held += [torch.zeros(97, 32), *(AveragedWeights(weights, ema).weights.values() if ema else ())]
    assert found.head == sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert found.parameters == sum(weight.numel() for weight in weights.values())
    assert found.target == 2 * sum(weight.numel() for weight in target.parameters())


def test_public_sizes_are_those_of_the_published_models():
    counts = {name: target_parameters(public_config(name)) for name in ("1B", "8B", "70B")}
    assert counts == {"1B": 1_235_814_400, "8B": 8_030_261_248, "70B": 70_553_706_496}


def test_several_cards_take_as_long_and_the_exchange(target):
    options = TrainOptions(batch_tokens=64)
    found = estimate(
        target.config, head_config_for(target.config), options, Sequences(10, 20), online=True, recompute=False
    )
    for card in CARDS:
        more = found.seconds(card, cards=8) - found.seconds(card)
        assert more == pytest.approx(8 * found.parameters / 200e9)
    on_disk = estimate(
        target.config, head_config_for(target.config), options, Sequences(10, 20), online=False, recompute=False
    )
    assert (on_disk.target_pass, on_disk.target_operations) == (0, 0)
    assert on_disk.total < found.total


@pytest.mark.slow
def test_the_table_in_the_documentation_is_what_the_code_says():
    text = (Path(ROOT) / "docs" / "training.md").read_text()
    assert "\n".join(public_table()) in text
