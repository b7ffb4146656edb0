"""One shard's text to its counts: the function that every engine (this process, a worker, a cluster) runs."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from frspec_cli.corpus.documents import Document, Skipped
from frspec_cli.corpus.reading import read_shard
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import BrokenFile
from frspec_cli.counting.accumulator import CountAccumulator, ShardCounts
from frspec_cli.counting.options import CountOptions
from frspec_cli.counting.table import FOLDS
from frspec_cli.tokens.chat import ChatEncoder, chat_encoder
from frspec_cli.tokens.encoder import Encoded, Encoder, ReferenceEncoder

BATCH_DOCUMENTS = 512
BATCH_BYTES = 2 << 20
MAX_EXAMPLES = 8
"""Skipped records whose place is remembered, for each shard."""
RECHECK_SHARE = 1000
"""One byte in so many, at most, is kept to be encoded again by the reference."""

Progress = Callable[[int, int, int, int], None]
"""Called with what was done since the last call: documents, their bytes, their tokens, bytes read from the disk."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to count and the limits on it (None: all of it)."""

    index: int
    shard: Shard
    limit_documents: int | None = None
    limit_tokens: int | None = None


def fold_of(data: bytes) -> int:
    """A document's fold, 0 to 9: CRC-32 of its UTF-8 bytes, mod 10. The same on every machine, and nearly free."""
    return zlib.crc32(data) % FOLDS


def silent(documents: int, size: int, tokens: int, read: int) -> None:
    """Progress that nobody watches."""


class ShardCounter:
    """Counts shards with one encoder, which lives as long as this does.

    rows: the tokenizer's highest id + 1. tokenizer: path of its tokenizer.json, for conversations. Of what any encoder
    but the reference made, some documents are kept with their ids, for the reference to confirm.
    """

    def __init__(self, encoder: Encoder, rows: int, options: CountOptions, tokenizer: str) -> None:
        self.encoder = encoder
        self.rows = rows
        self.options = options
        self.tokenizer = tokenizer
        self.recheck = encoder.name != ReferenceEncoder.name

    @cached_property
    def chat(self) -> ChatEncoder:
        """How conversations are encoded; made at the first one."""
        return chat_encoder(self.tokenizer, assistant_only=self.options.assistant_only)

    def count(self, task: ShardTask, progress: Progress = silent) -> ShardCounts:
        """The task's counts. A broken container raises, or with --skip-broken-files counts as nothing and says so."""
        try:
            return _ShardRun(self, task, progress).part()
        except BrokenFile as error:
            if not self.options.skip_broken_files:
                raise
            part = CountAccumulator(self.rows, document_frequency=self.options.document_frequency).part()
            part.shards = [_record(task.shard, "", broken=error.message)]
            return part


