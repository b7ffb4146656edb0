"""Shards to documents: one reader for each format, all of them streams."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from frspec_cli.corpus import json_list
from frspec_cli.corpus.delimited import read_delimited
from frspec_cli.corpus.documents import Document, Fields, Reason, Skipped
from frspec_cli.corpus.hub import read_hub
from frspec_cli.corpus.records import bytes_document, parse_json, record_document, require_assistant
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import lines, piece_chunks, pieces, text_chunks
from frspec_cli.corpus.tables import read_arrow, read_parquet
from frspec_cli.errors import FrspecError, option

Reader = Callable[[Shard, Fields, Any], Iterator[Document | Skipped]]
_LINE_OVERHEAD = 4
"""A JSON line may be longer than its text: escapes and other fields. Above this multiple of the longest text it is cut."""


def read_shard(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    """The shard's records in their order, each as a document or as skipped for a reason.

    digest: a hashlib object that is updated with the shard's bytes, or None.
    Raises `BrokenFile` for a damaged container.
    """
    return READERS[shard.format](shard, fields, digest)


def _line_chunks(shard: Shard, digest: Any) -> Iterator[bytes]:
    if shard.compression:
        return text_chunks(shard, shard.paths[0], digest)
    return piece_chunks(shard, digest)


def _read_jsonl(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    return _json_lines(_line_chunks(shard, digest), shard, fields)


def _json_lines(chunks: Iterable[bytes], shard: Shard, fields: Fields) -> Iterator[Document | Skipped]:
    longest = fields.longest * _LINE_OVERHEAD
    for number, line in enumerate(lines(chunks, longest=longest), start=1):
        if line is None:
            yield Skipped(number, Reason.TOO_LONG, f"the line has more than {longest:,} bytes")
            continue
        if number == 1 and shard.start == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line or line.isspace():
            yield Skipped(number, Reason.EMPTY)
            continue
        record = parse_json(line, number)
        yield record if isinstance(record, Skipped) else record_document(record, number, shard, fields)


def _read_lines(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    for number, line in enumerate(lines(_line_chunks(shard, digest), longest=fields.longest), start=1):
        if line is None:
            yield Skipped(number, Reason.TOO_LONG, f"more than {fields.longest:,} bytes")
            continue
        if number == 1 and shard.start == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        document = bytes_document(line.removesuffix(b"\r"), number, shard.source, fields.longest)
        yield require_assistant(document, fields)


def _read_text(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    """Every file is a document; its number in the bundle is its line."""
    if fields.split_on:
        yield from _read_split_text(shard, fields, digest)
        return
    for number, path in enumerate(shard.paths, start=1):
        chunks: list[bytes] = []
        size = 0
        for chunk in text_chunks(shard, path, digest):
            size += len(chunk)
            if size <= fields.longest:
                chunks.append(chunk)
        if size > fields.longest:
            yield Skipped(number, Reason.TOO_LONG, f"{size:,} bytes", shard.file_name(path))
            continue
        data = b"".join(chunks).removeprefix(codecs.BOM_UTF8)
        document = require_assistant(bytes_document(data, number, shard.source, fields.longest), fields)
        yield document._replace(file=shard.file_name(path)) if isinstance(document, Skipped) else document


def _read_split_text(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    """What is between separators is a document; its number in the bundle is its line."""
    separator, number = str(fields.split_on).encode(), 0
    for path in shard.paths:
        texts = pieces(text_chunks(shard, path, digest), separator, longest=fields.longest)
        for index, data in enumerate(texts, start=1):
            number += 1
            place = f"{shard.file_name(path)}, text {index:,}"
            if data is None:
                yield Skipped(number, Reason.TOO_LONG, f"more than {fields.longest:,} bytes", place)
                continue
            data = data.removeprefix(codecs.BOM_UTF8) if index == 1 else data
            document = bytes_document(b"" if data.isspace() else data, number, shard.source, fields.longest)
            document = require_assistant(document, fields)
            yield document._replace(file=place) if isinstance(document, Skipped) else document


def _read_json(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    text = json_list.first_text(text_chunks(shard, shard.paths[0], None))
    chunks = text_chunks(shard, shard.paths[0], digest)
    if text.startswith(b"["):
        for number, record in enumerate(json_list.items(chunks, shard.label), start=1):
            if isinstance(record, json_list.BadItem):
                yield Skipped(number, Reason.BROKEN_JSON, record.problem)
            else:
                yield record_document(record, number, shard, fields)
        return
    # Files named .json often hold one record a line.
    for document in _json_lines(chunks, shard, fields):
        broken = isinstance(document, Skipped) and document.reason == Reason.BROKEN_JSON
        if broken and document.line == 1 and text.startswith(b"{"):
            raise FrspecError(
                f"{shard.label} holds one JSON object, neither a list of records nor a record on each line.",
                hint=f"Leave it out ({option('glob')} selects files in a folder), or convert it to .jsonl.",
            )
        yield document


READERS: dict[str, Reader] = {
    "jsonl": _read_jsonl,
    "lines": _read_lines,
    "text": _read_text,
    "json": _read_json,
    "csv": read_delimited,
    "tsv": read_delimited,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "hub": read_hub,
}
