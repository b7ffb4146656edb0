"""Parquet and Arrow shards: rows to documents, only the columns that are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

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
from frspec_cli.errors import FrspecError, option

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
        except (pa.ArrowException, OSError) as error:
            raise _broken(shard, error, file.tell()) from None


def read_arrow(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    """The rows of an Arrow IPC file or stream (`datasets` keeps streams). Raises like `read_parquet`."""
    import pyarrow as pa

    with _seekable(shard, digest) as file:
        try:
            start = file.read(6)
            file.seek(0)
            if start == b"ARROW1":
                reader = pa.ipc.open_file(file)
                batches: Any = (reader.get_batch(index) for index in range(reader.num_record_batches))
            else:
                batches = reader = pa.ipc.open_stream(file)
            columns = _columns(reader.schema.names, shard, fields)
            yield from _rows((batch.select(columns) for batch in batches), shard, fields)
        except (pa.ArrowException, OSError) as error:
            raise _broken(shard, error, file.tell()) from None


@contextmanager
def _seekable(shard: Shard, digest: Any) -> Iterator[IO[bytes]]:
    """The file, hashed first, since a table is read from its end. A compressed one is unpacked into a temporary file."""
    path = shard.paths[0]
    if shard.compression:
        import tempfile

        with tempfile.TemporaryFile() as unpacked:
            for chunk in text_chunks(shard, path, digest):
                unpacked.write(chunk)
            unpacked.seek(0)
            yield unpacked
        return
    with open_binary(path) as file:
        if digest is not None:
            for _ in raw_chunks(file, digest):
                pass
            file.seek(0)
        yield file


def _columns(names: list[str], shard: Shard, fields: Fields) -> list[str]:
    candidates = [fields.text] if fields.text else ["text", *CONVERSATION_FIELDS]
    text = next((column for name in candidates for column in (name, name.split(".")[0]) if column in names), None)
    if text is None:
        raise FrspecError(
            f"{shard.label} has no column {candidates[0]!r}; it has: {', '.join(names)}.",
            hint=f"Name the column that holds the text with {option('text_field')}.",
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
    kind = "parquet" if shard.format == "parquet" else "Arrow"
    return BrokenFile(shard.label, f"damaged {kind} data ({str(error).splitlines()[0].rstrip('.')})", byte)
