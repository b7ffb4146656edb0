"""The moving average of a head's weights: what the last steps' noise leaves."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class AveragedWeights:
    """a <- d a + (1 - d) w after each step, with d = min(decay, (1 + step) / (10 + step)), so that the start is forgotten.

    weights: by name, the averages; float32 copies of their own.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, torch.Tensor], step: int) -> None:
        """Takes in the weights after step `step` (the first is 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, average in self.weights.items():
            average.lerp_(weights[name].detach(), 1.0 - decay)
