"""Sampling options, transformers' own warpers in transformers' order, and the noise that makes a seed's choices fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from frspec_cli.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: temperature 0 is greedy; seed fixes every choice."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UsageError(f"--temperature {self.temperature} is negative.")
        if self.top_k < 0 or not 0 < self.top_p <= 1 or not 0 <= self.min_p < 1:
            raise UsageError("--top-k must be 0 (off) or more, --top-p in (0, 1], --min-p in [0, 1).")
        if self.greedy and (self.top_k or self.top_p < 1 or self.min_p):
            raise UsageError("--top-k, --top-p and --min-p mean nothing at --temperature 0; give a --temperature.")

    @property
    def greedy(self) -> bool:
        """Whether the argmax is taken."""
        return self.temperature == 0

    def warpers(self) -> list[Any]:
        """transformers' logits warpers for these options, in its order (temperature, top-k, top-p, min-p)."""
        from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        found: list[Any] = [TemperatureLogitsWarper(float(self.temperature))] if self.temperature != 1 else []
        if self.top_k:
            found.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            found.append(TopPLogitsWarper(self.top_p))
        if self.min_p:
            found.append(MinPLogitsWarper(self.min_p))
        return found


class GumbelNoise:
    """Gumbel noise of a position, float32 [V], a function of (seed, position) and of nothing else."""

    def __init__(self, seed: int, size: int, device: torch.device) -> None:
        self.seed = seed
        self.size = size
        self.generator = torch.Generator(device=device)
        self._recent: dict[int, torch.Tensor] = {}

    def at(self, position: int) -> torch.Tensor:
        """The noise with which the token at absolute `position` is chosen."""
        if position not in self._recent:
            self.generator.manual_seed(_mix(self.seed, position))
            draw = torch.empty(self.size, device=self.generator.device).exponential_(generator=self.generator)
            self._recent[position] = draw.clamp_(min=torch.finfo(torch.float32).tiny).log_().neg_()
        return self._recent[position]

    def rows(self, first: int, count: int) -> torch.Tensor:
        """float32 [count, V] for the positions from `first` on; noise of earlier positions is forgotten."""
        self._recent = {position: row for position, row in self._recent.items() if position >= first}
        return torch.stack([self.at(position) for position in range(first, first + count)])


def _mix(seed: int, position: int) -> int:
    """A 63-bit seed for (seed, position): splitmix64's finaliser, so that neighbours share nothing."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1
