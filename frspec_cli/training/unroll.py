"""Training-time test (EAGLE-3, arXiv 2503.01840): the draft's steps on its own outputs, all queries in parallel.

Step 0 reads the target's features. Step k reads, at the query's own place, the output of step k - 1 and the token k
further on, at position id + k; it attends to the step-0 keys that the query saw, to the query's own keys of steps 1..k, and
to nothing else: exactly a draft of k + 1 tokens from that query, for every query at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from frspec_cli.decoding.attention import additive
from frspec_cli.heads.head import EagleHead
from frspec_cli.training.batches import Batch


def unroll(head: EagleHead, batch: Batch, *, steps: int) -> Iterator[torch.Tensor]:
    """Yields the predicted features of step 0, 1, .., each [B, R, H]; query q of step k predicts what q + k of step 0 does.

    Beyond keys and values, only the rows of queries are computed. Rows whose tokens are past an answer's end are
    meaningless: the caller leaves them out (`valid_queries`).
    """
    layer, attention = head.layer, head.layer.self_attn
    size, width = batch.tokens.shape
    places = (batch.starts[:, None] + torch.arange(batch.longest, device=batch.tokens.device)).clamp(max=width - 1)

    embeddings = head.embed(batch.tokens)
    x = head.layer_input(embeddings, head.fuse(batch.last, batch.taps))
    everywhere = torch.arange(width, device=x.device).expand(size, width)
    keys, values = attention.keys_and_values(layer.attention_input(embeddings, x), head.rotary(everywhere))
    embeddings, x = _take(embeddings, places), _take(x, places)
    mask = _causal_mask(places, width, keys.dtype)
    diagonal = additive(torch.eye(batch.longest, dtype=torch.bool, device=x.device), keys.dtype)

    hidden = x
    for step in range(steps):
        rotary = head.rotary(places + step)
        if step:
            tokens = batch.tokens.gather(1, (places + step).clamp(max=width - 1))
            embeddings = head.embed(tokens)
            x = head.layer_input(embeddings, hidden)
            own_keys, own_values = attention.keys_and_values(layer.attention_input(embeddings, x), rotary)
            keys, values = torch.cat((keys, own_keys), 2), torch.cat((values, own_values), 2)
            mask = torch.cat((mask, diagonal.expand(size, 1, -1, -1)), -1)
        attended = attention.attend(layer.attention_input(embeddings, x), rotary, mask, keys, values)
        hidden = head.finish(x, attended)
        yield hidden


def valid_queries(batch: Batch, step: int) -> torch.Tensor:
    """bool [B, R]: where step `step` predicts a token that the answer has."""
    return torch.arange(batch.longest, device=batch.queries.device) + step < batch.queries[:, None]


def teacher_at(batch: Batch, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Teacher ids and probabilities [n, m] of step `step`'s valid queries, in `valid_queries` order."""
    valid = valid_queries(batch, step)
    ids, probabilities = (
        torch.cat((x[:, step:], x[:, :step]), 1)[valid] for x in (batch.teacher_ids, batch.teacher_probabilities)
    )
    return ids, probabilities


def _take(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def _causal_mask(places: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive [B, 1, R, T]: the query at each place sees the keys up to it."""
    visible = torch.arange(width, device=places.device) <= places[..., None]
    return additive(visible.flatten(0, 1), dtype).view(len(places), 1, -1, width)
