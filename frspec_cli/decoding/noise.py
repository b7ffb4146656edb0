"""The noise that makes a seed's choices fixed: a function of the seed and the absolute position."""

from __future__ import annotations

import torch


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
