"""How much of a text a subset covers, by source and by script, and how sure that is.

Two ways. A subset on text that it was not chosen from: its ids are what they are. A subset on the very table that it was
chosen from: coverage would be flattered, so every fold is covered by ids chosen from the other nine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from frspec_cli.vocabulary.scripts import CJK, Scripts

# Two-sided 95 % of Student's t for 1 to 9 degrees of freedom: a table has at most ten folds.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
ALL = "all"


@dataclass(frozen=True)
class Interval:
    """A share (0..1) and its 95 % interval by the jackknife over folds; low = high = value with one fold only."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """What goes into metadata and --json."""
        return {"value": self.value, "low": self.low, "high": self.high}


def jackknife(covered: np.ndarray, tokens: np.ndarray) -> Interval | None:
    """The share sum(covered) / sum(tokens) and its interval, leaving one fold out at a time.

    covered, tokens: [folds]. Folds are whole documents, so the interval holds for text whose tokens hang together by
    document (a binomial one would be far too narrow). Folds without tokens are left out. None without any tokens.
    """
    used = tokens > 0
    covered, tokens = covered[used].astype(np.float64), tokens[used].astype(np.float64)
    n = len(tokens)
    if n == 0:
        return None
    value = covered.sum() / tokens.sum()
    if n == 1:
        return Interval(float(value), float(value), float(value))
    left = (covered.sum() - covered) / (tokens.sum() - tokens)
    error = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    half = _T95[n - 2] * error
    return Interval(float(value), float(max(0.0, value - half)), float(min(1.0, value + half)))


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
    k: int, chosen: Sequence[np.ndarray], counts: Mapping[str, np.ndarray], scripts: Scripts | None
) -> list[Row]:
    """All tokens, then each source, then each script that occurs (and `cjk`, the sum of its scripts).

    chosen: for each fold the ids that cover it (the same array ten times for a subset on other text).
    counts: source -> int64 [FOLDS, rows]. scripts: None where the tokens' bytes are not known.
    """
    rows = next(iter(counts.values())).shape[1]
    inside = np.zeros((len(chosen), rows), dtype=bool)
    for fold, ids in enumerate(chosen):
        inside[fold, ids[ids < rows]] = True
    total = np.zeros((len(chosen), rows), dtype=np.int64)
    for part in counts.values():
        total += part
    found = [_row(k, ALL, ALL, np.where(inside, total, 0).sum(axis=1), total.sum(axis=1))]
    if len(counts) > 1:
        for source in sorted(counts):
            part = counts[source]
            found.append(_row(k, source, ALL, np.where(inside, part, 0).sum(axis=1), part.sum(axis=1)))
    if scripts is not None:
        found += _by_script(k, inside, total, scripts)
    return [row for row in found if row is not None]


def _by_script(k: int, inside: np.ndarray, total: np.ndarray, scripts: Scripts) -> list[Row | None]:
    codes, size = scripts.codes[: total.shape[1]], len(scripts.names)
    tokens = np.stack([np.bincount(codes, weights=fold, minlength=size) for fold in total])
    kept = np.where(inside, total, 0)
    covered = np.stack([np.bincount(codes, weights=fold, minlength=size) for fold in kept])
    by_name = {name: (covered[:, code], tokens[:, code]) for code, name in enumerate(scripts.names)}
    cjk = [by_name[name] for name in CJK]
    by_name["cjk"] = (np.sum([each[0] for each in cjk], axis=0), np.sum([each[1] for each in cjk], axis=0))
    order = sorted(by_name, key=lambda name: (-by_name[name][1].sum(), name))
    return [_row(k, ALL, name, *by_name[name]) for name in order]


def _row(k: int, source: str, script: str, covered: np.ndarray, tokens: np.ndarray) -> Row | None:
    interval = jackknife(covered, tokens)
    if interval is None:
        return None
    return Row(k, source, script, int(tokens.sum()), interval.value, interval.low, interval.high)


@dataclass(frozen=True)
class Curve:
    """Coverage against k. ks: int64 [n]. value, low, high: float64 [n]. label: what the line is called."""

    label: str
    ks: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(label: str, orders: Sequence[np.ndarray], counts: np.ndarray, *, points: int = 60) -> Curve:
    """Coverage by the first k of a ranking, for k from 128 to the ranking's length in equal steps of log k.

    orders: for each fold the ids, best first. counts: int64 [FOLDS, rows].
    """
    longest = min(len(order) for order in orders)
    ks = np.unique(np.geomspace(min(128, longest), longest, points).round().astype(np.int64))
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
