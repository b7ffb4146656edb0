"""From answers and features to packed batches, in an order that is a function of seed and epoch alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from frspec_cli.answers.records import Answer
from frspec_cli.training.features import SHARD_ANSWERS, Features

_WINDOW_SHARDS = 8  # shards read together: batches mix their answers, and few files are open at once
MINIMUM_PROBABILITY = 1e-3
"""Teacher tokens below this are left out: together they are a few per cent, but they would double the rows computed."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Answers one after another, without padding: N draft positions, of which Q are queries.

    Draft position i of an answer stands for (token i+1, feature f_i); its query q is draft position
    prompt_length - 1 + q and predicts token prompt_length + 1 + q.

    tokens: int64 [N], token i+1 at draft position i.
    last: [N, H].
    taps: each [N, H].
    places: int64 [N], the draft position within its answer.
    lengths: draft positions of each answer.
    queries_at: int64 [Q], the queries' indices among the N positions.
    left: int64 [Q], for each query the number of its answer's queries from it on, itself included. In numpy: the shapes of
        all steps are known without waiting for the device.
    teacher_ids: int64 [Q, m].
    teacher_probabilities: float32 [Q, m], 0 for tokens that are left out.
    """

    tokens: torch.Tensor
    last: torch.Tensor
    taps: tuple[torch.Tensor, ...]
    places: torch.Tensor
    lengths: tuple[int, ...]
    queries_at: torch.Tensor
    left: np.ndarray
    teacher_ids: torch.Tensor
    teacher_probabilities: torch.Tensor

    def left_at(self, step: int, *, of: int = 0) -> torch.Tensor:
        """int64 [n]: the queries whose step `step` predicts a token of their answer, numbered among those of step `of`."""
        left = self.left[self.left > of]
        return torch.from_numpy(np.flatnonzero(left > step)).to(self.tokens.device)


def epoch_order(answers: list[Answer], *, batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches of answer indices with at most `batch_tokens` queries each (one answer at least).

    Shards are shuffled and read in windows; within a window answers of similar length share a batch, and the batches are
    shuffled. So the target's passes and the attention pad little, reading is local, and the first epoch makes its features
    as it goes.
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
    total = 0
    for i in members:
        total += answers[i].queries
        if not batches or total > batch_tokens:
            batches.append([])
            total = answers[i].queries
        batches[-1].append(i)
    return batches


def make_batch(answers: list[Answer], features: list[Features], *, device: torch.device | str) -> Batch:
    """Packs answers and their features into a batch on `device`; features keep their dtype."""
    lengths = [len(answer.ids) - 2 for answer in answers]
    probabilities = torch.cat([feature.teacher_probabilities for feature in features])
    kept = torch.where(probabilities >= MINIMUM_PROBABILITY, probabilities, 0.0)
    kept[:, 0] = probabilities[:, 0]
    places, queries_at, left, before = [], [], [], 0
    for answer, length in zip(answers, lengths, strict=True):
        places.append(torch.arange(length))
        queries_at.append(torch.arange(answer.prompt_length - 1, length) + before)
        left.append(np.arange(answer.queries, 0, -1))
        before += length
    tokens = torch.cat([torch.from_numpy(answer.ids[1:-1]) for answer in answers])

    def packed(states: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([state[:length] for state, length in zip(states, lengths, strict=True)]).to(device)

    return Batch(
        tokens.to(device),
        packed([feature.last for feature in features]),
        tuple(packed(list(taps)) for taps in zip(*(feature.taps for feature in features), strict=True)),
        torch.cat(places).to(device),
        tuple(lengths),
        torch.cat(queries_at).to(device),
        np.concatenate(left),
        torch.cat([feature.teacher_ids for feature in features]).to(device),
        kept.to(device),
    )
