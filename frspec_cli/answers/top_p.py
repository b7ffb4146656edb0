"""Top-p without sorting the vocabulary: the likeliest tokens hold the mass almost always, and what is doubtful is sorted."""

from __future__ import annotations

from typing import Any

import torch

LIKELIEST = 1024
_DOUBT = 1e-5  # of mass: float32 sums over a large vocabulary round by less


class QuickTopP:
    """Does to scores what transformers' TopPLogitsWarper does, to the bit.

    exact: that warper.
    """

    def __init__(self, exact: Any) -> None:
        self.exact = exact

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        """scores float32 [B, V] -> the same, -inf where a token is not among the likeliest that hold the mass."""
        if scores.shape[-1] <= LIKELIEST:
            return self.exact(input_ids, scores)
        top = scores.topk(LIKELIEST)
        shares = (top.values.double() - scores.logsumexp(-1, keepdim=True)).exp()
        before = shares.cumsum(-1) - shares  # mass of the likelier ones
        kept = before < self.exact.top_p
        out = torch.full_like(scores, self.exact.filter_value).scatter_(
            1, top.indices, torch.where(kept, top.values, self.exact.filter_value)
        )
        doubtful = ~self._sure(top.values, before, kept)
        if doubtful.any():
            out[doubtful] = self.exact(input_ids, scores[doubtful])
        return out

    def _sure(self, values: torch.Tensor, before: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """bool [B]: the last token that is kept and the first that is not are both here, unlike, and clear of the boundary."""
        first_out = kept.sum(-1, keepdim=True).clamp(max=kept.shape[-1] - 1)
        last_in = (first_out - 1).clamp(min=0)
        inside, outside = (before.gather(1, at) - self.exact.top_p for at in (last_in, first_out))
        unlike = values.gather(1, last_in) > values.gather(1, first_out)
        return ((inside < -_DOUBT) & (outside > _DOUBT) & unlike)[:, 0]


def quick(warper: Any) -> Any:
    """A `QuickTopP` in the place of transformers' top-p; any other warper as it is."""
    from transformers import TopPLogitsWarper

    return QuickTopP(warper) if isinstance(warper, TopPLogitsWarper) else warper
