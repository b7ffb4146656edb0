"""Whose rows are in a head's own LM head? Compared with the target's, where they began as these."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from frspec_cli.models.lm_head import LmHead

_SAMPLE = 256  # rows that are looked up among the target's
_AT_ONCE = 8192
_MOST_PRODUCTS = 10**13  # about two minutes of a laptop's arithmetic


@dataclass(frozen=True)
class NearestRows:
    """A sample of the head's rows, each beside the target's row that is nearest to it by cosine.

    share: of those whose nearest row is their own token's.
    cosine: the median to the nearest row.
    chance: the cosine that the nearest of as many random rows would have.
    """

    share: float
    cosine: float
    chance: float

    @property
    def foreign(self) -> bool:
        """Whether most rows are the target's rows of other tokens. Rows that were trained from scratch are near none."""
        return self.share < 0.5 and self.cosine > 1.1 * self.chance

    def as_json(self) -> dict[str, float]:
        """What goes into a result."""
        return {"share": self.share, "cosine": self.cosine, "chance": self.chance}


def nearest_rows(own: LmHead, target: torch.Tensor, *, seed: int = 0) -> NearestRows | None:
    """How near the head's own rows are to the target's [V, H]; None if the head's H is another."""
    if own.weight.shape[1] != target.shape[1]:
        return None
    sample = torch.randperm(own.size, generator=torch.Generator().manual_seed(seed))[:_SAMPLE].to(own.weight.device)
    tokens, cosines = _nearest(own.weight[sample], target)
    share = float((tokens == own.to_token_ids(sample).to(tokens.device)).float().mean())
    # The largest of V cosines between random directions of H dimensions is about sqrt(2 ln V / H).
    chance = math.sqrt(2 * math.log(max(2, len(target))) / target.shape[1])
    return NearestRows(share, float(cosines.median()), chance)


def rows_by_nearest(own: LmHead, target: torch.Tensor) -> LmHead | None:
    """The head's rows under the token whose row of the target [V, H] is nearest; of two rows of one token the nearer.

    None if the rows' map says so already, if they do not tell (see `NearestRows.foreign`), or where it takes too long.
    """
    found = nearest_rows(own, target)
    slow = own.size * target.numel() > _MOST_PRODUCTS and target.device.type == "cpu"
    if found is None or not found.foreign or slow:
        return None
    tokens, cosines = _nearest(own.weight, target)
    order = torch.argsort(cosines, descending=True, stable=True)
    row_of: dict[int, int] = {}
    for row, token in zip(order.tolist(), tokens[order].tolist(), strict=True):
        row_of.setdefault(token, row)
    rows = torch.tensor(sorted(row_of.values()), device=own.weight.device)
    bias = None if own.bias is None else own.bias[rows]
    return LmHead(own.weight[rows].contiguous(), bias, own.scale, own.softcap, tokens.to(rows.device)[rows])


@torch.inference_mode()
def _nearest(rows: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row [R, H], the target's row that is nearest by cosine: (its token int64 [R], the cosine [R])."""
    tokens, cosines = [], []
    for some in rows.split(_AT_ONCE):
        ours = normalize(some.to(target.device).float(), dim=-1)
        best = torch.full((len(ours),), -2.0, device=target.device)
        found = torch.zeros(len(ours), dtype=torch.int64, device=target.device)
        for start in range(0, len(target), _AT_ONCE):
            values, places = (ours @ normalize(target[start : start + _AT_ONCE].float(), dim=-1).T).max(dim=1)
            found = torch.where(values > best, places + start, found)
            best = torch.maximum(best, values)
        tokens.append(found)
        cosines.append(best)
    return torch.cat(tokens), torch.cat(cosines)
