"""How good the head is now: held-out answers replayed with the head as it would be saved."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from frspec_cli.answers.records import Answer
from frspec_cli.counting.ranking import rank_by_count
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.replay.cycles import Acceptance, replay
from frspec_cli.training.features import FeatureSource

VALIDATION_ROWS = 8192
"""The draft proposes from this many tokens, the most frequent ones of the answers, if it has no LM head of its own."""


def validation_rows(head: EagleHead, lm_head: LmHead, counts: np.ndarray) -> LmHead:
    """The LM head rows that the draft proposes from in validation; counts: int64 [V], how often each token was answered."""
    own = head.own_lm_head
    if own is not None:
        return LmHead(own.weight.detach().to(lm_head.weight.dtype), ids=own.ids)
    order = rank_by_count(counts)[:VALIDATION_ROWS]
    return lm_head.rows(torch.from_numpy(order.copy()))


def acceptance_of(
    head: EagleHead, rows: LmHead, answers: Sequence[Answer], features: FeatureSource, tree: TreeConfig
) -> Acceptance:
    """Replays `answers` with a copy of `head` in bfloat16, as it is saved, computed in the dtype of `rows`."""
    saved = copy.deepcopy(head).to(torch.bfloat16).to(rows.weight.dtype).eval()
    texts = list(zip(answers, features.take(range(len(answers))), strict=True))
    return Acceptance.of(replay(saved, rows, texts, tree=tree))
