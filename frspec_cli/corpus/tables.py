"""Parquet and Arrow shards: rows to documents, only the columns that are needed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from frspec_cli.corpus.arrow import arrow_records
from frspec_cli.corpus.documents import (
    CONVERSATION_FIELDS,
    DEFAULT_SOURCE_FIELD,
    Document,
    Fields,
    Reason,
    Skipped,
)
from frspec_cli.corpus.records import record_document
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import BrokenFile, open_binary, raw_chunks, text_chunks
from frspec_cli.errors import FrspecError, did_you_mean, option

ROWS_AT_ONCE = 512
_ANSWER_FIELDS = ("prompt_token_ids", "response_token_ids", "finish")


def read_parquet(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    """The rows of a parquet file. Raises `BrokenFile`, or `FrspecError` if it has no text column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _seekable(shard, digest) as file:
        try:
            parquet = pq.ParquetFile(file)
            columns = _columns(parquet.schema_arrow.names, shard, fields)
            batches = parquet.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns)
            yield from _rows(batches, shard, fields)
        except (pa.ArrowException, OSError, SystemError, MemoryError) as error:
            raise _broken(shard, error, file.tell()) from None


def read_arrow(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    """The rows of an Arrow IPC file or stream. Raises like `read_parquet`."""
    with _local_file(shard, digest) as path:
        records = arrow_records(path, shard.label, lambda names: _columns(names, shard, fields))
        for line, record in enumerate(records, start=1):
            if record is None:
                yield Skipped(line, Reason.INVALID_UTF8)
            else:
                yield record_document(record, line, shard, fields)


@contextmanager
def _local_file(shard: Shard, digest: Any) -> Iterator[str]:
    """The path of the shard's file, hashed first; of an unpacked temporary one if it is compressed or not local."""
    path = shard.paths[0]
    if not shard.compression and "://" not in path:
        with _seekable(shard, digest):
            yield path
        return
    with tempfile.NamedTemporaryFile(prefix="frspec-") as unpacked:
        _unpack(text_chunks(shard, path, digest), unpacked, shard)
        yield unpacked.name


@contextmanager
def _seekable(shard: Shard, digest: Any) -> Iterator[IO[bytes]]:
    """The file, hashed first, since a table is read from its end. A compressed one is unpacked into a temporary file."""
    path = shard.paths[0]
    if shard.compression:
        with tempfile.TemporaryFile() as unpacked:
            _unpack(text_chunks(shard, path, digest), unpacked, shard)
            unpacked.seek(0)
            yield unpacked
        return
    with open_binary(path) as file:
        if digest is not None:
            for _ in raw_chunks(file, digest):
                pass
            file.seek(0)
        yield file


def _unpack(chunks: Iterator[bytes], file: Any, shard: Shard) -> None:
    try:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # what it still holds would be tried again
            file.close()
        raise FrspecError(
            f"{shard.label} cannot be unpacked in {tempfile.gettempdir()}: {error.strerror or error}.",
            hint="Set TMPDIR to a folder with more room.",
        ) from error


def _columns(names: list[str], shard: Shard, fields: Fields) -> list[str]:
    candidates = [fields.text] if fields.text else ["text", *CONVERSATION_FIELDS]
    text = next((column for name in candidates for column in (name, name.split(".")[0]) if column in names), None)
    if text is None:
        raise FrspecError(
            f"{shard.label} has no column {candidates[0]!r}; it has: {', '.join(names)}.",
            hint=did_you_mean(candidates[0], names)
            or f"Name the column that holds the text with {option('text_field')}.",
        )
    label = fields.source or DEFAULT_SOURCE_FIELD
    others = [name for name in (label, label.split(".")[0], *_ANSWER_FIELDS) if name in names]
    return list(dict.fromkeys([text, *others]))


def _rows(batches: Any, shard: Shard, fields: Fields) -> Iterator[Document | Skipped]:
    line = 0
    for batch in batches:
        for record in _records(batch):
            line += 1
            if isinstance(record, UnicodeDecodeError):
                yield Skipped(line, Reason.INVALID_UTF8, str(record.reason))
            else:
                yield record_document(record, line, shard, fields)


def _records(batch: Any) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        # A row whose bytes are not UTF-8 fails the whole batch; read row by row, only that row fails.
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error


def _broken(shard: Shard, error: Exception, byte: int) -> BrokenFile:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return BrokenFile(shard.label, f"damaged parquet data ({reason})", byte)
