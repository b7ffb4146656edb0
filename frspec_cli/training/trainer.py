"""The training loop: every step is a function of (weights, optimizer, step number), so a resumed run is the same run.

The order of batches and the rows sampled for the loss are drawn from generators seeded by (seed, epoch) and (seed,
step); nothing random is carried from step to step, and a checkpoint is weights, AdamW's moments and the step number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from frspec_cli.drafting.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.training.answers import Answer
from frspec_cli.training.batches import epoch_order, make_batch
from frspec_cli.training.features import FeatureStore
from frspec_cli.training.loss import choose_rows, cross_entropy
from frspec_cli.training.unroll import teacher_at, unroll, valid_queries

_FREQUENT_ROWS = 2048


@dataclass(frozen=True)
class TrainOptions:
    """What determines the weights, given answers and target.

    epochs: passes over the answers. batch_tokens: padded queries in a batch. learning_rate: AdamW's peak; warm-up over
    the first `warmup` share of the steps, then linear to a hundredth. steps: unrolled draft steps, step k weighing
    decay^k. sampled_rows: see `loss`; None is the exact loss, 0 the biased subset-only one.
    """

    epochs: int = 8
    batch_tokens: int = 1024
    learning_rate: float = 1e-3
    warmup: float = 0.03
    steps: int = 4
    decay: float = 0.8
    sampled_rows: int | None = 1024
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step. loss and agreement (share of queries whose draft argmax is the teacher's) by draft step."""

    step: int
    epoch: int
    loss: tuple[float, ...]
    agreement: tuple[float, ...]
    learning_rate: float
    tokens: int


class Trainer:
    """Head, optimizer and the step number that says where the run is.

    head: float32 master weights. lm_head: the target's, over all V rows, float32 or bfloat16. autocast: bfloat16
    matmuls (off: float32).
    """

    def __init__(
        self,
        head: EagleHead,
        lm_head: LmHead,
        answers: list[Answer],
        features: FeatureStore,
        options: TrainOptions,
        *,
        counts: np.ndarray,
        autocast: bool = True,
    ) -> None:
        self.head, self.lm_head, self.answers, self.features = head, lm_head, answers, features
        self.options, self.autocast = options, autocast
        self.step = 0
        order = np.lexsort((np.arange(len(counts)), -counts))[:_FREQUENT_ROWS]
        self._frequent = torch.from_numpy(order.copy())
        self.optimizer = torch.optim.AdamW(
            head.parameters(), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=options.weight_decay
        )
        self._plans = [
            epoch_order(answers, batch_tokens=options.batch_tokens, seed=options.seed, epoch=epoch)
            for epoch in range(options.epochs)
        ]
        self.total_steps = sum(len(plan) for plan in self._plans)

    def run(self) -> Iterator[StepRecord]:
        """Takes the remaining steps, one record each; `self.step` counts the steps taken."""
        first = 0
        for epoch, plan in enumerate(self._plans):
            for index, members in enumerate(plan):
                if first + index >= self.step:
                    yield self._take_step(epoch, members)
            first += len(plan)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to a hundredth of the peak."""
        warm = max(1, round(self.options.warmup * self.total_steps))
        left = max(0.0, (self.total_steps - step) / max(1, self.total_steps - warm))
        return self.options.learning_rate * min((step + 1) / warm, 0.01 + 0.99 * left)

    def _take_step(self, epoch: int, members: list[int]) -> StepRecord:
        options, device = self.options, self.head.embedding_weight.device
        answers = [self.answers[i] for i in members]
        batch = make_batch(answers, [self.features[i] for i in members], device=device)
        used = batch.teacher_ids[batch.teacher_probabilities > 0]
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + 500_009 + self.step)
        rows = choose_rows(
            self.lm_head,
            frequent=self._frequent,
            teacher_ids=used,
            sampled=options.sampled_rows,
            generator=generator,
        )
        rate = self.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total, losses, agreements = torch.zeros((), device=device), [], []
        weights = [options.decay**k for k in range(options.steps)]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            for k, hidden in enumerate(unroll(self.head, batch, steps=options.steps)):
                valid = valid_queries(batch, k)
                if not valid.any():
                    break
                teacher_ids, probabilities = teacher_at(batch, k)
                loss, agrees = cross_entropy(
                    self.head.lm_input(hidden[valid]),
                    rows,
                    teacher_ids=teacher_ids,
                    teacher_probabilities=probabilities,
                )
                total = total + weights[k] * loss.sum() / batch.queries.sum()
                losses.append(loss.detach().mean())
                agreements.append(agrees.float().mean())
        (total / math.fsum(weights)).backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return StepRecord(
            step=self.step,
            epoch=epoch,
            loss=tuple(torch.stack(losses).tolist()),
            agreement=tuple(torch.stack(agreements).tolist()),
            learning_rate=rate,
            tokens=int(batch.queries.sum()),
        )
