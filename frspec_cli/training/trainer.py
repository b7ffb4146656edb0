"""The training loop: every step is a function of (weights, optimizer, step number), so a resumed run is the same run.

The order of batches and the rows sampled for the loss are drawn from generators seeded by (seed, epoch) and (seed,
step); nothing random is carried from step to step, and a checkpoint is weights, the optimizer's state and the step number.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from frspec_cli.answers.records import Answer
from frspec_cli.counting.ranking import rank_by_count
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.training.average import AveragedWeights
from frspec_cli.training.batches import epoch_order, make_batch
from frspec_cli.training.features import FeatureSource
from frspec_cli.training.loss import LossRows, choose_rows, own_rows
from frspec_cli.training.optimizer import HeadOptimizer
from frspec_cli.training.options import TrainOptions, learning_rates
from frspec_cli.training.ranks import Ranks
from frspec_cli.training.step import batch_loss

FREQUENT_ROWS = 2048
_POWER = 0.75  # of a token's count: how often it is drawn as a negative


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step, over all its batches.

    loss: by draft step.
    agreement: by draft step, the share of queries whose draft argmax is the teacher's.
    tokens: answered tokens.
    """

    step: int
    epoch: int
    loss: tuple[float, ...]
    agreement: tuple[float, ...]
    learning_rate: float
    tokens: int


class Trainer:
    """Head, optimizer and the number of steps taken; `average` has the averaged weights, on the main rank and if asked for.

    head: float32 master weights.
    lm_head: the target's, over all V rows, float32 or bfloat16.
    counts: int64 [V], how often each token was answered.
    autocast: bfloat16 matmuls; off: float32.
    ranks: the processes that share the batches of each step.
    recompute: compute each draft step again in the backward pass, see `unroll`; the weights are the same.
    """

    def __init__(
        self,
        head: EagleHead,
        lm_head: LmHead,
        answers: list[Answer],
        features: FeatureSource,
        options: TrainOptions,
        *,
        counts: np.ndarray,
        autocast: bool = True,
        ranks: Ranks | None = None,
        recompute: bool = False,
    ) -> None:
        self.head, self.lm_head, self.answers, self.features = head, lm_head, answers, features
        self.options, self.autocast, self.ranks = options, autocast, ranks or Ranks()
        self.recompute = recompute
        self.step = 0
        self.device = head.embedding_weight.device
        order = rank_by_count(counts)[:FREQUENT_ROWS]
        self._frequent = torch.from_numpy(order.copy())
        self._drawn_by = torch.from_numpy((counts + 1.0) ** _POWER) if options.negatives == "frequency" else None
        self.weights = trained_weights(head)
        self.optimizer = HeadOptimizer(self.weights, options.optimizer, weight_decay=options.weight_decay)
        self.rates = learning_rates(options, width=head.config.hidden_size, own_rows=head.own_lm_head is not None)
        self.average = AveragedWeights(self.weights, options.ema) if options.ema and self.ranks.main else None
        self._together = options.accumulate * self.ranks.count  # batches in a step
        self._plans = [
            epoch_order(answers, batch_tokens=options.batch_tokens, seed=options.seed, epoch=epoch)
            for epoch in range(options.epochs)
        ]
        self.total_steps = sum(-(-len(plan) // self._together) for plan in self._plans)

    def run(self) -> Iterator[StepRecord]:
        """Takes the remaining steps, one record each; `self.step` counts the steps taken."""
        step = 0
        for epoch, plan in enumerate(self._plans):
            for first in range(0, len(plan), self._together):
                if step >= self.step:
                    yield self._take_step(epoch, plan[first : first + self._together])
                step += 1

    def share_of_peak(self, step: int) -> float:
        """What the learning rates are multiplied by: linear warm-up, then linear decay to the final share."""
        warm = max(1, round(self.options.warmup * self.total_steps))
        left = max(0.0, (self.total_steps - step) / max(1, self.total_steps - warm))
        final = self.options.final_rate
        return min((step + 1) / warm, final + (1 - final) * left)

    def evaluated_head(self) -> EagleHead:
        """The head to validate and to save: a copy with the averaged weights, if there are any."""
        if self.average is None:
            return self.head
        embedding = self.head.embedding_weight
        head = copy.deepcopy(self.head, {id(embedding): embedding})
        with torch.no_grad():
            for name, weight in trained_weights(head).items():
                weight.copy_(self.average.weights[name])
        return head

    def _take_step(self, epoch: int, batches: list[list[int]]) -> StepRecord:
        """One optimizer step over `batches` of answer indices; this rank computes every `ranks.count`-th of them.

        The loss is divided by the answered tokens of all of them, so that a token weighs the same in a short batch.
        """
        share = self.share_of_peak(self.step)
        tokens = sum(self.answers[i].queries for members in batches for i in members)
        self.features.prepare([i for members in batches for i in members], self.ranks)
        sums = torch.zeros(3, self.options.steps, device=self.device)
        for index in range(self.ranks.index, len(batches), self.ranks.count):
            number = self.step * self._together + index
            seed = (self.options.seed * 1_000_003 + 500_009 + number) % 2**63
            self._backward(batches[index], tokens, sums, seed=seed)
        if self.ranks.count > 1:
            self.ranks.add_up([sums, *self._gradients()])
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.options.clip)
        self.optimizer.step(self.rates.matrices * share, self.rates.rest * share)
        self.step += 1
        if self.average is not None:
            self.average.update(self.weights, self.step)
        losses, agreed, queries = sums[:, sums[2] > 0]
        return StepRecord(
            step=self.step,
            epoch=epoch,
            loss=tuple((losses / queries).tolist()),
            agreement=tuple((agreed / queries).tolist()),
            learning_rate=self.rates.matrices * share,
            tokens=tokens,
        )

    def _backward(self, members: list[int], tokens: int, sums: torch.Tensor, *, seed: int) -> None:
        """Adds one batch's share of the step's gradients, and its sums of loss, agreement and queries to `sums`."""
        answers = [self.answers[i] for i in members]
        batch = make_batch(answers, self.features.take(members), device=self.device)
        rows = self._rows(batch.teacher_ids[batch.teacher_probabilities > 0], seed=seed)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss, found = batch_loss(
                self.head, batch, rows, tokens=tokens, options=self.options, recompute=self.recompute
            )
        loss.backward()
        sums += found

    def _rows(self, teacher_ids: torch.Tensor, *, seed: int) -> LossRows:
        if self.head.own_lm_head is not None:
            return own_rows(self.head.own_lm_head, size=self.lm_head.size)
        return choose_rows(
            self.lm_head,
            frequent=self._frequent,
            teacher_ids=teacher_ids,
            sampled=self.options.sampled_rows,
            generator=torch.Generator().manual_seed(seed),
            sampling_weights=self._drawn_by,
        )

    def _gradients(self) -> list[torch.Tensor]:
        """All gradients; zeros where this rank had no batch in the step."""
        for weight in self.weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        return [weight.grad for weight in self.weights.values() if weight.grad is not None]


def trained_weights(head: EagleHead) -> dict[str, torch.Tensor]:
    """The weights that training changes, by their names in a head's file: the parameters, and the head's own LM head."""
    weights: dict[str, torch.Tensor] = dict(head.named_parameters())
    if head.own_lm_head is not None:
        weights["lm_head.weight"] = head.own_lm_head.weight
    return weights
