"""The arithmetic of coverage: arrays of ids and counts in, shares with their 95 % intervals out, by source and by script.

Two ways. A subset on text that it was not chosen from: its ids are what they are. A subset on the very table that it was
chosen from: coverage would be flattered, so every fold is covered by ids chosen from the other nine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from frspec_cli.counting.ranking import rank_by_count
from frspec_cli.counting.table import FrequencyTable, sum_by_fold
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
class CoverageRow:
    """What k ids cover of one part of the tokens.

    source, script: the part; `all` for every source or every script.
    tokens: how many there are.
    coverage, low, high: the share that is covered (0..1) and its 95 % interval.
    """

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
    ids_by_fold: Mapping[int, Sequence[np.ndarray]], counts: Mapping[str, np.ndarray], scripts: Scripts | None
) -> list[CoverageRow]:
    """For each k: all tokens, then each source, then each script that occurs (and `cjk`, the sum of its scripts).

    ids_by_fold: k -> for each fold the ids that cover it (the same array ten times for a subset on other text). A larger k
        holds what a smaller one does.
    counts: source -> int64 [FOLDS, rows].
    scripts: of every token; None if the tokens' bytes are unknown.
    """
    ks = sorted(ids_by_fold)
    total = sum_by_fold(counts.values(), next(iter(counts.values())).shape[1])
    smallest = _smallest_k(ids_by_fold, ks, total.shape)
    parts = [(ALL, ALL, _by_smallest_k(total, smallest, len(ks)))]
    if len(counts) > 1:
        parts += [(source, ALL, _by_smallest_k(counts[source], smallest, len(ks))) for source in sorted(counts)]
    if scripts is not None:
        by_script = _by_script(total, smallest, len(ks), scripts)
        parts += [(ALL, script, tokens) for script, tokens in by_script.items()]
    rows = []
    for index, k in enumerate(ks):
        for source, script, tokens in parts:
            interval = jackknife(tokens[:, : index + 1].sum(axis=1), tokens.sum(axis=1))
            if interval is not None:
                shares = interval.value, interval.low, interval.high
                rows.append(CoverageRow(k, source, script, int(tokens.sum()), *shares))
    return rows


def _smallest_k(
    ids_by_fold: Mapping[int, Sequence[np.ndarray]], ks: Sequence[int], shape: tuple[int, ...]
) -> np.ndarray:
    """int64 [FOLDS, rows]: for each token the index of the smallest k that holds it, len(ks) if none does.

    One pass over the counts then serves every k: what k covers is the sum over all indices up to its own.
    """
    smallest = np.full(shape, len(ks))
    for index, k in reversed(list(enumerate(ks))):
        for fold, ids in enumerate(ids_by_fold[k]):
            smallest[fold, ids[ids < shape[1]]] = index
    return smallest


def _by_smallest_k(counts: np.ndarray, smallest: np.ndarray, ks: int) -> np.ndarray:
    """float64 [FOLDS, ks + 1]: the counts summed by `smallest`. (Exact: whole numbers below 2**53.)"""
    folds = zip(smallest, counts, strict=True)
    return np.stack([np.bincount(index, weights=count, minlength=ks + 1) for index, count in folds])


def _by_script(total: np.ndarray, smallest: np.ndarray, ks: int, scripts: Scripts) -> dict[str, np.ndarray]:
    """script -> float64 [FOLDS, ks + 1] as `_by_smallest_k`, the script with the most tokens first."""
    by_code = []
    for fold, index in zip(total, smallest, strict=True):
        cells = scripts.codes[: len(fold)] * np.int64(ks + 1) + index  # script and index as one number
        by_code.append(np.bincount(cells, weights=fold, minlength=len(scripts.names) * (ks + 1)))
    tokens = np.stack(by_code).reshape(len(total), len(scripts.names), ks + 1)
    by_name = {name: tokens[:, code] for code, name in enumerate(scripts.names)}
    by_name["cjk"] = np.add.reduce([by_name[name] for name in CJK])
    return dict(sorted(by_name.items(), key=lambda item: (-item[1].sum(), item[0])))


@dataclass(frozen=True)
class Curve:
    """Coverage against k.

    label: what the line is called.
    ks: int64 [n].
    value, low, high: float64 [n], the share (0..1) and its 95 % interval.
    leads: whether the other lines are parts of this one.
    """

    label: str
    ks: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    leads: bool = False


def curve(label: str, orders: Sequence[np.ndarray], counts: np.ndarray, *, first: int = 128, points: int = 60) -> Curve:
    """Coverage by the first k of a ranking, from k = first to the ranking's length in equal steps of log k.

    orders: for each fold the ids, best first.
    counts: int64 [FOLDS, rows].
    """
    longest = min(len(order) for order in orders)
    ks = np.unique(np.geomspace(min(first, max(1, longest // 8)), longest, points).round().astype(np.int64))
    covered = np.stack([np.cumsum(_take(fold, order))[ks - 1] for fold, order in zip(counts, orders, strict=True)])
    tokens = counts.sum(axis=1)
    intervals = [jackknife(covered[:, index], tokens) for index in range(len(ks))]
    shares = np.array([(each.value, each.low, each.high) if each else (0.0, 0.0, 0.0) for each in intervals])
    return Curve(label, ks, *shares.T)


def _take(counts: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Counts of ids, 0 for ids past the end."""
    return np.where(ids < len(counts), counts[np.minimum(ids, len(counts) - 1)], 0)


def rarest_kept(ids: np.ndarray, counts: np.ndarray, most: int) -> list[tuple[int, int]]:
    """(id, count) of the chosen tokens that occur least, rarest first; at equal counts the last in rank first."""
    counted = _take(counts, ids)
    order = np.lexsort((-np.arange(len(ids)), counted))[:most]
    return [(int(ids[place]), int(counted[place])) for place in order]


def most_frequent_lost(ids: np.ndarray, counts: np.ndarray, most: int) -> list[tuple[int, int]]:
    """(id, count) of the tokens outside the subset that occur most, most frequent first, ties by id."""
    outside = counts.copy()
    outside[ids[ids < len(counts)]] = 0
    return [(int(index), int(outside[index])) for index in rank_by_count(outside)[:most] if outside[index] > 0]
