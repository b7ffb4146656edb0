"""Token ids to counts: a running tally by source and fold, and the sparse parts that travel and are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from frspec_cli.counting.table import FOLDS
from frspec_cli.errors import FrspecError

FLUSH_TOKENS = 8 << 20
"""Ids held back before they are counted: bincount over all rows pays only for many ids at once."""
MAX_SOURCES = 64


@dataclass
class ShardCounts:
    """Counts of some shards, only those above zero, sorted by (source, fold, token).

    sources: labels. key: int32 [n], source's position * FOLDS + fold. token: int32 [n]. count: int64 [n].
    documents: int64 [n], documents that hold the token, or None where that was not asked for.
    shards: one record for each shard (`label, size, sha256, lines, documents, tokens, bytes, skipped`...).
    examples: (shard's or file's name, line or 0, reason, detail) of a few skipped records.
    samples: (text, ids) to be encoded again by the reference.
    """

    sources: list[str]
    key: np.ndarray
    token: np.ndarray
    count: np.ndarray
    documents: np.ndarray | None
    shards: list[dict[str, Any]] = field(default_factory=list)
    examples: list[tuple[str, int, str, str]] = field(default_factory=list)
    samples: list[tuple[str, np.ndarray]] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Sum of one of the shards' figures: `size`, `lines`, `documents`, `tokens` or `bytes`."""
        return sum(shard[name] for shard in self.shards)


class CountAccumulator:
    """int64 counts [FOLDS, rows] for each source, filled from arrays of ids.

    Raises `FrspecError` for more than `MAX_SOURCES` sources: a label of that many values is no label.
    """

    def __init__(self, rows: int, *, document_frequency: bool = False) -> None:
        self.rows = rows
        self.counts: dict[str, np.ndarray] = {}
        self.document_counts: dict[str, np.ndarray] | None = {} if document_frequency else None
        self._held: dict[tuple[str, int], list[np.ndarray]] = {}
        self._held_tokens = 0

    def add(self, source: str, fold: int, ids: np.ndarray) -> None:
        """Counts ids [n] for a source and a fold."""
        self._held.setdefault((source, fold), []).append(ids)
        self._held_tokens += len(ids)
        if self._held_tokens > FLUSH_TOKENS:
            self.flush()

    def add_documents(self, source: str, fold: int, unique_ids: np.ndarray) -> None:
        """Counts each id [n] (once for every document that holds it) for a source and a fold."""
        assert self.document_counts is not None
        self._rows_of(self.document_counts, source)[fold] += np.bincount(unique_ids, minlength=self.rows)

    def add_part(self, part: ShardCounts) -> None:
        """Adds counts that another tally made."""
        self.flush()
        for index, source in enumerate(part.sources):
            first, last = np.searchsorted(part.key, [index * FOLDS, (index + 1) * FOLDS])
            where = (part.key[first:last] - index * FOLDS, part.token[first:last])
            self._rows_of(self.counts, source)[where] += part.count[first:last]
            if self.document_counts is not None and part.documents is not None:
                self._rows_of(self.document_counts, source)[where] += part.documents[first:last]

    def flush(self) -> None:
        """Counts the ids that are held back."""
        for (source, fold), arrays in self._held.items():
            ids = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            self._rows_of(self.counts, source)[fold] += np.bincount(ids, minlength=self.rows)
        self._held, self._held_tokens = {}, 0

    def by_fold(self) -> np.ndarray:
        """int64 [FOLDS, rows]: counts over all sources."""
        self.flush()
        return sum(self.counts.values(), start=np.zeros((FOLDS, self.rows), dtype=np.int64))

    def part(self) -> ShardCounts:
        """What was counted so far, as a part without shards."""
        sources = sorted({*self.counts, *(source for source, _ in self._held)})
        self._check_number(sources)
        found = []
        for index, source in enumerate(sources):
            for fold in range(FOLDS):
                row = self._row(source, fold)
                if row is not None:
                    token = np.flatnonzero(row).astype(np.int32)
                    key = np.full(len(token), index * FOLDS + fold, np.int32)
                    found.append((key, token, row[token], self._documents_at(source, fold, token)))
        columns = list(zip(*found, strict=True)) if found else [()] * 4
        kinds = (np.int32, np.int32, np.int64, np.int64)
        key, token, count, documents = (
            np.concatenate([np.zeros(0, kind), *column]) for kind, column in zip(kinds, columns, strict=True)
        )
        return ShardCounts(sources, key, token, count, documents if self.document_counts is not None else None)

    def _row(self, source: str, fold: int) -> np.ndarray | None:
        """int64 [rows]: the counts of one source and fold, what is held back included; None where there are none."""
        dense = self.counts[source][fold] if source in self.counts else None
        arrays = self._held.get((source, fold))
        if not arrays:
            return dense
        fresh = np.bincount(np.concatenate(arrays), minlength=self.rows)
        return fresh if dense is None else fresh + dense

    def _documents_at(self, source: str, fold: int, token: np.ndarray) -> np.ndarray:
        if self.document_counts is None:
            return np.zeros(0, np.int64)
        return self._rows_of(self.document_counts, source)[fold, token]

    def _rows_of(self, where: dict[str, np.ndarray], source: str) -> np.ndarray:
        if source not in where:
            self._check_number([*where, source])
            where[source] = np.zeros((FOLDS, self.rows), dtype=np.int64)
        return where[source]

    def _check_number(self, sources: list[str]) -> None:
        if len(sources) > MAX_SOURCES:
            raise FrspecError(
                f"the corpus has more than {MAX_SOURCES} sources (the latest is {sources[-1][:40]!r}).",
                hint="Choose a field with fewer values by --source-field, or give all one label by --source-name.",
            )
