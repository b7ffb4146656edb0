"""Do the rows of a head's own LM head belong to the tokens that its map names?

Many heads' rows start as the target's (speculators freezes them), so most stay near the target's row of the same token. A
map that is shifted, or of another head, is then plain to see, and in silence costs all acceptance. Rows that are near no
row of the target (trained from scratch) say nothing.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from frspec_cli.models.lm_head import LmHead

_ROWS = 32
_NEAR = 0.8
"""The cosine from which two rows are one, trained a little further; those of different tokens are far below."""


@torch.inference_mode()
def foreign_rows(own: LmHead, target: LmHead, *, where: str) -> str | None:
    """A warning if most rows of `own` are the target's rows of other tokens than `own.ids` says; None if not.

    own: [D, H]; nothing is compared if the target's H is another.
    where: the head, for the message.
    """
    if own.weight.shape[1] != target.weight.shape[1]:
        return None
    device = target.weight.device
    rows = torch.linspace(0, own.size - 1, min(_ROWS, own.size), device=device).long()
    tokens = own.to_token_ids(rows.to(own.weight.device)).to(device)
    ours = normalize(own.weight[rows.to(own.weight.device)].to(device, torch.float32), dim=-1)
    near = (ours * normalize(target.weight[tokens].float(), dim=-1)).sum(-1) > _NEAR
    if 2 * int(near.sum()) >= len(rows):
        return None
    lengths = target.weight.norm(dim=-1).float().clamp(min=1e-12)
    cosines = (ours.to(target.weight.dtype) @ target.weight.T).float() / lengths
    best, nearest = cosines.max(dim=-1)
    foreign = (best > _NEAR) & (nearest != tokens)
    if 2 * int(foreign.sum()) < len(rows):
        return None
    first = int(foreign.nonzero()[0])
    return (
        f"{where}: {int(foreign.sum())} of {len(rows)} rows of its LM head that were compared are those of other tokens: row "
        f"{int(rows[first])} is the target's row of token {int(nearest[first])}, and the map says {int(tokens[first])}. The "
        "map (d2t) is shifted or belongs to another head, and hardly any draft will be accepted."
    )
