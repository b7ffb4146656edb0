"""Shards to documents: one reader for each format, all of them streams."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import Any

from frspec_cli.corpus.documents import (
    EMPTY,
    TOO_LONG,
    Document,
    Fields,
    Skipped,
    of_bytes,
    of_record,
    parse_json,
    wanted,
)
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import lines, piece_chunks, text_chunks
from frspec_cli.errors import FrspecError

Reader = Callable[[Shard, Fields, Any], Iterator[Document | Skipped]]
_LINE_OVERHEAD = 4
"""A JSON line may be longer than its text: escapes and other fields. Beyond this many times the longest text it is cut."""


def read_shard(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    """The shard's records in their order, each as a document or as skipped for a reason.

    digest: a hashlib object that is updated with the shard's bytes, or None. Raises `BrokenFile` for a damaged container.
    """
    return READERS[shard.format](shard, fields, digest)


def _line_chunks(shard: Shard, digest: Any) -> Iterator[bytes]:
    if shard.compression:
        return text_chunks(shard, shard.paths[0], digest)
    return piece_chunks(shard, digest)


def _read_jsonl(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    longest = fields.longest * _LINE_OVERHEAD
    for number, line in enumerate(lines(_line_chunks(shard, digest), longest=longest), start=1):
        yield _json_line(line, number, shard, fields)


def _json_line(line: bytes | None, number: int, shard: Shard, fields: Fields) -> Document | Skipped:
    if line is None:
        return Skipped(number, TOO_LONG, f"the line has more than {fields.longest * _LINE_OVERHEAD:,} bytes")
    if number == 1 and shard.start == 0:
        line = line.removeprefix(codecs.BOM_UTF8)
    if not line or line.isspace():
        return Skipped(number, EMPTY)
    record, reason, detail = parse_json(line)
    return Skipped(number, reason, detail) if reason else of_record(record, number, shard, fields)


def _read_lines(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    for number, line in enumerate(lines(_line_chunks(shard, digest), longest=fields.longest), start=1):
        if line is None:
            yield Skipped(number, TOO_LONG, f"more than {fields.longest:,} bytes")
            continue
        if number == 1 and shard.start == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        yield wanted(of_bytes(line.removesuffix(b"\r"), number, shard.source, fields.longest), fields)


def _read_text(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    """Every file is a document; its number in the bundle stands for the line."""
    for number, path in enumerate(shard.paths, start=1):
        held: list[bytes] = []
        size = 0
        for chunk in text_chunks(shard, path, digest):
            size += len(chunk)
            if size <= fields.longest:
                held.append(chunk)
        if size > fields.longest:
            yield Skipped(number, TOO_LONG, f"{size:,} bytes", path)
            continue
        document = of_bytes(b"".join(held).removeprefix(codecs.BOM_UTF8), number, shard.source, fields.longest)
        document = wanted(document, fields)
        yield document._replace(file=path) if isinstance(document, Skipped) else document


def _read_json(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    from frspec_cli.corpus.json_list import items, starts_with_list

    chunks, is_list = starts_with_list(text_chunks(shard, shard.paths[0], digest))
    if is_list:
        for number, record in enumerate(items(chunks, shard.label), start=1):
            yield of_record(record, number, shard, fields)
        return
    # Files named .json often hold one record a line.
    for number, line in enumerate(lines(chunks, longest=fields.longest * _LINE_OVERHEAD), start=1):
        if number == 1 and line is not None and parse_json(line)[1] and line.lstrip()[:1] == b"{":
            raise FrspecError(
                f"{shard.label} holds one JSON object, neither a list of records nor a record on each line.",
                hint="Leave it out (--glob chooses files in a folder), or convert it to .jsonl.",
            )
        yield _json_line(line, number, shard, fields)


def _read_parquet(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    from frspec_cli.corpus.tables import read_parquet

    return read_parquet(shard, fields, digest)


def _read_arrow(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    from frspec_cli.corpus.tables import read_arrow

    return read_arrow(shard, fields, digest)


def _read_hub(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    from frspec_cli.corpus.hub import read_hub

    return read_hub(shard, fields, digest)


READERS: dict[str, Reader] = {
    "jsonl": _read_jsonl,
    "lines": _read_lines,
    "text": _read_text,
    "json": _read_json,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
    "hub": _read_hub,
}
