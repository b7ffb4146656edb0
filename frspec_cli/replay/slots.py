"""Context slots of many texts at once: the rows of all of them together, and for each text a mask of those that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from frspec_cli.answers.records import Answer
from frspec_cli.decoding.context_slots import LastSeen
from frspec_cli.models.lm_head import LmHead


class TextSlots:
    """`count` slots for each of R texts, as an engine's `ContextSlots` would hold them.

    rows: the subset's LM head (S rows).
    full: the head that has a row for every token that may get a slot.
    lm_head: the subset's rows, then those of every token of any text that may get a slot.
    unused_mask: [texts of `show`, 1, rows], -inf at what a text may not draft now.
    """

    def __init__(self, rows: LmHead, full: LmHead, count: int, texts: Sequence[Answer]) -> None:
        device = rows.weight.device
        own = torch.arange(rows.size, device=device) if rows.ids is None else rows.ids
        rows_of_full = np.arange(full.size) if full.ids is None else full.ids.cpu().numpy()
        used = np.unique(np.concatenate([answer.ids for answer in texts]))
        others = np.setdiff1d(np.intersect1d(used, rows_of_full), own.cpu().numpy())
        self.lm_head = full.restrict(torch.cat((own, torch.from_numpy(others).to(own))))
        self.texts, self.first = texts, rows.size
        self.row_of = {token: rows.size + place for place, token in enumerate(others.tolist())}
        self.seen = [LastSeen(count, self.row_of.__contains__) for _ in texts]
        self.read = [0] * len(texts)  # tokens of each that its slots know
        self.masks = torch.full((len(texts), self.lm_head.size), float("-inf"), dtype=rows.weight.dtype, device=device)
        self.masks[:, : self.first] = 0.0
        self.unused_mask = self.masks[:, None]

    def advance(self, ends: Mapping[int, int]) -> None:
        """Lets the slots of some texts know more of them. ends: of each text, by its index, how many tokens."""
        for index, end in ends.items():
            if self.seen[index].add(self.texts[index].ids[self.read[index] : end].tolist()):
                self.masks[index, self.first :] = float("-inf")
                self.masks[index, [self.row_of[token] for token in self.seen[index].slot_of]] = 0.0
            self.read[index] = end

    def show(self, indices: Sequence[int]) -> None:
        """Makes `unused_mask` that of these texts."""
        self.unused_mask = self.masks[list(indices)][:, None]

    def clear(self) -> None:
        """Nothing: the texts are known beforehand."""

    def add(self, tokens: Sequence[int]) -> None:
        """Nothing: `advance` reads the texts."""
