"""How much of a text a subset covers, by source and by script, and how sure that is.

Two ways. A subset on text that it was not chosen from: its ids are what they are. A subset on the very table that it was
chosen from: coverage would be flattered, so every fold is covered by ids chosen from the other nine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from frspec_cli.counting.table import FOLDS, FrequencyTable, sum_by_fold
from frspec_cli.statistics import Interval, jackknife
from frspec_cli.subsets.scripts import CJK, Scripts
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.subsets.tokenizer_check import check_subset_against_table

ALL = "all"


def coverage(
    subset: VocabularySubset,
    table: FrequencyTable,
    *,
    k: int | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Interval | None:
    """How much of the table's tokens the subset holds, for text that it was not chosen from; None if there are none.

    k: use its first k ids only.
    warn: called with a sentence if the tokenizers' fingerprints differ and every id means the same bytes in both.
    Raises `FrspecError` if the table was counted with another tokenizer, and as `VocabularySubset.prefix` does.
    """
    check_subset_against_table(subset, table, name="the subset", warn=warn)
    ids = subset.prefix(subset.k if k is None else k).token_ids
    by_fold = table.by_fold()
    return jackknife(by_fold[:, ids[ids < table.rows]].sum(axis=1), by_fold.sum(axis=1))


@dataclass(frozen=True)
class Row:
    """One share: of the tokens of a source (or all) in a script (or all) that k ids cover. tokens: how many there are."""

    k: int
    source: str
    script: str
    tokens: int
    coverage: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """What goes into --json."""
        return asdict(self)


def coverage_rows(
    chosen: Mapping[int, Sequence[np.ndarray]], counts: Mapping[str, np.ndarray], scripts: Scripts | None
) -> list[Row]:
    """For each k: all tokens, then each source, then each script that occurs (and `cjk`, the sum of its scripts).

    chosen: k -> for each fold the ids that cover it (the same array ten times for a subset on other text); a larger k
    holds what a smaller one does. counts: source -> int64 [FOLDS, rows]. scripts: None where tokens' bytes are unknown.
    """
    ks = sorted(chosen)
    rows = next(iter(counts.values())).shape[1]
    entry = np.full((FOLDS, rows), len(ks))  # the index of the smallest k that holds a token
    for index in reversed(range(len(ks))):
        for fold, ids in enumerate(chosen[ks[index]]):
            entry[fold, ids[ids < rows]] = index
    total = sum_by_fold(counts.values(), rows)
    found = [_Share(ALL, ALL, _spread(total, entry, len(ks)))]
    if len(counts) > 1:
        found += [_Share(source, ALL, _spread(counts[source], entry, len(ks))) for source in sorted(counts)]
    if scripts is not None:
        found += _by_script(total, entry, len(ks), scripts)
    return [row for at, k in enumerate(ks) for share in found if (row := share.row(k, at)) is not None]


@dataclass(frozen=True)
class _Share:
    """Counts of one source or script. spread: float64 [FOLDS, number of ks + 1], by the smallest k that holds them."""

    source: str
    script: str
    spread: np.ndarray

    def row(self, k: int, at: int) -> Row | None:
        """The row of the `at`-th k; None where there are no tokens."""
        tokens = self.spread.sum(axis=1)
        interval = jackknife(self.spread[:, : at + 1].sum(axis=1), tokens)
        if interval is None:
            return None
        return Row(k, self.source, self.script, int(tokens.sum()), interval.value, interval.low, interval.high)


def _spread(counts: np.ndarray, entry: np.ndarray, sizes: int) -> np.ndarray:
    """float64 [FOLDS, sizes + 1]: counts by the smallest k that holds them. (Exact: whole numbers below 2**53.)"""
    return np.stack([np.bincount(e, weights=c, minlength=sizes + 1) for c, e in zip(counts, entry, strict=True)])


def _by_script(total: np.ndarray, entry: np.ndarray, sizes: int, scripts: Scripts) -> list[_Share]:
    size = len(scripts.names)
    cells = scripts.codes[: total.shape[1]] * np.int64(sizes + 1) + entry
    spread = _spread(total, cells, size * (sizes + 1) - 1).reshape(len(total), size, sizes + 1)
    by_name = {name: spread[:, code] for code, name in enumerate(scripts.names)}
    by_name["cjk"] = np.add.reduce([by_name[name] for name in CJK])
    return [_Share(ALL, name, by_name[name]) for name in sorted(by_name, key=lambda n: (-by_name[n].sum(), n))]


@dataclass(frozen=True)
class Curve:
    """Coverage against k. ks: int64 [n]. value, low, high: float64 [n]. label: what the line is called. leads: whether
    the others are parts of it."""

    label: str
    ks: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    leads: bool = False


def curve(label: str, orders: Sequence[np.ndarray], counts: np.ndarray, *, first: int = 128, points: int = 60) -> Curve:
    """Coverage by the first k of a ranking, from k = first to the ranking's length in equal steps of log k.

    orders: for each fold the ids, best first. counts: int64 [FOLDS, rows].
    """
    longest = min(len(order) for order in orders)
    ks = np.unique(np.geomspace(min(first, max(1, longest // 8)), longest, points).round().astype(np.int64))
    covered = np.stack([np.cumsum(_take(fold, order))[ks - 1] for fold, order in zip(counts, orders, strict=True)])
    tokens = counts.sum(axis=1)
    found = [jackknife(covered[:, at], tokens) for at in range(len(ks))]
    shares = np.array([(each.value, each.low, each.high) if each else (0.0, 0.0, 0.0) for each in found])
    return Curve(label, ks, *shares.T)


def _take(counts: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Counts of ids, 0 for ids past the end."""
    return np.where(ids < len(counts), counts[np.minimum(ids, len(counts) - 1)], 0)


def rarest_kept(ids: np.ndarray, counts: np.ndarray, most: int) -> list[tuple[int, int]]:
    """(id, count) of the chosen tokens that occur least, rarest first; at equal counts the last in rank first."""
    numbers = _take(counts, ids)
    order = np.lexsort((-np.arange(len(ids)), numbers))[:most]
    return [(int(ids[at]), int(numbers[at])) for at in order]


def most_frequent_lost(ids: np.ndarray, counts: np.ndarray, most: int) -> list[tuple[int, int]]:
    """(id, count) of the tokens outside the subset that occur most, most frequent first, ties by id."""
    outside = counts.copy()
    outside[ids[ids < len(counts)]] = 0
    order = np.argsort(-outside, kind="stable")[:most]
    return [(int(index), int(outside[index])) for index in order if outside[index] > 0]
