"""speculators' token_freq.pt: counts by token id. As JSON, the same with ids as strings."""

from __future__ import annotations

import numpy as np

from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats.base import ForeignList, Writer, from_counts, objects, whole_numbers
from frspec_cli.subsets.formats.content import Content
from frspec_cli.subsets.formats.torch_list import plain_torch_bytes
from frspec_cli.subsets.subset import VocabularySubset

_DIGITS = 18
"""More than any id has; Python refuses to read thousands."""


def read(content: Content, read_as: str | None) -> ForeignList | None:
    """The ids by (-count, id); None if the content is not a dictionary of counts."""
    value = content.value
    if not isinstance(value, dict) or not value:
        return None
    if all(isinstance(key, int) and not isinstance(key, bool) for key in value):
        return _from_counts(content.name, "token-freq", value)
    if content.container == "json" and all(key.isdecimal() and len(key) <= _DIGITS for key in value):
        return _from_counts(content.name, "json-counts", {int(key): count for key, count in value.items()})
    return None


def _from_counts(name: str, kind: str, by_id: dict[int, int]) -> ForeignList:
    ids = whole_numbers(name, objects(sorted(by_id)))
    counts = whole_numbers(name, objects(by_id[index] for index in sorted(by_id)))
    return from_counts(name, kind, ids, counts)


def _write(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    if not subset.counts.any():
        raise FrspecError("the subset holds no counts, and speculators' token_freq.pt consists of counts only.")
    by_id = dict(zip(subset.token_ids.tolist(), subset.counts.tolist(), strict=True))
    return {out: plain_torch_bytes({index: by_id[index] for index in ids.tolist()})}


WRITERS = {"token-freq": Writer(_write, "count", ".token_freq.pt", order_is_fixed=True)}
