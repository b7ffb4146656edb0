"""What other projects' draft-vocabulary files hold, as plain arrays, and the checks that need no tokenizer.

Two conventions exist and are easily mistaken for each other: lists of absolute token ids (FR-Spec, SGLang, community
lists), and EAGLE-3's `d2t`, offsets such that target = draft + d2t[draft], with `t2d`, a mask over the target's rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frspec_cli.errors import FrspecError

AS_IDS, AS_OFFSETS = "ids", "offsets"
MOST_IDS = 10_000_000  # no vocabulary comes near; more is a damaged or hostile file


@dataclass(frozen=True)
class ForeignList:
    """The ids of a foreign file.

    name: the file, for messages. format: what it was recognised as. ids: int64 [k] in the file's order, duplicates
    included. ranked: whether that order says which are more frequent. counts: int64 [k] where the file has them.
    vocabulary_rows: the target's rows where the file tells. notes: what a user should hear about it.
    """

    name: str
    format: str
    ids: np.ndarray
    ranked: bool
    counts: np.ndarray | None = None
    vocabulary_rows: int | None = None
    notes: tuple[str, ...] = ()


def from_ids(name: str, kind: str, values: np.ndarray) -> ForeignList:
    """A list of absolute ids. One in ascending order has lost the ranking."""
    ids = whole_numbers(name, values)
    ascending = len(ids) > 1 and bool((np.diff(ids) > 0).all())
    return ForeignList(name, kind, ids, ranked=not ascending)


def from_numbers(name: str, kind: str, values: np.ndarray, read_as: str | None) -> ForeignList:
    """A lone array: ids, offsets, a mask over the target's rows, or a score for each of them."""
    if values.ndim != 1 or not len(values):
        raise FrspecError(
            f"{name} holds an array of shape {list(values.shape)}; a list of token ids has one dimension."
        )
    if values.dtype == bool:
        return from_mask(name, values)
    if np.issubdtype(values.dtype, np.floating):
        return from_scores(name, values)
    numbers = whole_numbers(name, values)
    # Offsets never fall and repeat wherever two neighbouring ids are both kept; a list of ids has no repeats. (Only a
    # vocabulary without a single pair of neighbours could be read both ways; taken as ids, unless the user says so.)
    repeats = len(np.unique(numbers)) < len(numbers)
    falls = bool((np.diff(numbers) < 0).any())
    if read_as == AS_OFFSETS or (read_as is None and repeats and not falls and numbers[0] >= 0):
        return from_map(name, f"{kind}-d2t", numbers, None, AS_OFFSETS)
    return from_ids(name, kind, numbers)


def from_map(
    name: str, kind: str, d2t: np.ndarray | None, t2d: np.ndarray | None, read_as: str | None = None
) -> ForeignList:
    """EAGLE-3's pair. d2t: int [D] offsets or None. t2d: bool [V] or None. Raises `FrspecError` where they disagree."""
    if d2t is None:
        if t2d is None:
            raise FrspecError(f"{name} holds neither d2t nor t2d.")
        return from_mask(name, t2d)
    numbers = whole_numbers(name, d2t)
    mask = None if t2d is None else _mask(name, t2d)
    if read_as == AS_IDS:
        return ForeignList(name, kind, numbers, ranked=False, vocabulary_rows=None if mask is None else len(mask))
    ids = numbers + np.arange(len(numbers))
    if read_as is None:
        _refuse_absolute(name, numbers, ids, mask)
    if ids[0] < 0 or (np.diff(ids) <= 0).any():
        first = int(np.flatnonzero(np.diff(ids, prepend=-1) <= 0)[0])
        raise FrspecError(
            f"{name}: d2t is no list of offsets, since draft + d2t[draft] does not rise at draft id {first}."
        )
    if mask is not None:
        _check_mask(name, ids, mask)
    return ForeignList(name, kind, ids, ranked=False, vocabulary_rows=None if mask is None else len(mask))


def from_mask(name: str, t2d: np.ndarray) -> ForeignList:
    """A mask over the target's rows alone."""
    mask = _mask(name, t2d)
    return ForeignList(name, "t2d", np.flatnonzero(mask), ranked=False, vocabulary_rows=len(mask))


