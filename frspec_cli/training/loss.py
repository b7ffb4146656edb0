"""A loss that is fair to the whole vocabulary but computes only some of its rows.

Cross-entropy against the teacher p is  -sum_v p_v z_v + log sum_v exp(z_v).  The first sum needs the teacher's tokens
only. The second runs over all V rows; here it is taken exactly over a set S (frequent tokens and the teacher's) and
estimated over the rest from n rows drawn anew at every step, each standing for (V - |S|) / n rows:

    log( sum_{v in S} exp(z_v) + (V - |S|) / n * sum_{v in sample} exp(z_v) )

The sum inside is unbiased, so no row is free to rise unpunished: a head trained over S alone would never learn to push
the others down, and would look bad in EAGLE-2 and flattered in FR-Spec. Rows drawn by weight stand for other numbers of
rows each, and the sum stays unbiased.

Instead of the cross-entropy, the acceptance sum_v min(p_v, q_v) of one drafted token may be maximised (arXiv 2602.23881).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from frspec_cli.models.lm_head import LmHead
from frspec_cli.training.options import ObjectiveName

_TRUST = 3.0  # how fast lk-lambda turns from cross-entropy to acceptance as that rises


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
    sampling_weights: torch.Tensor | None = None,
) -> LossRows:
    """S = frequent ids [K] and all `teacher_ids` (any shape), plus `sampled` of the others, without repeats.

    sampled: None takes all V rows (the exact loss); 0 takes S alone (the biased, subset-only loss).
    generator: on the CPU.
    sampling_weights: float64 [V] on the CPU, above 0: likelier rows are drawn more often; None draws all alike.
    """
    size, device = head.size, head.weight.device
    certain = torch.zeros(size, dtype=torch.bool)
    certain[frequent.cpu()] = True
    certain[teacher_ids.flatten().cpu()] = True
    if sampled is None:
        ids, log_weights = torch.arange(size), torch.zeros(size)
    else:
        if sampling_weights is None:
            drawn, drawn_weights = _uniform(certain, sampled, generator)
        else:
            drawn, drawn_weights = _by_weight(certain, sampled, generator, sampling_weights)
        ids = torch.cat((certain.nonzero().flatten(), drawn))
        log_weights = torch.cat((torch.zeros(len(ids) - len(drawn)), drawn_weights))
    row_of = torch.full((size,), -1, dtype=torch.int64)
    row_of[ids] = torch.arange(len(ids))
    return LossRows(head.rows(ids.to(device)), log_weights.to(device), row_of.to(device))


def _uniform(certain: torch.Tensor, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` of the rows that are not certain: ids int64 [n], and log of the rows that each stands for, float32 [n]."""
    order = torch.randperm(len(certain), generator=generator)
    rest = order[~certain[order]]
    drawn = rest[:count]
    return drawn, torch.full((len(drawn),), math.log(len(rest) / len(drawn)) if len(drawn) else 0.0)


def _by_weight(
    certain: torch.Tensor, count: int, generator: torch.Generator, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, each row with a chance in proportion to its weight, 1 at most: steps of 1 along the chances in random order.

    Such a row stands for 1 / chance rows (Horvitz and Thompson), so that logits that follow the weights cost no variance.
    """
    order = torch.randperm(len(certain), generator=generator)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    rest = order[~certain[order]]
    if count == 0 or count >= len(rest):
        return rest[:count], torch.zeros(min(count, len(rest)))
    chances = _chances(weights[rest], count)
    passed = (torch.cat((torch.zeros(1), chances)).cumsum(0) - start).floor()
    drawn = passed[1:] > passed[:-1]
    return rest[drawn], -chances[drawn].log().float()


def _chances(weights: torch.Tensor, count: int) -> torch.Tensor:
    """In proportion to `weights`, at most 1, with the sum `count`."""
    sure = torch.zeros(len(weights), dtype=torch.bool)
    while True:
        chances = torch.where(sure, 1.0, weights * ((count - sure.sum()) / weights[~sure].sum()))
        if not (over := chances > 1).any():
            return chances
        sure |= over


def own_rows(head: LmHead, *, size: int) -> LossRows:
    """All rows of a draft's own LM head, for a vocabulary of `size`: the loss of EAGLE-3."""
    ids = torch.arange(head.size, device=head.weight.device) if head.ids is None else head.ids
    row_of = torch.full((size,), -1, dtype=torch.int64, device=ids.device)
    row_of[ids] = torch.arange(len(ids), device=ids.device)
    return LossRows(head, torch.zeros(len(ids), device=ids.device), row_of)


def draft_loss(
    hidden: torch.Tensor,
    rows: LossRows,
    *,
    teacher_ids: torch.Tensor,
    teacher_probabilities: torch.Tensor,
    objective: ObjectiveName = "kl",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of the head over hidden [Q, H] against the teacher's truncated distribution, float32 [Q]; and whether the
    head's best row is the teacher's best token, bool [Q].

    teacher_ids: int64 [Q, m], most probable first.
    teacher_probabilities: float32 [Q, m]; 0 leaves an id out, as does a missing row.
    objective: "kl" is the cross-entropy against the probabilities that are left, divided by their sum. With acceptance
        a = sum of min(p, q) over them (undivided), "lk-alpha" is -log a, and "lk-lambda" is w * cross-entropy +
        (1 - w) * (1 - a) with w = exp(-3 * mean of a), taken as a constant (arXiv 2602.23881).
    If the best token has no row there is nothing to learn: loss 0, no agreement (EAGLE-3, arXiv 2503.01840, masks these
    positions).
    """
    logits = rows.head(hidden).float()
    log_partition = (logits + rows.log_weights).logsumexp(-1)
    at = rows.row_of[teacher_ids]
    kept = (teacher_probabilities > 0) & (at >= 0)
    at_teacher = logits.gather(1, torch.where(kept, at, 0))
    probabilities = torch.where(kept, teacher_probabilities, 0.0)
    learnt = at[:, 0] >= 0
    if objective == "kl":
        loss = _cross_entropy(log_partition, at_teacher, probabilities)
    else:
        log_draft = at_teacher - log_partition[:, None]
        log_acceptance = _log_overlap(log_draft, probabilities, kept)
        loss = -log_acceptance
        if objective == "lk-lambda":
            acceptance = log_acceptance.exp()
            weight = (-_TRUST * acceptance.detach()[learnt].mean()).exp()
            loss = weight * _cross_entropy(log_partition, at_teacher, probabilities) + (1 - weight) * (1 - acceptance)
    return torch.where(learnt, loss, 0.0), learnt & (logits.detach().argmax(-1) == at[:, 0])


def _cross_entropy(log_partition: torch.Tensor, at_teacher: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """[Q], from the head's log Z [Q], and of the teacher's tokens the logits and probabilities (0: left out), [Q, m]."""
    target = probabilities / probabilities.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return log_partition - (target * at_teacher).sum(-1)


def _log_overlap(log_draft: torch.Tensor, probabilities: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """log of sum_v min(p_v, q_v) over the tokens that are kept, [Q]; in logarithms, so that a far draft has a gradient too."""
    lowest = torch.finfo(torch.float32).min
    return torch.where(kept, log_draft.minimum(probabilities.log()), lowest).logsumexp(-1)
