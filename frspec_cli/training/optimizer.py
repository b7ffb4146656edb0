"""The optimizer of a draft head: Muon for its matrices and AdamW for the rest, or AdamW for all.

Muon (https://kellerjordan.github.io/posts/muon/) steps along the gradient's nearest orthogonal matrix, so that no
direction is left behind. Its steps are scaled to the size of AdamW's (arXiv 2502.16982, section 2.2).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

OptimizerName = Literal["muon", "adamw"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
LEARNING_RATES: dict[OptimizerName, float] = {"muon": 4e-3, "adamw": 1e-3}
"""Peaks that suit a head of a few million parameters (docs/log.md)."""


class HeadOptimizer:
    """Steps `weights` (by their names in a head's file) at a rate that each step names.

    A matrix with a row for each token (an LM head of the draft's own) is AdamW's also under "muon": most of its rows see
    no gradient in a step, and orthogonal steps would move them all.
    """

    def __init__(self, weights: dict[str, torch.Tensor], name: OptimizerName, *, weight_decay: float) -> None:
        matrices = {key: w for key, w in weights.items() if name == "muon" and w.ndim == 2 and key != "lm_head.weight"}
        rest = {key: weight for key, weight in weights.items() if key not in matrices}
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest.values(), betas=(0.9, 0.95), weight_decay=weight_decay)
        ]
        if matrices:
            muon = torch.optim.Muon(matrices.values(), weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self._parts.append(muon)
        self._part = {key: self._parts[key in matrices] for key in weights}
        self._weights = weights

    def step(self, rate: float) -> None:
        """One step at learning rate `rate`; the gradients are gone afterwards."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """All that it remembers, by "what.weight's name"."""
        return {
            f"{what}.{key}": value
            for key, weight in self._weights.items()
            for what, value in self._part[key].state[weight].items()
        }

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Takes up what `state` gave; its "step" counters stay on the CPU, as AdamW wants them."""
        for name, value in state.items():
            what, _, key = name.partition(".")
            weight = self._weights[key]
            self._part[key].state[weight][what] = value.to("cpu" if what == "step" else weight.device)
