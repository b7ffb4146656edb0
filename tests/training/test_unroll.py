"""The unrolled training steps are the draft's own steps, done for all queries of all packed answers at once."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.training.batches import epoch_order, make_batch
from frspec_cli.training.features import FeatureStore
from frspec_cli.training.packed_attention import PackedAttention
from frspec_cli.training.unroll import teacher_at, unroll

LAYOUTS = [("fused", (1, 2), None), ("mtp", None, None), ("eagle2", None, None), ("eagle3", (1, 2, 3), 20)]


class GrowingCache:
    def __init__(self):
        self.keys = self.values = None

    def update(self, keys, values):
        self.keys = keys if self.keys is None else torch.cat((self.keys, keys), 2)
        self.values = values if self.values is None else torch.cat((self.values, values), 2)
        return self.keys, self.values


def random_head(target, *, spread=0.3, **options) -> EagleHead:
    head = EagleHead(
        head_config_for(target.config, **options), embedding_weight=target.get_input_embeddings().weight
    ).to(target.dtype)
    generator = torch.Generator().manual_seed(11)
    for parameter in head.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=target.dtype) * spread)
    return head


def batch_of(target, chosen, folder, *, taps):
    store = FeatureStore(target, chosen, taps=taps, folder=folder, identity="tiny")
    return store, make_batch(chosen, store.take(range(len(chosen))), device="cpu")


def draft(head, answer, feature, query, steps) -> list[torch.Tensor]:
    """The features that a draft predicts from one query, step by step with a cache: [H] each."""
    ids, cache = torch.from_numpy(answer.ids), GrowingCache()
    root = answer.prompt_length - 1 + query
    length = root + 1
    hidden = head(
        head.embed(ids[None, 1 : length + 1]),
        head.fuse(feature.last[None, :length], tuple(tap[None, :length] for tap in feature.taps)),
        torch.arange(length)[None],
        torch.full((length, length), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None],
        [cache],
    )[:, -1:]
    found = [hidden[0, 0]]
    for step in range(1, min(steps, answer.queries - query)):
        token = ids[None, root + 1 + step : root + 2 + step]
        mask = torch.zeros(1, 1, 1, length + step, dtype=torch.float64)
        hidden = head(head.embed(token), hidden, torch.tensor([[root + step]]), mask, [cache])
        found.append(hidden[0, 0])
    return found


@pytest.mark.parametrize(("layout", "taps", "rows"), LAYOUTS)
def test_unrolled_steps_and_gradients_equal_a_draft_run_step_by_step(target64, answers, tmp_path, layout, taps, rows):
    """Answers of 8 to 27 tokens: two calls of the kernel, seven steps, two query heads for each key head."""
    chosen = [answers[1], answers[8], answers[11], answers[35]]
    spread = 0.15 if layout == "eagle2" else 0.3  # without norms, seven steps would take rounding errors with them
    head = random_head(target64, taps=taps, layout=layout, draft_vocab_size=rows, spread=spread)
    store, batch = batch_of(target64, chosen, tmp_path, taps=head.taps)
    packed = list(unroll(head, batch, steps=7))
    drafts = [draft(head, a, store[i], q, 7) for i, a in enumerate(chosen) for q in range(a.queries)]
    weights = torch.Generator().manual_seed(1)
    one = two = torch.zeros((), dtype=torch.float64)
    for step, found in enumerate(packed):
        expected = torch.stack([each[step] for each in drafts if len(each) > step])
        assert found.shape == (1, *expected.shape)
        assert (found[0] - expected).abs().max() < 1e-9 * max(1.0, expected.abs().max())
        weight = torch.randn(expected.shape, generator=weights, dtype=torch.float64)
        one, two = one + (found[0] * weight).sum(), two + (expected * weight).sum()
    assert len(packed) == 7
    parameters = [p for name, p in head.named_parameters() if name != "norm.weight"]  # that is before the LM head
    ours, theirs = (torch.autograd.grad(total, parameters, retain_graph=True) for total in (one, two))
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine - reference).abs().max() < 1e-9 * reference.abs().max()


def test_each_step_is_taught_the_distribution_of_the_token_that_it_predicts(target64, answers, tmp_path):
    chosen = [answers[2], answers[10]]
    _, batch = batch_of(target64, chosen, tmp_path, taps=())
    for step in range(3):
        ids, probabilities = teacher_at(batch, step)
        expected = []
        for answer in chosen:
            logits = target64(input_ids=torch.from_numpy(answer.ids)[None]).logits[0].float()
            # Query q of step k predicts token prompt_length + 1 + q + k: the logits one position before it.
            expected.append(logits[answer.prompt_length + step : -1].softmax(-1))
        expected = torch.cat(expected)
        assert len(expected) == len(ids) == len(batch.left_at(step))
        kept = probabilities > 0
        torch.testing.assert_close(expected.gather(1, ids)[kept], probabilities[kept], atol=1e-6, rtol=1e-5)
        assert torch.equal(ids[:, 0], expected.argmax(-1))


def test_an_answer_does_not_see_those_that_it_is_packed_with(target64, answers, tmp_path):
    chosen = [answers[0], answers[11], answers[20]]
    head = random_head(target64, taps=(1, 2)).requires_grad_(False)
    store, batch = batch_of(target64, chosen, tmp_path, taps=(1, 2))
    together = list(unroll(head, batch, steps=3))
    before = [0, 0, 0]
    for index, answer in enumerate(chosen):
        alone = list(unroll(head, make_batch([answer], [store[index]], device="cpu"), steps=3))
        for step, hidden in enumerate(alone):
            count = answer.queries - step
            mine = together[step][:, before[step] : before[step] + count]
            torch.testing.assert_close(mine, hidden, atol=1e-12, rtol=0)
            before[step] += count


def test_recomputed_steps_are_the_same_bits_and_keep_less(target, answers, tmp_path):
    chosen = answers[20:36]
    head = random_head(target, taps=(1, 2))
    _, batch = batch_of(target, chosen, tmp_path, taps=(1, 2))
    found = []
    for recompute in (False, True):
        kept: dict[int, int] = {}

        def keep(tensor, kept=kept):
            kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        head.zero_grad()
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = list(unroll(head, batch, steps=4, recompute=recompute))
        sum(out.square().sum() for out in outputs).backward()
        gradients = [p.grad.clone() for p in head.parameters() if p.grad is not None]
        found.append((outputs, gradients, sum(kept.values())))
    for one, other in zip(found[0][:2], found[1][:2], strict=True):
        assert len(one) == len(other) > 0
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert found[1][2] < 0.7 * found[0][2]


def test_nothing_that_is_kept_grows_with_the_square_of_an_answer():
    """A mask, or scores, of 400 queries and as many keys have 160,000 numbers and more."""
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(400, 1, 4, generator=generator, requires_grad=True) for _ in range(2))
    largest = 0

    def keep(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        attention = PackedAttention(keys, values, lengths=[400], slots=3)
        attention(keys * 2, torch.arange(400), [(keys + 1, values)] * 3).sum().backward()
    assert largest <= (400 + 3) * 16


def test_scores_with_own_keys_keep_their_precision_in_bfloat16():
    """Scores of about 60, of which bfloat16 alone keeps 8 bits: the weights would be off by a tenth."""
    generator = torch.Generator().manual_seed(0)
    keys, values, queries = (torch.randn(40, 2, 16, generator=generator).bfloat16() * 2 for _ in range(3))
    own = [
        (queries * 1.5 + 0.1 * torch.randn(40, 2, 16, generator=generator).bfloat16(), values.roll(j, 0))
        for j in (1, 2)
    ]
    found, exact = (
        PackedAttention(keys.to(dtype), values.to(dtype), lengths=[25, 15], slots=2)(
            queries.to(dtype), torch.arange(40), [(k.to(dtype), v.to(dtype)) for k, v in own]
        ).double()
        for dtype in (torch.bfloat16, torch.float64)
    )
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize("size", [250, 264])
def test_wide_heads_attend_alike(size):
    """Past 256 dimensions keys are repeated for the kernel."""
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(9, 1, size, generator=generator, dtype=torch.float64) for _ in range(2))
    queries = torch.randn(9, 2, size, generator=generator, dtype=torch.float64)
    found = PackedAttention(keys, values, lengths=[5, 4], slots=1)(queries, torch.arange(9), [(keys * 2, values * 3)])
    for row in range(9):
        first = 0 if row < 5 else 5
        seen = (
            torch.cat((keys[first : row + 1, 0], keys[row] * 2)),
            torch.cat((values[first : row + 1, 0], values[row] * 3)),
        )
        expected = (queries[row] @ seen[0].T * size**-0.5).softmax(-1) @ seen[1]
        assert (found[row].view(2, size) - expected).abs().max() < 1e-9


def test_batches_are_packed_up_to_their_answered_tokens(answers):
    for batch_tokens in (1, 30, 64):
        batches = epoch_order(answers, batch_tokens=batch_tokens, seed=0, epoch=0)
        assert sorted(i for batch in batches for i in batch) == list(range(40))
        sums = [sum(answers[i].queries for i in batch) for batch in batches]
        assert all(total <= batch_tokens or len(batch) == 1 for total, batch in zip(sums, batches, strict=True))
        if batch_tokens > 1:
            assert sum(sums) / len(sums) > 0.75 * batch_tokens
