"""What a start is made from: the target's states over a few answers, and least squares on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from frspec_cli.answers.records import Answer, pad_ids

_POSITIONS = 12_000  # about five times the unknowns per output
_RIDGE = 1e-3  # of the mean diagonal
BATCH = 8
"""Answers in one pass of the target."""


@dataclass(frozen=True, eq=False)
class Seen:
    """The target's states over one answer of N ids. ids: int64 [N]. last: float32 [N, H], post-norm. hidden: the entries of
    `hidden_states`, each [N, H]. start: the first position worth learning from."""

    ids: torch.Tensor
    last: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    start: int


@torch.no_grad()
def states(target: Any, answers: list[Answer], *, device: torch.device | str) -> Iterator[Seen]:
    """States of the first answers with some 12,000 positions, answer by answer; ids and last on `device`."""
    seen = 0
    for first in range(0, len(answers), BATCH):
        if seen >= _POSITIONS:
            return
        group = answers[first : first + BATCH]
        ids, mask = pad_ids(group)
        out = target.base_model(
            input_ids=ids.to(target.device),
            attention_mask=mask.to(target.device),
            use_cache=False,
            output_hidden_states=True,
        )
        last = out.last_hidden_state.to(device, torch.float32)
        ids = ids.to(device)
        for row, answer in enumerate(group):
            end = len(answer.ids)
            start = max(answer.prompt_length - 1, 1)  # position 0, an attention sink, is no sample
            hidden = tuple(state[row, :end] for state in out.hidden_states)
            yield Seen(ids[row, :end], last[row, :end], hidden, start)
            seen += end - start - 1


class Ridge:
    """argmin_W |W x - y|^2 + ridge, from samples that come in parts."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """x [n, inputs], y [n, outputs]."""
        x, y = x.double().cpu(), y.double().cpu()
        self.gram += x.T @ x
        self.cross += x.T @ y

    def solve(self) -> torch.Tensor:
        """W, float32 [outputs, inputs]."""
        gram = self.gram + torch.eye(len(self.gram), dtype=torch.float64) * (self.gram.diagonal().mean() * _RIDGE)
        return torch.linalg.solve(gram, self.cross).T.float()
