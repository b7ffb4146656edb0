"""Training-time test (EAGLE-3, arXiv 2503.01840): the draft's steps on its own outputs, all queries in parallel.

Step 0 reads the target's features. Step k reads, at the query's own place, the output of step k - 1 and the token k
further on, at position id + k; it attends to the step-0 keys that the query saw, to the query's own keys of steps 1..k, and
to nothing else: exactly a draft of k + 1 tokens from that query, for every query at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from frspec_cli.heads.head import EagleHead
from frspec_cli.training.batches import Batch
from frspec_cli.training.packed_attention import PackedAttention


def unroll(head: EagleHead, batch: Batch, *, steps: int, recompute: bool = False) -> Iterator[torch.Tensor]:
    """Yields the predicted features of step 0, 1, .., each [1, n, H] over the queries `batch.left_at(step)`; ends with them.

    Query q of step k predicts what q + k of step 0 does. Beyond keys and values, only the rows of queries are computed.
    recompute: keep only what a step yields, and compute the rest again in the backward pass.
    """
    layer, attention = head.layer, head.layer.self_attn
    embeddings = head.embed(batch.tokens[None])
    x = head.layer_input(embeddings, head.fuse(batch.last[None], tuple(tap[None] for tap in batch.taps)))
    rotary = head.rotary(batch.places[None])
    keys, values = attention.keys_and_values(layer.attention_input(embeddings, x), rotary)
    shared = PackedAttention(_rows(keys), _rows(values), lengths=batch.lengths, slots=steps - 1)

    def attend(embeddings: torch.Tensor, x: torch.Tensor, rotary: Any, at: torch.Tensor, own: Any) -> torch.Tensor:
        queries = attention.queries(layer.attention_input(embeddings, x), rotary)
        mixed = shared(_rows(queries), at, own)
        return head.finish(x, attention.o_proj(mixed)[None])

    def further(hidden: torch.Tensor, at: torch.Tensor, own: Any, step: int) -> tuple[torch.Tensor, ...]:
        rotary = head.rotary(batch.places[at][None] + step)
        embeddings = head.embed(batch.tokens[at + step][None])
        x = head.layer_input(embeddings, hidden)
        new = tuple(map(_rows, attention.keys_and_values(layer.attention_input(embeddings, x), rotary)))
        return attend(embeddings, x, rotary, at, [*own, new]), *new

    run = _recomputed if recompute else _plainly
    at = batch.queries_at
    hidden = run(attend, embeddings[:, at], x[:, at], head.rotary(batch.places[at][None]), at, ())
    yield hidden
    own: list[tuple[torch.Tensor, ...]] = []
    for step in range(1, steps):
        kept = batch.left_at(step, of=step - 1)
        if not len(kept):
            return
        at, own = at[kept], [tuple(each[kept] for each in pair) for pair in own]
        hidden, *new = run(further, hidden[:, kept], at, own, step)
        own = [*own, tuple(new)]  # a step that is recomputed must find its own list as it was
        yield hidden


def teacher_at(batch: Batch, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Teacher ids and probabilities [n, m] of step `step`'s queries, in the order of `batch.left_at(step)`."""
    at = batch.left_at(step) + step
    return batch.teacher_ids[at], batch.teacher_probabilities[at]


def _plainly(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    return checkpoint(function, *arguments, use_reentrant=False)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """[1, heads, n, D] -> [n, heads, D]."""
    return x[0].transpose(0, 1)
