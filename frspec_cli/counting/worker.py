"""One shard's text to its counts: the function that every executor (this process, a worker, a cluster) runs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from frspec_cli.corpus.documents import Document, Skipped
from frspec_cli.corpus.reading import read_shard
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import BrokenFile
from frspec_cli.counting.accumulator import CountAccumulator, ShardCounts
from frspec_cli.counting.document_encoder import DocumentEncoder, EncodedBatch, build_encoder
from frspec_cli.counting.options import CountOptions
from frspec_cli.progress import Advance
from frspec_cli.tokens.encoder import Encoder, ReferenceEncoder

BATCH_DOCUMENTS = 512
BATCH_BYTES = 2 << 20
MAX_EXAMPLES = 8
"""Skipped records whose place is remembered, for each shard."""
RECHECK_SHARE = 1000
"""At most one byte in this many is kept to be encoded again by the reference."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to count and the limits on it (None: all of it)."""

    index: int
    shard: Shard
    limit_documents: int | None = None
    limit_tokens: int | None = None


@dataclass(frozen=True)
class CounterSpec:
    """How a `ShardCounter` is made: small enough to be sent to another process or machine.

    encoder: `reference` or `fast`.
    tokenizer: path of the tokenizer.json.
    rows: the tokenizer's highest id + 1.
    """

    encoder: str
    tokenizer: str
    rows: int
    options: CountOptions


def silent(**amounts: int) -> None:
    """Progress that nobody watches."""


class ShardCounter:
    """Counts shards with one encoder, which lives as long as this does.

    encoder: the encoder that `spec` names, if it has been built already.
    Of the ids that any encoder but the reference makes, a few documents' are kept for the reference to check.
    """

    def __init__(self, spec: CounterSpec, encoder: Encoder | None = None) -> None:
        self.spec = spec
        self.rows = spec.rows
        self.options = spec.options
        self.recheck = spec.encoder != ReferenceEncoder.name
        self.encoder = DocumentEncoder(
            encoder or build_encoder(spec.encoder, spec.tokenizer),
            spec.tokenizer,
            assistant_only=spec.options.assistant_only,
            template=spec.options.template,
            preformatted=spec.options.preformatted,
        )

    def count(self, task: ShardTask, progress: Advance = silent) -> ShardCounts:
        """The task's counts.

        progress: gets what was done since its last call: `documents`, their `bytes`, their `tokens`, and the bytes `read`
        from the disk.
        Raises `BrokenFile` for a broken container; with `skip_broken_files` it counts as nothing and is recorded so.
        """
        try:
            return _ShardRun(self, task, progress).count()
        except BrokenFile as error:
            if not self.options.skip_broken_files:
                raise
            part = self.accumulator().part()
            part.shards = [_record(task.shard, "", broken=error.message)]
            return part

    def accumulator(self) -> CountAccumulator:
        """An empty one, for the counts of one shard or of many."""
        return CountAccumulator(self.rows, document_frequency=self.options.document_frequency)


