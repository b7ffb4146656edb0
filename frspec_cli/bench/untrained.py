"""A draft head of the right shape with untrained weights, for timing when no trained one exists.

The cost of a cycle depends on shapes alone, never on the values of the weights; nothing else that such a head does
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
"""The value of the option `draft` that asks for such a head."""


def with_untrained_head(pipeline: Pipeline, *, k: int, seed: int = 0) -> Pipeline:
    """The pipeline with a random head in our own layout, as `train-draft` would shape it, and a subset.

    If there is no subset, it is the first k ids: which rows they are makes no difference to the cost.
    """
    target = pipeline.target
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = EagleHead(head_config_for(target.config), embedding_weight=target.embedding)
    head = head.to(target.device, target.dtype).eval().requires_grad_(False)
    subset = pipeline.subset or first_ids(min(k, target.rows))
    vocab = pipeline.vocab or "the first ids"
    return dataclasses.replace(pipeline, head=head, subset=subset, draft=NAME, vocab=vocab)


def first_ids(k: int) -> VocabularySubset:
    """A subset of the ids 0 to k - 1: which rows they are makes no difference to the cost."""
    return VocabularySubset(
        token_ids=np.arange(k, dtype=np.int32),
        tokens=[b""] * k,
        counts=np.zeros(k, dtype=np.int64),
        reasons=np.full(k, REASONS.index("frequency"), dtype=np.int8),
    )
