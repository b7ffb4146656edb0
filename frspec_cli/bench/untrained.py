"""A draft head of the right shape with untrained weights, for timing where no trained one exists.

What a cycle costs depends on shapes alone, never on what the weights are good for; nothing else that such a head does
(acceptance, tokens per second) means anything.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.subsets.subset import REASONS, VocabularySubset

NAME = "random"
"""What `--draft` says for such a head."""


def with_untrained_head(parts: Pipeline, *, k: int, seed: int = 0) -> Pipeline:
    """`parts` with a random head in our own layout, as `train-draft` would shape it, and a subset.

    Without a subset at hand it is the first k ids: which rows they are costs nothing either way.
    """
    target = parts.target
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = EagleHead(head_config_for(target.config), embedding_weight=target.embedding)
    head = head.to(target.device, target.dtype).eval().requires_grad_(False)
    subset = parts.subset or _first_ids(min(k, target.rows))
    vocab = parts.vocab or "the first ids"
    return dataclasses.replace(parts, head=head, subset=subset, draft=NAME, vocab=vocab)


def _first_ids(k: int) -> VocabularySubset:
    return VocabularySubset(
        token_ids=np.arange(k, dtype=np.int32),
        tokens=[b""] * k,
        counts=np.zeros(k, dtype=np.int64),
        reasons=np.full(k, REASONS.index("frequency"), dtype=np.int8),
    )