def from_scores(name: str, scores: np.ndarray) -> ForeignList:
    """A score for every row of the target, higher is better: the ids with a score above 0, by (-score, id)."""
    if not np.isfinite(scores).all():
        raise FrspecError(f"{name} holds scores that are no numbers (NaN or infinite).")
    order = np.argsort(-scores, kind="stable")
    ids = order[scores[order] > 0].astype(np.int64)
    return ForeignList(name, "scores", ids, ranked=True, vocabulary_rows=len(scores))


def from_counts(name: str, kind: str, counts: dict[int, int]) -> ForeignList:
    """speculators' token_freq.pt: id -> count. The ids that were seen, by (-count, id)."""
    ids = whole_numbers(name, np.array(list(counts), dtype=object))
    numbers = whole_numbers(name, np.array(list(counts.values()), dtype=object))
    seen = numbers > 0
    order = np.lexsort((ids[seen], -numbers[seen]))
    return ForeignList(name, kind, ids[seen][order], ranked=True, counts=numbers[seen][order])


def whole_numbers(name: str, values: np.ndarray) -> np.ndarray:
    """int64 [n]. Raises `FrspecError` for anything that is no list of whole numbers, or has none, or far too many."""
    if not 0 < len(values) <= MOST_IDS:
        raise FrspecError(f"{name} holds {len(values) or 'no'} entries, which is no draft vocabulary.")
    if values.dtype == object:
        wrong = next((each for each in values if not isinstance(each, int) or isinstance(each, bool)), None)
        if wrong is not None:
            raise FrspecError(f"{name} holds {type(wrong).__name__} values where token ids should be.")
        if any(abs(each) >= 2**62 for each in values):
            raise FrspecError(f"{name} holds numbers far outside any vocabulary.")
    elif not np.issubdtype(values.dtype, np.integer):
        raise FrspecError(f"{name} holds {values.dtype} values where token ids should be.")
    return values.astype(np.int64)


def _mask(name: str, t2d: np.ndarray) -> np.ndarray:
    if t2d.ndim != 1 or not (t2d.dtype == bool or np.isin(t2d, (0, 1)).all()):
        raise FrspecError(f"{name}: t2d is no mask (one true or false for each row of the target).")
    if not t2d.any():
        raise FrspecError(f"{name}: t2d marks no token at all.")
    return t2d.astype(bool)


def _refuse_absolute(name: str, numbers: np.ndarray, ids: np.ndarray, mask: np.ndarray | None) -> None:
    """A d2t that holds ids in place of offsets: wrong for every reader, and silent in most."""
    distinct = len(np.unique(numbers)) == len(numbers) and len(numbers) > 1 and bool((numbers >= 0).all())
    if mask is None:
        absolute = distinct  # offsets without one repeat would mean that no two neighbouring ids are kept
    else:
        fits = len(ids) == mask.sum() and ids.min() >= 0 and ids.max() < len(mask) and bool(mask[ids].all())
        absolute = distinct and not fits and numbers.max() < len(mask) and bool(mask[numbers].all())
    if absolute:
        raise FrspecError(
            f"{name}: d2t seems to hold absolute ids, not offsets (target = draft + d2t[draft]): no value repeats"
            + ("." if mask is None else ", and they are the ids that t2d marks."),
            hint="If so, import it with --as ids; if they are offsets after all, with --as offsets.",
        )


def _check_mask(name: str, ids: np.ndarray, mask: np.ndarray) -> None:
    if ids[-1] >= len(mask):
        raise FrspecError(f"{name}: d2t leads to id {ids[-1]}, but t2d has only {len(mask)} entries.")
    if int(mask.sum()) != len(ids):
        raise FrspecError(f"{name}: t2d marks {int(mask.sum())} tokens, but d2t has {len(ids)}.")
    if not mask[ids].all():
        raise FrspecError(f"{name}: d2t leads to id {int(ids[~mask[ids]][0])}, which t2d does not mark.")
