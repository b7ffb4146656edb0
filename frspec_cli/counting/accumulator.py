"""Token ids to counts: dense running counts by source and fold, and the sparse counts that travel and are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from frspec_cli.corpus.documents import Document
from frspec_cli.counting.table import FOLDS, sum_by_fold
from frspec_cli.errors import FrspecError, option

FLUSH_TOKENS = 8 << 20
"""Ids held back before they are counted: bincount over all rows pays only for many ids at once."""
MAX_SOURCES = 64


@dataclass
class ShardCounts:
    """Counts of some shards, only those above zero, sorted by (source, fold, token).

    sources: labels.
    key: int32 [n], source's position * FOLDS + fold.
    token: int32 [n].
    count: int64 [n].
    documents: int64 [n], documents that hold the token; None unless they were to be counted.
    shards: one record for each shard (`label, size, sha256, lines, documents, tokens, bytes, skipped`...).
    examples: (shard's or file's name, line or 0, reason, detail) of a few skipped records.
    samples: documents with their ids, to be encoded again by the reference.
    """

    sources: list[str]
    key: np.ndarray
    token: np.ndarray
    count: np.ndarray
    documents: np.ndarray | None
    shards: list[dict[str, Any]] = field(default_factory=list)
    examples: list[tuple[str, int, str, str]] = field(default_factory=list)
    samples: list[tuple[Document, np.ndarray]] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Sum of one of the shards' figures: `size`, `lines`, `documents`, `tokens` or `bytes`."""
        return sum(shard[name] for shard in self.shards)


class CountAccumulator:
    """int64 counts [FOLDS, rows] for each source, filled from arrays of ids.

    Raises `FrspecError` for more than `MAX_SOURCES` sources: a field with that many values is not a label.
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
        self._dense(self.document_counts, source)[fold] += np.bincount(unique_ids, minlength=self.rows)

    def add_part(self, part: ShardCounts) -> None:
        """Adds counts that another accumulator made."""
        self.flush()
        for index, source in enumerate(part.sources):
            first, last = np.searchsorted(part.key, [index * FOLDS, (index + 1) * FOLDS])
            where = (part.key[first:last] - index * FOLDS, part.token[first:last])
            self._dense(self.counts, source)[where] += part.count[first:last]
            if self.document_counts is not None and part.documents is not None:
                self._dense(self.document_counts, source)[where] += part.documents[first:last]

    def flush(self) -> None:
        """Counts the ids that are held back."""
        for (source, fold), arrays in self._held.items():
            ids = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            self._dense(self.counts, source)[fold] += np.bincount(ids, minlength=self.rows)
        self._held, self._held_tokens = {}, 0

    def by_fold(self) -> np.ndarray:
        """int64 [FOLDS, rows]: counts over all sources."""
        self.flush()
        return sum_by_fold(self.counts.values(), self.rows)

    def part(self) -> ShardCounts:
        """The counts so far, as a part without shards."""
        sources = sorted({*self.counts, *(source for source, _ in self._held)})
        self._check_number(sources)
        keys, tokens, counts, documents = [_NONE_32], [_NONE_32], [_NONE_64], [_NONE_64]
        for source, fold, key, row in self._rows(sources):
            token = np.flatnonzero(row).astype(np.int32)
            keys.append(np.full(len(token), key, np.int32))
            tokens.append(token)
            counts.append(row[token])
            if self.document_counts is not None:
                documents.append(self._dense(self.document_counts, source)[fold, token])
        held = None if self.document_counts is None else np.concatenate(documents)
        return ShardCounts(sources, np.concatenate(keys), np.concatenate(tokens), np.concatenate(counts), held)

    def _rows(self, sources: list[str]) -> Iterator[tuple[str, int, int, np.ndarray]]:
        """(source, fold, key, int64 [rows]) of every source and fold that holds any counts, in the order of keys.

        Ids that are held back are counted on the side: a small shard never needs the dense array of its source.
        """
        for index, source in enumerate(sources):
            for fold in range(FOLDS):
                dense = self.counts[source][fold] if source in self.counts else None
                held = self._held.get((source, fold))
                row = np.bincount(np.concatenate(held), minlength=self.rows) if held else None
                if row is not None and dense is not None:
                    row += dense
                elif row is None:
                    row = dense
                if row is not None:
                    yield source, fold, index * FOLDS + fold, row

    def _dense(self, counts: dict[str, np.ndarray], source: str) -> np.ndarray:
        """The source's int64 [FOLDS, rows] in `counts`, made if needed."""
        if source not in counts:
            self._check_number([*counts, source])
            counts[source] = np.zeros((FOLDS, self.rows), dtype=np.int64)
        return counts[source]

    def _check_number(self, sources: list[str]) -> None:
        if len(sources) > MAX_SOURCES:
            raise FrspecError(
                f"the corpus has more than {MAX_SOURCES} sources (the latest is {sources[-1][:40]!r}).",
                hint=f"Choose a field with fewer values by {option('source_field')}, or give all one label by "
                f"{option('source_name')}.",
            )


_NONE_32, _NONE_64 = np.zeros(0, np.int32), np.zeros(0, np.int64)
