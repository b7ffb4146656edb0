"""A draft without a model: what followed the text's last tokens when they last occurred."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from frspec_cli.decoding.tree import Tree, chain


class LookupDrafter:
    """Drafts by n-gram: what followed the most recent earlier occurrence of the text's last tokens, the longest first.

    longest: tokens of the longest n-gram.
    """

    taps: tuple[int, ...] = ()

    def __init__(self, depth: int, *, longest: int = 3) -> None:
        self.depth = depth
        self.nodes = depth + 1
        self.k = 0
        self.reach = 0
        self.longest = longest

    def reset(self, *, length: int) -> None:
        self.text: list[int] = []
        self.followed: dict[tuple[int, ...], int] = {}
        """Of each n-gram that a token has followed, where the last such token is."""

    def append_tokens(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            place = len(self.text)
            for size in range(1, min(self.longest, place) + 1):
                self.followed[tuple(self.text[place - size :])] = place
            self.text.append(token)

    def append_states(
        self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...], start: torch.Tensor
    ) -> None:
        pass

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        drafted = self._continuation()
        padded = drafted + [0] * (self.depth - len(drafted))
        present = torch.arange(self.depth, device=root.device) < len(drafted)
        return chain(root, torch.tensor(padded, dtype=torch.int64, device=root.device), present)

    def _continuation(self) -> list[int]:
        for size in range(min(self.longest, len(self.text) - 1), 0, -1):
            place = self.followed.get(tuple(self.text[-size:]))
            if place is not None:
                return self.text[place : place + self.depth]
        return []
