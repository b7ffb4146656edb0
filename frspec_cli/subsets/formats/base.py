"""What every file of this folder is made of: the list that a reader gives, the writer that it registers, their checks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from frspec_cli.counting.ranking import rank_by_count
from frspec_cli.errors import FrspecError
from frspec_cli.subsets.subset import VocabularySubset

Order = Literal["rank", "id", "count"]
"""rank: as in the subset, forced tokens first. count: by (-count, id), as readers of counts sort it."""
AS_IDS, AS_OFFSETS, AS_RANGES = READINGS = "ids", "offsets", "ranges"
LONGEST_EOS_BLOCK = 4  # FR-Spec's script appends `tokenizer.encode(eos_token)`: a BOS, an EOS, hardly more
MOST_IDS = 10_000_000  # no vocabulary comes near; more is a damaged or hostile file


@dataclass(frozen=True)
class ForeignList:
    """The ids of a foreign file.

    name: the file, for messages.
    format: what it was recognised as.
    ids: int64 [k], in the file's order, duplicates included.
    ranked: whether that order says which tokens are more frequent.
    counts: int64 [k]; None if the file has none.
    vocabulary_rows: the target's rows; None if the file does not tell.
    reading: how its numbers were taken: ids, offsets, ranges, mask, counts or scores.
    otherwise: the same file in its other reading if the file alone does not rule that out; None if it does.
    """

    name: str
    format: str
    ids: np.ndarray
    ranked: bool
    counts: np.ndarray | None = None
    vocabulary_rows: int | None = None
    reading: str = AS_IDS
    otherwise: ForeignList | None = None


def _nothing(subset: VocabularySubset) -> str:
    return ""


def _no_usage(subset: VocabularySubset, out: str) -> str:
    return ""


@dataclass(frozen=True)
class Writer:
    """One format that `export-vocab --to` knows.

    files: (subset, ids in the chosen order, the target's rows, out) -> the bytes of each file by its path.
    order: the order of the ids in the file.
    order_is_fixed: whether that order is part of the format, so that the user cannot choose the other one.
    suffix: what `build-vocab --to` adds to the subset's name.
    holds_rows: whether the target's number of rows goes into the file.
    folder_files: the names of the files if the format is a folder; empty if it is one file.
    warning: what the user of the file should know about this subset; "" if there is nothing.
    usage: (subset, out) -> the command line that uses the file; "" if there is none.
    usage_note: what whoever adds to that command should know.
    """

    files: Callable[[VocabularySubset, np.ndarray, int, str], dict[str, bytes]]
    order: Order
    suffix: str
    order_is_fixed: bool = False
    holds_rows: bool = False
    folder_files: tuple[str, ...] = ()
    warning: Callable[[VocabularySubset], str] = _nothing
    usage: Callable[[VocabularySubset, str], str] = _no_usage
    usage_note: str = ""


def whole_numbers(name: str, values: np.ndarray) -> np.ndarray:
    """int64 [n]. Raises `FrspecError` for anything but a list of whole numbers, for an empty one and for one far too long.

    name: the file, for messages.
    """
    if values.ndim != 1:
        raise FrspecError(
            f"{name} holds an array of shape {list(values.shape)}; a list of token ids has one dimension."
        )
    if not 0 < len(values) <= MOST_IDS:
        raise FrspecError(f"{name} holds {len(values) or 'no'} entries, which is not a draft vocabulary.")
    if values.dtype == object:
        wrong = next((each for each in values if not isinstance(each, int) or isinstance(each, bool)), None)
        if wrong is not None:
            raise FrspecError(f"{name} holds {type(wrong).__name__} values where token ids should be.")
        if any(abs(each) >= 2**62 for each in values):
            raise FrspecError(f"{name} holds numbers far outside any vocabulary.")
    elif not np.issubdtype(values.dtype, np.integer):
        raise FrspecError(f"{name} holds {values.dtype} values where token ids should be.")
    return values.astype(np.int64)


def objects(values: Iterable[Any]) -> np.ndarray:
    """An array of one dimension that holds the values as they are: numpy would look into lists and tensors among them."""
    return np.fromiter(values, dtype=object)


def is_ranked(ids: np.ndarray) -> bool:
    """Whether the order of the ids can be a ranking; in ascending order it is lost."""
    return len(ids) < 2 or not bool((np.diff(ids) > 0).all())


def from_ids(name: str, kind: str, values: np.ndarray, *, rows: int | None = None) -> ForeignList:
    """A list of token ids, in the order of the file. rows: the target's; None if the file does not tell."""
    ids = whole_numbers(name, values)
    return ForeignList(name, kind, ids, ranked=is_ranked(ids), vocabulary_rows=rows)


def from_counts(name: str, kind: str, ids: np.ndarray, counts: np.ndarray) -> ForeignList:
    """Ids (int64 [n]) with a count each (int64 [n]), in the order of the file, or by (-count, id) if that is by id.

    A count of 0 is a token that is kept though it was never seen, except in a file with a count for every token.
    """
    if (counts < 0).any():
        raise FrspecError(f"{name} holds counts below 0.")
    if len(ids) == ids.max(initial=-1) + 1 and len(np.unique(ids)) == len(ids):
        ids, counts = ids[counts > 0], counts[counts > 0]
    if not is_ranked(ids):
        order = rank_by_count(counts)
        ids, counts = ids[order], counts[order]
    return ForeignList(name, kind, ids, ranked=True, counts=counts, reading="counts")


def from_scores(name: str, scores: np.ndarray) -> ForeignList:
    """A score for every row of the target, higher is better: the ids with a score above 0, by (-score, id)."""
    if not np.isfinite(scores).all():
        raise FrspecError(f"{name} holds scores that are not numbers (NaN or infinite).")
    order = rank_by_count(scores)
    ids = order[scores[order] > 0].astype(np.int64)
    return ForeignList(name, "scores", ids, ranked=True, vocabulary_rows=len(scores), reading="scores")


def from_array(name: str, kind: str, values: np.ndarray) -> ForeignList:
    """An array by itself: whole numbers are ids, others are scores."""
    if values.ndim == 1 and len(values) and np.issubdtype(values.dtype, np.floating):
        return from_scores(name, values)
    return from_ids(name, kind, values)


def numpy_bytes(value: np.ndarray) -> bytes:
    """What `np.save` writes."""
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def torch_bytes(value: Any) -> bytes:
    """What `torch.save` writes. (Saved to a path, a .pt would hold that path's name, and equal lists unequal bytes.)"""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