class _ShardRun:
    """The state of counting one shard: what was read, what is waiting to be encoded, what was counted."""

    def __init__(self, counter: ShardCounter, task: ShardTask, progress: Advance) -> None:
        self.counter = counter
        self.task = task
        self.progress = progress
        self.digest = _Digest()
        self.accumulator = counter.accumulator()
        self.documents = self.tokens = self.bytes = 0
        self.skipped: list[Skipped] = []
        self.skipped_turns: list[Skipped] = []
        self.partly_skipped = 0
        self.samples: list[tuple[Document, np.ndarray]] = []
        self.sampled_bytes = 0

    def count(self) -> ShardCounts:
        for batch in self._batches():
            self._count_batch(batch)
            if self._has_its_tokens():
                break
        self.progress(documents=0, bytes=0, tokens=0, read=self.digest.passed())
        part = self.accumulator.part()
        part.shards = [self._record()]
        part.examples = [
            (item.file or self.task.shard.label, 0 if item.file else item.line, item.reason, item.detail)
            for item in _first_of_each_reason(sorted({*self.skipped, *self.skipped_turns}, key=_place))
        ]
        part.samples = self.samples
        return part

    def _record(self) -> dict[str, Any]:
        cut = self._has_its_tokens() or self.documents == self.task.limit_documents
        record = _record(self.task.shard, "" if cut else self.digest.hexdigest())
        reasons = Counter(skipped.reason for skipped in self.skipped)
        record |= {"lines": self.documents + len(self.skipped), "documents": self.documents, "tokens": self.tokens}
        record |= {"bytes": self.bytes, "skipped": dict(sorted(reasons.items()))}
        if self.skipped_turns:
            turns = Counter(skipped.reason for skipped in self.skipped_turns)
            record |= {"skipped_turns": dict(sorted(turns.items())), "partly_skipped": self.partly_skipped}
        return record

    def _has_its_tokens(self) -> bool:
        """Whether the limit on tokens is reached."""
        return self.task.limit_tokens is not None and self.tokens >= self.task.limit_tokens

    def _batches(self) -> Iterator[list[Document]]:
        """Documents in batches; stops after the last one that the limit on documents allows."""
        batch: list[Document] = []
        size = 0
        limit = self.task.limit_documents
        fields = self.counter.options.fields(self.counter.spec.encoder)
        for item in read_shard(self.task.shard, fields, self.digest):
            if isinstance(item, Skipped):
                self.skipped.append(item)
                continue
            batch.append(item)
            size += len(item.data)
            full = limit is not None and self.documents + len(batch) == limit
            if full or len(batch) == BATCH_DOCUMENTS or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
            if self.documents == limit:
                return
        if batch:
            yield batch

    def _count_batch(self, documents: list[Document]) -> None:
        """Counts documents, up to the limit on tokens."""
        batch = EncodedBatch.of(documents, self.counter.encoder)
        documents = batch.documents
        kept = self._within_limit(batch.lengths)
        if kept is batch.lengths:
            for source, fold, ids, lengths in batch.groups():
                self._add(source, fold, ids, lengths)
        else:
            for index, length in enumerate(kept):
                self._add(*batch.keys[index], batch.ids_of(index)[:length], kept[index : index + 1])
        size = sum(len(document.data) for document in documents[: len(kept)])
        tokens = int(kept.sum())
        self.documents += len(kept)
        self.bytes += size
        self.tokens += tokens
        partly = [turns for index, turns in batch.skipped_turns.items() if index < len(kept)]
        self.partly_skipped += len(partly)
        self.skipped += [turns[0] for turns in batch.skipped]
        self.skipped_turns += [turn for turns in (*batch.skipped, *partly) for turn in turns]
        if self._has_its_tokens():
            last_line = documents[len(kept) - 1].line
            self.skipped = [item for item in self.skipped if item.line < last_line]
            self.skipped_turns = [turn for turn in self.skipped_turns if turn.line <= last_line]
        if self.counter.recheck:
            self._sample(batch, len(kept))
        self.progress(documents=len(kept), bytes=size, tokens=tokens, read=self.digest.passed())

    def _within_limit(self, lengths: np.ndarray) -> np.ndarray:
        """How many ids of each document are counted: int64 [documents kept]; `lengths` itself if none is cut or left out."""
        limit = self.task.limit_tokens
        if limit is None:
            return lengths
        ends = self.tokens + np.cumsum(lengths)
        last = int(np.searchsorted(ends, limit))  # the document in which the limit is reached
        if last >= len(lengths):
            return lengths
        kept = lengths[: last + 1].copy()
        kept[last] -= ends[last] - limit
        return kept

    def _add(self, source: str, fold: int, ids: np.ndarray, lengths: np.ndarray) -> None:
        self.accumulator.add(source, fold, ids)
        if self.counter.options.document_frequency:
            unique_ids = _unique_by_document(ids, lengths, self.counter.rows)
            self.accumulator.add_documents(source, fold, unique_ids)

    def _sample(self, batch: EncodedBatch, kept: int) -> None:
        """Keeps a few documents for the reference: chosen by their hash, never more than their share of the bytes."""
        for index, document in enumerate(batch.documents[:kept]):
            size = len(document.data)
            fits = (self.sampled_bytes + size) * RECHECK_SHARE <= self.bytes
            if fits and size and (batch.crcs[index] >> 8) % 16 == 0:
                self.sampled_bytes += size
                self.samples.append((document, batch.ids_of(index).copy()))


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


def _unique_by_document(ids: np.ndarray, lengths: np.ndarray, rows: int) -> np.ndarray:
    """ids [n] of documents of the given lengths -> each document's distinct ids, one document after another."""
    document = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    return np.unique(document * rows + ids) % rows


def _place(item: Skipped) -> tuple[int, str]:
    return item.line, item.detail


def _first_of_each_reason(skipped: list[Skipped]) -> list[Skipped]:
    counts: Counter[str] = Counter()
    examples: list[Skipped] = []
    for item in skipped:
        counts[item.reason] += 1
        if counts[item.reason] <= MAX_EXAMPLES // 2 and len(examples) < MAX_EXAMPLES:
            examples.append(item)
    return examples


def _record(shard: Shard, sha256: str, *, broken: str = "") -> dict[str, Any]:
    """A shard as the table and the ledger name it. A shard that a limit cut has no hash: it was not read to its end."""
    record: dict[str, Any] = {"path": shard.label, "format": shard.format, "size": shard.size, "sha256": sha256}
    if shard.start:
        record["start"] = shard.start
    if len(shard.paths) > 1:
        record["files"] = len(shard.paths)
    record |= {"lines": 0, "documents": 0, "tokens": 0, "bytes": 0, "skipped": {}}
    return record | ({"broken": broken} if broken else {})