class _ShardRun:
    """The state of counting one shard: what was read, what is waiting to be encoded, what was counted."""

    def __init__(self, counter: ShardCounter, task: ShardTask, progress: Progress) -> None:
        self.counter = counter
        self.task = task
        self.progress = progress
        self.digest = _Digest()
        self.tally = CountAccumulator(counter.rows, document_frequency=counter.options.document_frequency)
        self.documents = self.tokens = self.bytes = 0
        self.skipped: list[Skipped] = []
        self.samples: list[tuple[str, np.ndarray]] = []
        self.sampled_bytes = 0

    def part(self) -> ShardCounts:
        digest = self.digest
        complete = True
        for batch in self._batches(digest):
            if not self._count(batch):
                complete = False
                break
        self.progress(0, 0, 0, digest.passed())
        part = self.tally.part()
        shard = self.task.shard
        complete = complete and self.documents != self.task.limit_documents
        record = _record(shard, digest.hexdigest() if complete else "")
        reasons = Counter(skipped.reason for skipped in self.skipped)
        record |= {"lines": self.documents + len(self.skipped), "documents": self.documents, "tokens": self.tokens}
        record |= {"bytes": self.bytes, "skipped": dict(sorted(reasons.items()))}
        part.shards = [record]
        part.examples = [
            (item.file or shard.label, 0 if item.file else item.line, item.reason, item.detail)
            for item in _first_of_each_reason(self.skipped)
        ]
        part.samples = self.samples
        return part

    def _batches(self, digest: Any) -> Iterator[list[Document]]:
        """Documents in batches; stops behind the last one that the limit on documents allows."""
        batch: list[Document] = []
        size = 0
        limit = self.task.limit_documents
        for item in read_shard(self.task.shard, self.counter.options.fields, digest):
            if isinstance(item, Skipped):
                self.skipped.append(item)
                continue
            batch.append(item)
            size += len(item.data)
            full = limit is not None and self.documents + len(batch) == limit
            if full or len(batch) == BATCH_DOCUMENTS or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
            if full:
                return
        if batch:
            yield batch

    def _count(self, batch: list[Document]) -> bool:
        """Counts a batch; False when the limit on tokens was reached in it."""
        crcs = [zlib.crc32(document.data) for document in batch]
        order = sorted(range(len(batch)), key=lambda index: (batch[index].source, crcs[index] % FOLDS))
        encoded = self._encode([batch[index] for index in order])
        lengths = np.empty(len(batch), dtype=np.int64)
        lengths[order] = np.diff(encoded.offsets)
        keep, cut = self._within_limit(batch, lengths)
        position = {document: place for place, document in enumerate(order)}
        if keep == len(batch) and not cut:
            for first, last in _runs([(batch[index].source, crcs[index] % FOLDS) for index in order]):
                document = order[first]
                ids = encoded.ids[encoded.offsets[first] : encoded.offsets[last]]
                self._add(batch[document].source, crcs[document] % FOLDS, ids, encoded.offsets[first : last + 1])
        else:
            for index in range(keep):
                ids = encoded.of(position[index])
                ids = ids[:cut] if cut and index == keep - 1 else ids
                self._add(batch[index].source, crcs[index] % FOLDS, ids, np.array([0, len(ids)]))
        size = sum(len(document.data) for document in batch[:keep])
        tokens = cut - int(lengths[keep - 1]) + int(lengths[:keep].sum()) if cut else int(lengths[:keep].sum())
        self.documents += keep
        self.bytes += size
        self.tokens += tokens
        if self.counter.recheck:
            self._sample(batch[:keep], crcs, encoded, position)
        self.progress(keep, size, tokens, self.digest.passed())
        return self.task.limit_tokens is None or self.tokens < self.task.limit_tokens

    def _encode(self, batch: list[Document]) -> Encoded:
        if any(document.messages is not None for document in batch):
            return self.counter.chat.encode(batch, self.counter.encoder)
        return self.counter.encoder.encode([item.text for item in batch], [item.data for item in batch])

    def _within_limit(self, batch: list[Document], lengths: np.ndarray) -> tuple[int, int]:
        """(documents to keep, ids to keep of the last one or 0 for all); drops skipped records behind them."""
        limit = self.task.limit_tokens
        if limit is None:
            return len(batch), 0
        ends = self.tokens + np.cumsum(lengths)
        keep = min(int(np.searchsorted(ends, limit)) + 1, len(batch))
        cut = limit - int(ends[keep - 1] - lengths[keep - 1]) if ends[keep - 1] > limit else 0
        if ends[keep - 1] >= limit:
            self.skipped = [item for item in self.skipped if item.line < batch[keep - 1].line]
        return keep, cut

    def _add(self, source: str, fold: int, ids: np.ndarray, offsets: np.ndarray) -> None:
        self.tally.add(source, fold, ids)
        if self.counter.options.document_frequency:
            self.tally.add_documents(source, fold, _unique_by_document(ids, np.diff(offsets), self.counter.rows))

    def _sample(self, batch: list[Document], crcs: list[int], encoded: Encoded, position: dict[int, int]) -> None:
        """Keeps a few documents for the reference: chosen by their hash, never more than their share of the bytes."""
        for index, document in enumerate(batch):
            fits = (self.sampled_bytes + len(document.data)) * RECHECK_SHARE <= self.bytes
            if fits and (crcs[index] >> 8) % 16 == 0 and document.messages is None:
                self.sampled_bytes += len(document.data)
                self.samples.append((document.text, encoded.of(position[index]).copy()))


class _Digest:
    """sha256 of the bytes read, and how many they are."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        self._bytes += len(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()

    def passed(self) -> int:
        """Bytes since the last call."""
        passed, self._bytes = self._bytes, 0
        return passed


def _runs(keys: list[Any]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of every run of equal neighbours."""
    first = 0
    for index in range(1, len(keys) + 1):
        if index == len(keys) or keys[index] != keys[first]:
            yield first, index
            first = index


def _unique_by_document(ids: np.ndarray, lengths: np.ndarray, rows: int) -> np.ndarray:
    """ids [n] of documents of the given lengths -> each document's distinct ids, one document after another."""
    document = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    return np.unique(document * rows + ids) % rows


def _first_of_each_reason(skipped: list[Skipped]) -> list[Skipped]:
    seen: Counter[str] = Counter()
    chosen: list[Skipped] = []
    for item in skipped:
        seen[item.reason] += 1
        if seen[item.reason] <= MAX_EXAMPLES // 2 and len(chosen) < MAX_EXAMPLES:
            chosen.append(item)
    return chosen


def _record(shard: Shard, sha256: str, *, broken: str = "") -> dict[str, Any]:
    """A shard as the table and the ledger name it. A shard that a limit cut has no hash: it was not read to its end."""
    record: dict[str, Any] = {"path": shard.label, "format": shard.format, "size": shard.size, "sha256": sha256}
    if shard.start:
        record["start"] = shard.start
    if len(shard.paths) > 1:
        record["files"] = len(shard.paths)
    record |= {"lines": 0, "documents": 0, "tokens": 0, "bytes": 0, "skipped": {}}
    return record | ({"broken": broken} if broken else {})
