"""The optimizer of a draft head: Muon for its matrices and AdamW for the rest, or AdamW for all.

Muon (https://kellerjordan.github.io/posts/muon/) steps along the gradient's nearest orthogonal matrix, so that no
direction is left behind. Its steps are scaled to the size of AdamW's (arXiv 2502.16982, section 2.2).
"""

from __future__ import annotations

import torch

from frspec_cli.training.options import OptimizerName


def is_matrix(name: str, weight: torch.Tensor) -> bool:
    """Whether Muon steps a weight.

    A matrix with a row for each token (the draft's own LM head) gets AdamW: most of its rows have no gradient in a step, and
    orthogonal steps would move them all.
    """
    return weight.ndim == 2 and name != "lm_head.weight"


class HeadOptimizer:
    """Steps `weights` (by their names in a head's file), each step at learning rates of its own."""

    def __init__(self, weights: dict[str, torch.Tensor], name: OptimizerName, *, weight_decay: float) -> None:
        matrices = {key: weight for key, weight in weights.items() if name == "muon" and is_matrix(key, weight)}
        rest = {key: weight for key, weight in weights.items() if key not in matrices}
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest.values(), betas=(0.9, 0.95), weight_decay=weight_decay)
        ]
        if matrices:
            muon = torch.optim.Muon(matrices.values(), weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self._parts.append(muon)
        self._part = {key: self._parts[key in matrices] for key in weights}
        self._weights = weights

    def step(self, rate: float, rest: float) -> None:
        """One step; clears the gradients. rate: Muon's; rest: of what AdamW steps, which may be all weights."""
        for part, own in zip(self._parts, (rest, rate), strict=False):
            for group in part.param_groups:
                group["lr"] = own
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """All its state, by "name of the state.name of the weight"."""
        return {
            f"{what}.{key}": value
            for key, weight in self._weights.items()
            for what, value in self._part[key].state[weight].items()
        }

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what `state` returned; the "step" counters stay on the CPU, as AdamW requires."""
        for name, value in state.items():
            what, _, key = name.partition(".")
            weight = self._weights[key]
            self._part[key].state[weight][what] = value.to("cpu" if what == "step" else weight.device)
