"""What a drafter needs of a draft head, whatever it is: an EAGLE head, or a module of the target's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from frspec_cli.heads.layer import KeyValueCache
from frspec_cli.models.lm_head import LmHead


class HeadSize(Protocol):
    """The sizes of its layers' cache and of its hidden states, and what of its reading no tensor shows."""

    @property
    def layers(self) -> int: ...
    @property
    def window(self) -> int | None: ...
    @property
    def norm_output(self) -> bool: ...
    @property
    def norm_before_residual(self) -> bool: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...


class DraftHead(Protocol):
    """A layer over pairs (token i+1, the target's state at i), whose output is fed back as the state of the next step."""

    own_lm_head: LmHead | None
    """Its own rows; None if the target's LM head is used."""

    @property
    def config(self) -> HeadSize: ...

    @property
    def taps(self) -> tuple[int, ...]:
        """Indices of the target's `hidden_states` that `fuse` needs besides the post-norm last one."""

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, T] -> [B, T, H]."""

    def fuse(self, last: torch.Tensor, taps: tuple[torch.Tensor, ...] = ()) -> torch.Tensor:
        """The target's post-norm last state and its taps, each [B, T, H] -> features [B, T, H]."""

    def __call__(
        self,
        embeddings: torch.Tensor,
        features: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        caches: Sequence[KeyValueCache] = (),
    ) -> torch.Tensor:
        """One step over T positions: what is fed back, [B, T, H]."""

    def lm_input(self, hidden: torch.Tensor) -> torch.Tensor:
        """The LM head's input, [B, T, H], of what is fed back."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Its tensors by name."""
