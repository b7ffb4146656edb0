"""The target's hidden states over recorded answers: what a draft reads of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from frspec_cli.answers.records import Answer, pad_ids
from frspec_cli.models.finite import finite_rows, not_finite

TARGET_TOKENS = 4096  # positions (padding included) in one pass of the target


@dataclass(frozen=True, eq=False)
class States:
    """What a draft reads of the target over one answer of N ids.

    last: [N-1, H], post-norm states of positions 0..N-2.
    taps: one [N-1, H] for each tapped entry of `hidden_states`.
    """

    last: torch.Tensor
    taps: tuple[torch.Tensor, ...]


def target_states(
    model: Any, answers: Sequence[Answer], *, layers: Sequence[int], whole: bool = False
) -> Iterator[tuple[int, States]]:
    """(index, states on the model's device) of every answer, shortest first, from one pass of the target over each.

    model: transformers' causal LM.
    layers: the `hidden_states` indices that `taps` holds, in this order.
    whole: include the state of the last id, so that tensors are [N, H]; no draft reads it.
    Right-padded answers of similar length share a pass.
    Raises `FrspecError` if a state is not finite, naming the answer.
    """
    batch: list[int] = []
    for index in sorted(range(len(answers)), key=lambda i: len(answers[i].ids)):
        if batch and (len(batch) + 1) * len(answers[index].ids) > TARGET_TOKENS:
            yield from _batch_states(model, answers, batch, layers, whole)
            batch = []
        batch.append(index)
    if batch:
        yield from _batch_states(model, answers, batch, layers, whole)


def padded_pass(model: Any, answers: Sequence[Answer]) -> tuple[Any, torch.Tensor]:
    """One pass of the target's decoder over right-padded answers: (its output, attention mask int64 [B, T])."""
    ids, mask = pad_ids(list(answers))
    mask = mask.to(model.device)
    with torch.no_grad():
        out = model.base_model(
            input_ids=ids.to(model.device), attention_mask=mask, use_cache=False, output_hidden_states=True
        )
    return out, mask


def _batch_states(
    model: Any, answers: Sequence[Answer], batch: list[int], layers: Sequence[int], whole: bool
) -> Iterator[tuple[int, States]]:
    out, mask = padded_pass(model, [answers[i] for i in batch])
    for row, finite in enumerate((finite_rows(out.last_hidden_state) | (mask == 0)).all(dim=1).tolist()):
        if not finite:
            answer = answers[batch[row]]
            name = f"answer {answer.id}" if answer.id else f"answer {batch[row] + 1}"
            raise not_finite(model, answer.ids.tolist(), f"over {name}")
    for row, i in enumerate(batch):
        end = len(answers[i].ids) - (not whole)
        taps = tuple(out.hidden_states[layer][row, :end] for layer in layers)
        yield i, States(out.last_hidden_state[row, :end], taps)
