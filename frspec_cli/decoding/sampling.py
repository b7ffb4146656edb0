"""Sampling options, and transformers' own warpers in transformers' order. Without torch, for the command line's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from frspec_cli.errors import UsageError, option

TEMPERATURES = (1e-4, 1e4)
"""The smallest and the largest that is sampled at. Below, scaled logits leave float32 and a wrong token is drawn; at the
smallest the likeliest token is as good as certain already."""
LARGEST_SEED = 2**63 - 1
"""Generators take no more: larger seeds would be folded onto smaller ones."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    temperature: 0 is greedy, else within `TEMPERATURES`.
    top_k: sample from the K likeliest tokens; 0 is off.
    top_p: sample from the likeliest tokens that hold this share of the probability; 1 is off.
    min_p: leave out tokens below this share of the likeliest one's probability; 0 is off.
    seed: fixes every choice; at most `LARGEST_SEED`.

    Raises `UsageError` if a value is outside its range, or has no effect because decoding is greedy.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        least, most = TEMPERATURES
        if self.temperature < 0:
            raise UsageError(f"{option('temperature')} {self.temperature} is negative.")
        if self.temperature != 0 and not least <= self.temperature <= most:  # not a number is nowhere between
            raise UsageError(
                f"{option('temperature')} {self.temperature} is neither 0 (greedy) nor between {least:g} and {most:g}."
            )
        if self.top_k < 0:
            raise UsageError(f"{option('top_k')} {self.top_k} is negative; 0 is off.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"{option('top_p')} {self.top_p} is not above 0 and at most 1; 1 is off.")
        if not 0 <= self.min_p < 1:
            raise UsageError(f"{option('min_p')} {self.min_p} is not at least 0 and below 1; 0 is off.")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"{option('seed')} {self.seed} is not between 0 and {LARGEST_SEED}.")
        if self.greedy and (self.top_k or self.top_p < 1 or self.min_p):
            raise UsageError(
                f"{option('top_k')}, {option('top_p')} and {option('min_p')} have no effect at {option('temperature')} 0.",
                hint=f"Set {option('temperature')} above 0.",
            )

    @property
    def greedy(self) -> bool:
        """Whether the argmax is taken."""
        return self.temperature == 0

    def warpers(self) -> list[Any]:
        """transformers' logits warpers for these options, in its order (temperature, top-k, top-p, min-p)."""
        from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        warpers: list[Any] = []
        if not self.greedy and self.temperature != 1:
            warpers.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k:
            warpers.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            warpers.append(TopPLogitsWarper(self.top_p))
        if self.min_p:
            warpers.append(MinPLogitsWarper(self.min_p))
        return warpers
