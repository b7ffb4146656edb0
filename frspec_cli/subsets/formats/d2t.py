"""EAGLE-3's map between the draft's rows and the target's tokens: `d2t` and `t2d`, the one place that computes them.

`d2t` holds offsets, not ids: target = draft + d2t[draft]. `t2d` is a mask over the target's rows. Draft heads carry the
two among their tensors, lists of ids carry nothing else.
"""

from __future__ import annotations

import numpy as np

from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats.base import whole_numbers


def to_map(ids: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """d2t int64 [D] and t2d bool [rows] of draft rows with the target's `ids` (int64 [D])."""
    t2d = np.zeros(rows, dtype=bool)
    t2d[ids] = True
    return ids - np.arange(len(ids)), t2d


def target_ids(d2t: np.ndarray, t2d: np.ndarray | None, *, name: str, rows: int | None = None) -> np.ndarray:
    """int64 [D]: the target's token of each draft row.

    d2t: int [D], offsets.
    t2d: bool [rows], which must mark exactly those tokens; None if there is none.
    name: the file, for messages.
    rows: of the target's vocabulary; None if only t2d tells.
    Raises `FrspecError` if the two do not fit each other or the rows.
    """
    offsets = whole_numbers(name, d2t)
    mask = None if t2d is None else as_mask(name, t2d)
    if mask is not None and rows is not None and len(mask) != rows:
        raise FrspecError(f"{name}: tensor t2d has shape {list(mask.shape)}, expected [{rows}].")
    rows = rows if mask is None else len(mask)
    ids = offsets + np.arange(len(offsets))
    distinct = len(np.unique(ids))
    if ids.min() < 0 or distinct < len(ids) or (rows is not None and ids.max() >= rows):
        below = "" if rows is None else f" below {rows}"
        raise FrspecError(
            f"{name}: d2t names tokens from {ids.min()} to {ids.max()}, {distinct} of them different; expected are "
            f"{len(ids)} offsets, row + d2t[row] being tokens{below}, each once.",
            hint="d2t holds offsets; a list of token ids in its place looks like this.",
        )
    if mask is not None:
        _check_mask(mask, ids, name)
    return ids


def as_mask(name: str, t2d: np.ndarray) -> np.ndarray:
    """bool [rows]. Raises `FrspecError` if t2d is not a mask, or marks nothing."""
    is_numbers = t2d.ndim == 1 and (t2d.dtype.kind in "biuf" or all(isinstance(each, int) for each in t2d))
    if not is_numbers or not np.isin(t2d, (0, 1)).all():
        raise FrspecError(f"{name}: t2d is not a mask (one true or false for each row of the target).")
    if not t2d.any():
        raise FrspecError(f"{name}: t2d marks no token at all.")
    return t2d.astype(bool)


def _check_mask(mask: np.ndarray, ids: np.ndarray, name: str) -> None:
    differs = mask.copy()
    differs[ids] = ~differs[ids]
    if differs.any():
        tokens = np.flatnonzero(differs)
        raise FrspecError(
            f"{name}: d2t and t2d disagree about {len(tokens)} tokens, first token {tokens[0]}.",
            hint="d2t holds offsets (row + d2t[row] is the token), t2d marks those tokens.",
        )
