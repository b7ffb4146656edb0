"""The loss: exact over all rows, unbiased over a sample, biased over the subset alone."""

from __future__ import annotations

import pytest
import torch

from frspec_cli.models.lm_head import LmHead
from frspec_cli.training.loss import choose_rows, draft_loss, own_rows

V, H, Q, M = 200, 16, 12, 5


def problem():
    generator = torch.Generator().manual_seed(0)
    head = LmHead(torch.randn(V, H, generator=generator))
    hidden = torch.randn(Q, H, generator=generator)
    ids = torch.stack([torch.randperm(V, generator=generator)[:M] for _ in range(Q)])
    probabilities = torch.rand(Q, M, generator=generator)
    probabilities[:, -1] = 0  # left out
    return head, hidden, ids, probabilities / probabilities.sum(-1, keepdim=True)


ZIPF = 1.0 / torch.arange(1, V + 1, dtype=torch.float64)


def loss_with(sampled, seed=0, sampling_weights=None):
    head, hidden, ids, probabilities = problem()
    rows = choose_rows(
        head,
        frequent=torch.arange(20),
        teacher_ids=ids[probabilities > 0],
        sampled=sampled,
        generator=torch.Generator().manual_seed(seed),
        sampling_weights=sampling_weights,
    )
    loss, agrees = draft_loss(hidden, rows, teacher_ids=ids, teacher_probabilities=probabilities)
    return loss, agrees, rows


def test_all_rows_give_the_cross_entropy_over_the_whole_vocabulary():
    head, hidden, ids, probabilities = problem()
    full = torch.zeros(Q, V).scatter_(1, ids, probabilities)
    expected = -(full * head(hidden).log_softmax(-1)).sum(-1)
    loss, agrees, _ = loss_with(None)
    torch.testing.assert_close(loss, expected)
    assert torch.equal(agrees, head(hidden).argmax(-1) == ids[:, 0])


@pytest.mark.parametrize("weights", [None, ZIPF])
def test_the_sampled_partition_function_has_the_full_one_as_its_expectation(weights):
    head, hidden, _, _ = problem()
    full = head(hidden).exp().sum(-1).double()
    estimates = []
    for seed in range(400):
        _, _, rows = loss_with(30, seed, weights)
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


def test_rows_drawn_by_weight_estimate_better_where_weights_follow_the_logits():
    """Logits fall with the id, as those of rare tokens do: uniform rows mostly miss what the partition function is made of."""
    head, hidden = LmHead(ZIPF.log().float()[:, None]), torch.ones(1, 1)
    errors = {}
    for name, weights in (("uniform", None), ("frequency", ZIPF**0.75)):
        drawn = [
            choose_rows(
                head,
                frequent=torch.arange(3),
                teacher_ids=torch.tensor([5]),
                sampled=20,
                generator=torch.Generator().manual_seed(seed),
                sampling_weights=weights,
            )
            for seed in range(200)
        ]
        assert all(len(set(rows.head.ids.tolist())) == 24 for rows in drawn)
        logs = torch.stack([(rows.head(hidden) + rows.log_weights).logsumexp(-1) for rows in drawn])
        errors[name] = float((logs - ZIPF.sum().log()).square().mean().sqrt())
    assert errors["frequency"] < 0.3 * errors["uniform"]


@pytest.mark.parametrize("count", [0, V])
def test_no_rows_and_all_rows_need_no_weights(count):
    _, _, uniform = loss_with(count)
    _, _, weighted = loss_with(count, sampling_weights=ZIPF)
    assert sorted(weighted.head.ids.tolist()) == sorted(uniform.head.ids.tolist())
    assert not weighted.log_weights.any()


def overlap(objective):
    """(loss [Q], acceptance [Q], cross-entropy [Q]) over all rows, and the hidden states."""
    head, hidden, ids, probabilities = problem()
    probabilities = probabilities * 0.8  # a fifth of the teacher's mass is in tokens that are not kept
    hidden = hidden.double().requires_grad_()
    rows = own_rows(LmHead(head.weight.double()), size=V)
    loss, _ = draft_loss(hidden, rows, teacher_ids=ids, teacher_probabilities=probabilities, objective=objective)
    full = torch.zeros(Q, V, dtype=torch.float64).scatter_(1, ids, probabilities.double())
    law = (hidden @ head.weight.double().T).softmax(-1)
    acceptance = torch.minimum(full, law).sum(-1)
    cross = -(full / full.sum(-1, keepdim=True) * law.log()).sum(-1)
    return loss, acceptance, cross, hidden


def test_lk_alpha_is_the_negative_log_of_the_acceptance():
    loss, acceptance, _, hidden = overlap("lk-alpha")
    torch.testing.assert_close(loss, -acceptance.log().float(), atol=1e-5, rtol=1e-5)
    mine, theirs = (
        torch.autograd.grad(total, hidden, retain_graph=True)[0] for total in (loss.sum(), -acceptance.log().sum())
    )
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_lk_lambda_blends_by_the_acceptance_taken_as_a_constant():
    loss, acceptance, cross, hidden = overlap("lk-lambda")
    weight = (-3.0 * acceptance.detach().mean()).exp()
    expected = weight * cross + (1 - weight) * (1 - acceptance)
    torch.testing.assert_close(loss, expected.float(), atol=1e-5, rtol=1e-5)
    mine, theirs = (torch.autograd.grad(total, hidden, retain_graph=True)[0] for total in (loss.sum(), expected.sum()))
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("objective", ["lk-alpha", "lk-lambda"])
def test_a_draft_that_is_far_off_has_a_finite_gradient(objective):
    hidden = torch.tensor([[-300.0]], requires_grad=True)
    rows = own_rows(LmHead(torch.tensor([[1.0], [0.0], [0.5]]), ids=torch.tensor([0, 1, 3])), size=5)
    ids, probabilities = torch.tensor([[0, 2, 4]]), torch.tensor([[0.9, 0.1, 0.0]])
    loss, _ = draft_loss(hidden, rows, teacher_ids=ids, teacher_probabilities=probabilities, objective=objective)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert hidden.grad.isfinite().all()
    assert hidden.grad.item() < 0  # a step against it raises the likeliest token
