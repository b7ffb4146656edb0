"""One batch through all unrolled steps: what is descended, and what is reported."""

from __future__ import annotations

import math

import torch
from torch.utils.checkpoint import checkpoint

from frspec_cli.heads.head import EagleHead
from frspec_cli.training.batches import Batch
from frspec_cli.training.loss import LossRows, draft_loss
from frspec_cli.training.options import TrainOptions
from frspec_cli.training.unroll import teacher_at, unroll


def batch_loss(
    head: EagleHead, batch: Batch, rows: LossRows, *, tokens: int, options: TrainOptions, recompute: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch's share of a step's loss, and float32 [3, steps]: its sums of loss and agreement, and queries, by draft step.

    tokens: answered tokens of all batches of the step, so that a token weighs the same in a short batch.
    recompute: keep only what a draft step yields, and compute the rest, logits too, again in the backward pass.
    """
    device = batch.tokens.device
    total, sums = torch.zeros((), device=device), torch.zeros(3, options.steps, device=device)
    weights = [options.decay**k for k in range(options.steps)]

    def loss_of(
        hidden: torch.Tensor, ids: torch.Tensor, probabilities: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return draft_loss(
            head.lm_input(hidden),
            rows,
            teacher_ids=ids,
            teacher_probabilities=probabilities,
            objective=options.objective,
        )

    for k, hidden in enumerate(unroll(head, batch, steps=options.steps, recompute=recompute)):
        taught = (hidden[0], *teacher_at(batch, k))
        loss, agrees = checkpoint(loss_of, *taught, use_reentrant=False) if recompute else loss_of(*taught)
        total = total + weights[k] * loss.sum() / tokens
        sums[:, k] = torch.stack((loss.detach().sum(), agrees.sum(), torch.tensor(len(loss)).to(loss)))
    return total / math.fsum(weights), sums
