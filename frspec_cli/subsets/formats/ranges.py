"""Ranges of ids, `[start, end)`: pairs in raw int32, in JSON, or in an array of shape [n, 2]."""

from __future__ import annotations

from typing import Any

import numpy as np

from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats.base import AS_RANGES, MOST_IDS, ForeignList, Writer, from_ids, whole_numbers
from frspec_cli.subsets.formats.content import Content
from frspec_cli.subsets.subset import VocabularySubset

# Reading.


def read(content: Content, read_as: str | None) -> ForeignList | None:
    """The ids of the ranges; of raw int32 its ids. None if the content is neither pairs nor raw int32."""
    if content.container == "raw":
        return _read_raw(content.name, content.value, read_as)
    pairs = _pairs(content.value)
    if pairs is None:
        return None
    if not _rise(pairs):
        raise FrspecError(
            f"{content.name} holds an array of shape {list(pairs.shape)}; a list of token ids has one dimension, and ranges "
            "[start, end) rise from one to the next."
        )
    return _from_pairs(content.name, pairs)


def _read_raw(name: str, values: np.ndarray, read_as: str | None) -> ForeignList:
    """Raw numbers: ids, unless an even number of them rises as ranges do, which may be either."""
    entries = from_ids(name, "int32", values)
    fits = len(values) % 2 == 0 and _rise(values.reshape(-1, 2))
    if read_as == AS_RANGES and not fits:
        raise FrspecError(f"{name} does not hold ranges: pairs of start and end that rise.")
    if not fits or (read_as is not None and read_as != AS_RANGES):
        return entries
    ranges = _from_pairs(name, values.reshape(-1, 2))
    if read_as == AS_RANGES or len(np.unique(values)) < len(values):
        return ranges
    return ForeignList(name, "int32", entries.ids, ranked=entries.ranked, otherwise=ranges)


def _pairs(value: Any) -> np.ndarray | None:
    """int64 [n, 2]; None if the value is not made of pairs of whole numbers."""
    if isinstance(value, list) and value and all(isinstance(each, list) and len(each) == 2 for each in value):
        value = np.array(value, dtype=object)
        if not all(isinstance(each, int) and not isinstance(each, bool) for each in value.flat):
            return None
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.shape[1] != 2 or not len(value):
        return None
    if value.dtype != object and not np.issubdtype(value.dtype, np.integer):
        return None
    return whole_numbers("ranges", value.ravel()).reshape(-1, 2)


def _rise(pairs: np.ndarray) -> bool:
    starts, ends = pairs.T
    return bool(starts[0] >= 0 and (starts < ends).all() and (ends[:-1] <= starts[1:]).all())


def _from_pairs(name: str, pairs: np.ndarray) -> ForeignList:
    starts, ends = pairs.astype(np.int64).T
    if int((ends - starts).sum()) > MOST_IDS:
        raise FrspecError(f"{name} holds ranges of {int((ends - starts).sum())} ids, which is not a draft vocabulary.")
    ids = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    return ForeignList(name, "ranges", ids, ranked=False, reading=AS_RANGES)


# Writing.


def _raw(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: ids.astype("<i4").tobytes()}


def _ranges(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    starts = ids[np.diff(ids, prepend=-2) != 1]
    ends = ids[np.diff(ids, append=ids[-1] + 2) != 1] + 1
    return {out: np.stack([starts, ends], axis=1).astype("<i4").tobytes()}


WRITERS = {
    "int32": Writer(_raw, "id", ".bin"),
    "ranges": Writer(_ranges, "id", ".ranges.bin", order_is_fixed=True),
}
