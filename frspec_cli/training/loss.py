"""A loss that is fair to the whole vocabulary but computes only some of its rows.

Cross-entropy against the teacher p is  -sum_v p_v z_v + log sum_v exp(z_v).  The first sum needs the teacher's tokens
only. The second runs over all V rows; here it is taken exactly over a set S (frequent tokens and the teacher's) and
estimated over the rest from n rows drawn anew at every step, each standing for (V - |S|) / n rows:

    log( sum_{v in S} exp(z_v) + (V - |S|) / n * sum_{v in sample} exp(z_v) )

The sum inside is unbiased, so no row is free to rise unpunished: a head trained over S alone would never learn to push
the others down, and would look bad in EAGLE-2 and flattered in FR-Spec.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from frspec_cli.models.lm_head import LmHead


@dataclass(frozen=True, eq=False)
class LossRows:
    """The LM head rows of one training step.

    head: R gathered rows (`head.ids` int64 [R]).
    log_weights: float32 [R], log of the number of rows that each represents.
    row_of: int64 [V], the row of a token id, -1 for a token without one.
    """

    head: LmHead
    log_weights: torch.Tensor
    row_of: torch.Tensor


def choose_rows(
    head: LmHead,
    *,
    frequent: torch.Tensor,
    teacher_ids: torch.Tensor,
    sampled: int | None,
    generator: torch.Generator,
) -> LossRows:
    """S = frequent ids [K] and all `teacher_ids` (any shape), plus `sampled` of the others, uniformly, without repeats.

    sampled: None takes all V rows (the exact loss); 0 takes S alone (the biased, subset-only loss).
    generator: on the CPU.
    """
    size, device = head.size, head.weight.device
    certain = torch.zeros(size, dtype=torch.bool)
    certain[frequent.cpu()] = True
    certain[teacher_ids.flatten().cpu()] = True
    if sampled is None:
        ids, log_weights = torch.arange(size), torch.zeros(size)
    else:
        order = torch.randperm(size, generator=generator)
        rest = order[~certain[order]]
        drawn = rest[:sampled]
        ids = torch.cat((certain.nonzero().flatten(), drawn))
        log_weights = torch.zeros(len(ids))
        if len(drawn):
            log_weights[len(ids) - len(drawn) :] = math.log(len(rest) / len(drawn))
    row_of = torch.full((size,), -1, dtype=torch.int64)
    row_of[ids] = torch.arange(len(ids))
    return LossRows(head.rows(ids.to(device)), log_weights.to(device), row_of.to(device))


def own_rows(head: LmHead, *, size: int) -> LossRows:
    """All rows of a draft's own LM head, for a vocabulary of `size`: the loss of EAGLE-3."""
    ids = torch.arange(head.size, device=head.weight.device) if head.ids is None else head.ids
    row_of = torch.full((size,), -1, dtype=torch.int64, device=ids.device)
    row_of[ids] = torch.arange(len(ids), device=ids.device)
    return LossRows(head, torch.zeros(len(ids), device=ids.device), row_of)


def cross_entropy(
    hidden: torch.Tensor, rows: LossRows, *, teacher_ids: torch.Tensor, teacher_probabilities: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the head over hidden [Q, H] against the teacher's truncated distribution, float32 [Q]; and whether
    the head's best row is the teacher's best token, bool [Q].

    teacher_ids: int64 [Q, m], most probable first.
    teacher_probabilities: float32 [Q, m]; 0 leaves an id out, as does a missing row. The others are divided by their sum.
    If the best token has no row there is nothing to learn: loss 0, no agreement (EAGLE-3, arXiv 2503.01840, masks these
    positions).
    """
    logits = rows.head(hidden).float()
    log_partition = (logits + rows.log_weights).logsumexp(-1)
    at = rows.row_of[teacher_ids]
    kept = (teacher_probabilities > 0) & (at >= 0)
    at_teacher = logits.gather(1, torch.where(kept, at, 0))
    probabilities = torch.where(kept, teacher_probabilities, 0.0)
    target = probabilities / probabilities.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    learnt = at[:, 0] >= 0
    loss = torch.where(learnt, log_partition - (target * at_teacher).sum(-1), 0.0)
    return loss, learnt & (logits.detach().argmax(-1) == at[:, 0])
