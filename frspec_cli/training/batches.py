"""From answers and features to padded batches, in an order that is a function of seed and epoch alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from frspec_cli.answers.records import Answer
from frspec_cli.training.features import SHARD_ANSWERS, Features

_WINDOW_SHARDS = 8  # shards read together: batches mix their answers, and few files are open at once
MINIMUM_PROBABILITY = 1e-3
"""Teacher tokens below this are left out: together they are a few per cent, but they would double the rows computed."""


@dataclass(frozen=True, eq=False)
class Batch:
    """B answers, right-padded. Draft position i stands for (token i+1, feature f_i); query q of an answer is draft
    position prompt_length - 1 + q and predicts token prompt_length + 1 + q.

    tokens: int64 [B, T], token i+1 at draft position i.
    last: [B, T, H].
    taps: each [B, T, H].
    starts: int64 [B], draft position of query 0.
    queries: int64 [B], their number; R is the largest of these.
    teacher_ids: int64 [B, R, m].
    teacher_probabilities: float32 [B, R, m], 0 for tokens that are left out and for padding.
    """

    tokens: torch.Tensor
    last: torch.Tensor
    taps: tuple[torch.Tensor, ...]
    starts: torch.Tensor
    queries: torch.Tensor
    teacher_ids: torch.Tensor
    teacher_probabilities: torch.Tensor

    @property
    def longest(self) -> int:
        """R, the padded number of queries."""
        return self.teacher_ids.shape[1]


def epoch_order(answers: list[Answer], *, batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches of answer indices with at most `batch_tokens` padded queries each (one answer at least).

    Shards are shuffled and read in windows; within a window answers of similar length share a batch, and the batches are
    shuffled. So padding is small, reading is local, and the first epoch makes its features as it goes.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    shards = torch.randperm(-(-len(answers) // SHARD_ANSWERS), generator=generator).tolist()
    batches: list[list[int]] = []
    for start in range(0, len(shards), _WINDOW_SHARDS):
        members = [
            i
            for shard in shards[start : start + _WINDOW_SHARDS]
            for i in range(shard * SHARD_ANSWERS, min((shard + 1) * SHARD_ANSWERS, len(answers)))
        ]
        ties = torch.rand(len(members), generator=generator, dtype=torch.float64).tolist()
        # Lengths in steps of 32: alike enough to pad little, coarse enough that batches differ between epochs.
        keyed = sorted(zip(members, ties, strict=True), key=lambda pair: (len(answers[pair[0]].ids) // 32, pair[1]))
        window = _cut([i for i, _ in keyed], answers, batch_tokens)
        batches += [window[i] for i in torch.randperm(len(window), generator=generator).tolist()]
    return batches


def _cut(members: list[int], answers: list[Answer], batch_tokens: int) -> list[list[int]]:
    batches: list[list[int]] = []
    longest = 0
    for i in members:
        longest = max(longest, answers[i].queries)
        if not batches or (len(batches[-1]) + 1) * longest > batch_tokens:
            batches.append([])
            longest = answers[i].queries
        batches[-1].append(i)
    return batches


def make_batch(answers: list[Answer], features: list[Features], *, device: torch.device | str) -> Batch:
    """Pads answers and their features into a batch on `device`; features keep their dtype."""
    size, longest = len(answers), max(answer.queries for answer in answers)
    width = max(len(answer.ids) for answer in answers) - 2
    hidden = features[0].last
    tokens = torch.zeros(size, width, dtype=torch.int64)
    states = [hidden.new_zeros(size, width, hidden.shape[-1]) for _ in range(1 + len(features[0].taps))]
    teacher_ids = torch.zeros(size, longest, features[0].teacher_ids.shape[-1], dtype=torch.int64)
    teacher_probabilities = torch.zeros(teacher_ids.shape)
    for row, (answer, feature) in enumerate(zip(answers, features, strict=True)):
        length = len(answer.ids) - 2
        tokens[row, :length] = torch.from_numpy(answer.ids[1:-1])
        for padded, state in zip(states, (feature.last, *feature.taps), strict=True):
            padded[row, :length] = state[:length]
        kept = torch.where(feature.teacher_probabilities >= MINIMUM_PROBABILITY, feature.teacher_probabilities, 0.0)
        kept[:, 0] = feature.teacher_probabilities[:, 0]
        teacher_ids[row, : answer.queries] = feature.teacher_ids
        teacher_probabilities[row, : answer.queries] = kept
    return Batch(
        tokens.to(device),
        states[0].to(device),
        tuple(state.to(device) for state in states[1:]),
        torch.tensor([answer.prompt_length - 1 for answer in answers], device=device),
        torch.tensor([answer.queries for answer in answers], device=device),
        teacher_ids.to(device),
        teacher_probabilities.to(device),
    )
