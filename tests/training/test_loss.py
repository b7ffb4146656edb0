"""The loss: exact over all rows, unbiased over a sample, biased over the subset alone."""

from __future__ import annotations

import torch

from frspec_cli.models.lm_head import LmHead
from frspec_cli.training.loss import choose_rows, cross_entropy

V, H, Q, M = 200, 16, 12, 5


def problem():
    generator = torch.Generator().manual_seed(0)
    head = LmHead(torch.randn(V, H, generator=generator))
    hidden = torch.randn(Q, H, generator=generator)
    ids = torch.stack([torch.randperm(V, generator=generator)[:M] for _ in range(Q)])
    probabilities = torch.rand(Q, M, generator=generator)
    probabilities[:, -1] = 0  # left out
    return head, hidden, ids, probabilities / probabilities.sum(-1, keepdim=True)


def loss_with(sampled, seed=0):
    head, hidden, ids, probabilities = problem()
    rows = choose_rows(
        head,
        frequent=torch.arange(20),
        teacher_ids=ids[probabilities > 0],
        sampled=sampled,
        generator=torch.Generator().manual_seed(seed),
    )
    loss, agrees = cross_entropy(hidden, rows, teacher_ids=ids, teacher_probabilities=probabilities)
    return loss, agrees, rows


def test_all_rows_give_the_cross_entropy_over_the_whole_vocabulary():
    head, hidden, ids, probabilities = problem()
    full = torch.zeros(Q, V).scatter_(1, ids, probabilities)
    expected = -(full * head(hidden).log_softmax(-1)).sum(-1)
    loss, agrees, _ = loss_with(None)
    torch.testing.assert_close(loss, expected)
    assert torch.equal(agrees, head(hidden).argmax(-1) == ids[:, 0])


def test_the_sampled_partition_function_has_the_full_one_as_its_expectation():
    head, hidden, _, _ = problem()
    full = head(hidden).exp().sum(-1).double()
    estimates = []
    for seed in range(400):
        _, _, rows = loss_with(30, seed)
        estimates.append((rows.head(hidden) + rows.log_weights).exp().sum(-1).double())
    estimates = torch.stack(estimates)
    error = (estimates.mean(0) - full) / (estimates.std(0) / len(estimates) ** 0.5)
    # 12 means of 400 draws: |z| > 5 for one of them happens by chance about once in 10^5 (and the seeds are fixed).
    assert error.abs().max() < 5


def test_a_larger_sample_is_closer_to_the_full_loss():
    full, _, _ = loss_with(None)
    errors = [
        torch.stack([(loss_with(n, seed)[0] - full).abs().mean() for seed in range(50)]).mean() for n in (5, 30, 100)
    ]
    assert errors[0] > errors[1] > errors[2]
    everything, _, rows = loss_with(V)
    torch.testing.assert_close(everything, full)
    assert rows.head.size == V


def test_subset_only_never_counts_the_rows_outside():
    full, _, _ = loss_with(None)
    subset, _, rows = loss_with(0)
    assert (subset < full).all()
    assert rows.head.size < V
    assert not rows.log_weights.any()
