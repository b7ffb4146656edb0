"""The unrolled training steps are the draft's own steps, done for all queries at once."""

from __future__ import annotations

import torch

from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.training.batches import make_batch
from frspec_cli.training.features import FeatureStore
from frspec_cli.training.unroll import teacher_at, unroll, valid_queries


class GrowingCache:
    def __init__(self):
        self.keys = self.values = None

    def update(self, keys, values):
        self.keys = keys if self.keys is None else torch.cat((self.keys, keys), 2)
        self.values = values if self.values is None else torch.cat((self.values, values), 2)
        return self.keys, self.values


def random_head(target, **options) -> EagleHead:
    head = EagleHead(
        head_config_for(target.config, **options), embedding_weight=target.get_input_embeddings().weight
    ).to(target.dtype)
    generator = torch.Generator().manual_seed(11)
    for parameter in head.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=target.dtype) * 0.3)
    return head.requires_grad_(False)


def test_unrolled_steps_equal_a_draft_run_step_by_step_with_a_cache(target64, answers, tmp_path):
    chosen = [answers[1], answers[8], answers[11]]
    store = FeatureStore(target64, chosen, taps=(1, 2), folder=tmp_path, identity="tiny")
    head = random_head(target64, taps=(1, 2))
    batch = make_batch(chosen, [store[i] for i in range(3)], device="cpu")
    unrolled = list(unroll(head, batch, steps=4))
    compared = 0
    for row, answer in enumerate(chosen):
        ids, feature = torch.from_numpy(answer.ids), store[row]
        for query in range(answer.queries):
            cache = GrowingCache()
            root = answer.prompt_length - 1 + query
            length = root + 1
            hidden = head(
                head.embed(ids[None, 1 : length + 1]),
                head.fuse(feature.last[None, :length], tuple(tap[None, :length] for tap in feature.taps)),
                torch.arange(length)[None],
                torch.full((length, length), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None],
                [cache],
            )[:, -1:]
            for step in range(min(4, answer.queries - query)):
                if step:
                    token = ids[None, root + 1 + step : root + 2 + step]
                    mask = torch.zeros(1, 1, 1, length + step, dtype=torch.float64)
                    hidden = head(head.embed(token), hidden, torch.tensor([[root + step]]), mask, [cache])
                assert (unrolled[step][row, query] - hidden[0, 0]).abs().max() < 1e-9
                compared += 1
    assert compared > 60


def test_each_step_is_taught_the_distribution_of_the_token_that_it_predicts(target64, answers, tmp_path):
    chosen = [answers[2], answers[10]]
    store = FeatureStore(target64, chosen, taps=(), folder=tmp_path, identity="tiny")
    batch = make_batch(chosen, [store[i] for i in range(2)], device="cpu")
    for step in range(3):
        ids, probabilities = teacher_at(batch, step)
        expected = []
        for answer in chosen:
            logits = target64(input_ids=torch.from_numpy(answer.ids)[None]).logits[0].float()
            # Query q of step k predicts token prompt_length + 1 + q + k: the logits one position before it.
            expected.append(logits[answer.prompt_length + step : -1].softmax(-1))
        expected = torch.cat(expected)
        assert len(expected) == len(ids) == int(valid_queries(batch, step).sum())
        kept = probabilities > 0
        torch.testing.assert_close(expected.gather(1, ids)[kept], probabilities[kept], atol=1e-6, rtol=1e-5)
        assert torch.equal(ids[:, 0], expected.argmax(-1))


def test_padding_changes_nothing(target64, answers, tmp_path):
    chosen = [answers[0], answers[11]]
    store = FeatureStore(target64, chosen, taps=(1, 2), folder=tmp_path, identity="tiny")
    head = random_head(target64, taps=(1, 2))
    together = list(unroll(head, make_batch(chosen, [store[0], store[1]], device="cpu"), steps=2))
    alone = list(unroll(head, make_batch(chosen[:1], [store[0]], device="cpu"), steps=2))
    for step in range(2):
        count = chosen[0].queries - step
        torch.testing.assert_close(together[step][0, :count], alone[step][0, :count], atol=1e-12, rtol=0)
