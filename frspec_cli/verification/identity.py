"""Is an output the target's? Checked by ids, and by re-scoring when rounding may have broken a tie.

Plain decoding runs one row at a time and verification many: their logits differ in the last bits, so a near tie of the
two most likely tokens may fall either way. In float32 a difference counts as such only if the top-2 margin is below
`NEAR_TIE`, and then the prompt is decoded again in float64, where the ids must be equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from frspec_cli.decoding.attention import TargetMasks, use_kernel
from frspec_cli.decoding.cache import SlotBuffer, cache_length
from frspec_cli.models.target import Target

NEAR_TIE = 1e-3
"""Largest top-2 margin, in logits, at which a float32 run may differ (one row against 64: up to 4e-5 in a logit)."""


@dataclass(frozen=True)
class Scores:
    """A prefill over prompt and emitted ids, at the N emitted positions.

    best: the argmax before each emitted id.
    margin: the difference of the two highest logits.
    unit: one unit in the last place of the highest.
    """

    best: list[int]
    margin: list[float]
    unit: list[float]


@dataclass(frozen=True)
class Mismatch:
    """An emitted id that is not the argmax of the re-scoring prefill: its position, and the top-2 margin there."""

    position: int
    margin: float

    @property
    def is_near_tie(self) -> bool:
        """Whether rounding may explain it in float32."""
        return self.margin < NEAR_TIE


@torch.inference_mode()
def score(target: Target, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> Scores:
    """One prefill over both; what the target would have emitted greedily at each of the N emitted positions."""
    use_kernel(target.model)
    device, dtype = target.device, target.dtype
    ids = torch.tensor([*prompt_ids, *token_ids[:-1]], dtype=torch.int64, device=device)
    length = cache_length(len(ids))
    buffer = SlotBuffer.for_model(target.config, length=length, dtype=dtype, device=device)
    rows = torch.arange(len(ids), device=device)
    buffer.slots = rows
    masks = TargetMasks(target.config, length=length, dtype=dtype, device=device)
    out = target.model(
        input_ids=ids[None],
        position_ids=rows[None],
        attention_mask=masks(rows, rows, rows[:, None] >= rows[None, :]),
        past_key_values=buffer.as_cache(),
        use_cache=True,
        logits_to_keep=rows[-len(token_ids) :],  # an index copies these rows; a count leads to a copy of the LM head
    )
    top = out.logits[0].topk(2, dim=-1)
    return Scores(
        best=top.indices[:, 0].tolist(),
        margin=(top.values[:, 0] - top.values[:, 1]).tolist(),
        unit=[unit_in_last_place(value) for value in top.values[:, 0]],
    )


def differences(scores: Scores, token_ids: Sequence[int]) -> list[Mismatch]:
    """Every emitted id that is not the prefill's argmax: [] proves greedy identity by induction over the positions."""
    return [
        Mismatch(position, margin)
        for position, (best, margin, token) in enumerate(zip(scores.best, scores.margin, token_ids, strict=True))
        if best != token
    ]


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The first position at which two id lists differ (a missing id differs); None if they are equal."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return None if len(a) == len(b) else min(len(a), len(b))


def unit_in_last_place(value: torch.Tensor) -> float:
    """The distance from |value| to the next number of its dtype."""
    size = value.abs()
    return float(torch.nextafter(size, torch.full_like(size, float("inf"))) - size)
