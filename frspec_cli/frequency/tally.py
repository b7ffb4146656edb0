"""Token ids to counts: a running tally by source and fold, and the sparse parts that travel and are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from frspec_cli.errors import FrspecError
from frspec_cli.frequency.table import FOLDS

FLUSH_TOKENS = 4 << 20
"""Ids held back before they are counted: bincount over all rows pays only for many ids at once."""
MAX_SOURCES = 64


@dataclass
class Part:
    """Counts of some shards, only those above zero, sorted by (source, fold, token).

    sources: labels. key: int32 [n], source's position * FOLDS + fold. token: int32 [n]. count: int64 [n].
    documents: int64 [n], documents that hold the token, or None where that was not asked for.
    shards: one record for each shard (`label, size, sha256, lines, documents, tokens, bytes, skipped`...).
    examples: (shard's label, line, reason, detail) of a few skipped records. samples: (text, ids) to be re-encoded.
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
        """Sum of one of the shards' figures: `lines`, `documents`, `tokens` or `bytes`."""
        return sum(shard[name] for shard in self.shards)


class Tally:
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

    def add_part(self, part: Part) -> None:
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

    def part(self) -> Part:
        """What was counted so far, as a part without shards."""
        self.flush()
        sources = sorted(self.counts)
        keys, tokens, counts, documents = [], [], [], []
        for index, source in enumerate(sources):
            fold, token = np.nonzero(self.counts[source])
            keys.append((index * FOLDS + fold).astype(np.int32))
            tokens.append(token.astype(np.int32))
            counts.append(self.counts[source][fold, token])
            if self.document_counts is not None:
                documents.append(self._rows_of(self.document_counts, source)[fold, token])
        empty = [np.zeros(0, np.int32)]
        return Part(
            sources,
            np.concatenate(keys or empty),
            np.concatenate(tokens or empty),
            np.concatenate(counts or [np.zeros(0, np.int64)]),
            None if self.document_counts is None else np.concatenate(documents or [np.zeros(0, np.int64)]),
        )

    def _rows_of(self, where: dict[str, np.ndarray], source: str) -> np.ndarray:
        if source not in where:
            if len(where) >= MAX_SOURCES:
                raise FrspecError(
                    f"the corpus has more than {MAX_SOURCES} sources (the latest is {source[:40]!r}).",
                    hint="Choose a field with fewer values by --source-field, or give all one label by --source-name.",
                )
            where[source] = np.zeros((FOLDS, self.rows), dtype=np.int64)
        return where[source]
