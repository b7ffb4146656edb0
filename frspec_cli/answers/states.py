"""The target's hidden states over recorded answers: what a draft reads of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from frspec_cli.answers.records import Answer, pad_ids

_TARGET_TOKENS = 4096  # positions (padding included) in one pass of the target


@dataclass(frozen=True, eq=False)
class States:
    """What a draft reads of the target over one answer of N ids.

    last: [N-1, H], post-norm states of positions 0..N-2. taps: one [N-1, H] each.
    """

    last: torch.Tensor
    taps: tuple[torch.Tensor, ...]


def read_states(model: Any, answers: Sequence[Answer], *, taps: tuple[int, ...]) -> Iterator[tuple[int, States]]:
    """(index, states on the model's device) of every answer, shortest first: one pass of the target over each.

    model: transformers' causal LM. taps: `hidden_states` indices. Right-padded answers of like length share a pass.
    """
    batch: list[int] = []
    for index in sorted(range(len(answers)), key=lambda i: len(answers[i].ids)):
        if batch and (len(batch) + 1) * len(answers[index].ids) > _TARGET_TOKENS:
            yield from _pass(model, answers, batch, taps)
            batch = []
        batch.append(index)
    yield from _pass(model, answers, batch, taps)


def _pass(
    model: Any, answers: Sequence[Answer], batch: list[int], taps: tuple[int, ...]
) -> Iterator[tuple[int, States]]:
    ids, mask = pad_ids([answers[i] for i in batch])
    with torch.no_grad():  # not around a yield: it would reach into the caller
        out = model.base_model(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            use_cache=False,
            output_hidden_states=True,
        )
    for row, i in enumerate(batch):
        end = len(answers[i].ids) - 1
        yield i, States(out.last_hidden_state[row, :end], tuple(out.hidden_states[tap][row, :end] for tap in taps))
