"""What a text is between two cycles, and what a cycle yields."""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers.cache_utils import Cache

from frspec_cli.decoding.attention import TargetMasks
from frspec_cli.decoding.cache import SlotBuffer
from frspec_cli.models.target import Target


class Workspace(NamedTuple):
    """The target's cache of one length, and what goes with it."""

    buffer: SlotBuffer
    cache: Cache
    masks: TargetMasks

    @staticmethod
    def of(target: Target, length: int) -> Workspace:
        buffer = SlotBuffer.for_model(target.config, length=length, dtype=target.dtype, device=target.device)
        config = target.config
        groups = config.num_attention_heads // buffer.kv_heads
        masks = TargetMasks(config, length=length, dtype=target.dtype, device=target.device, groups=groups)
        return Workspace(buffer, buffer.as_cache(), masks)


class State(NamedTuple):
    """Where a text is between two cycles.

    workspace: the target's cache, whose first `committed` rows are final; the rows behind them are written in place.
    reach: what the host knows of `committed`: it is at most this.
    committed: int64 [1], how many: the text's tokens but the last one.
    valid: int64 [1], how many rows of the drafter's last block count.
    root: int64 [1], the text's last token, which the target has not read yet.
    """

    workspace: Workspace
    reach: int
    committed: torch.Tensor
    valid: torch.Tensor
    root: torch.Tensor


class Verified(NamedTuple):
    """What the target's step over a tree of N nodes and depth D yields.

    scores: [N, V], what the target maximised.
    path: int64 [D + 1], the accepted nodes, root first.
    outcome: int64 [D + 2], the number of accepted drafts, then the target's token after each node of the path. The number is
        -1 if the logits of a node of the path are not all finite.
    valid: int64 [1], accepted + 1.
    root: int64 [1], the last token that counts.
    states: [D + 1, H] each, the tapped hidden states of the path, the post-norm one last.
    """

    scores: torch.Tensor
    path: torch.Tensor
    outcome: torch.Tensor
    valid: torch.Tensor
    root: torch.Tensor
    states: tuple[torch.Tensor, ...]
