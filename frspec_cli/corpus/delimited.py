"""CSV and TSV shards: rows to documents by Python's own `csv` reader, line by line, whatever the file's size.

The first line names the columns. A field in quotes may hold line ends, so a file is never cut into pieces. Quoting that is
wrong is never guessed at: what it touches is skipped, line by line, as broken.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator
from typing import Any

from frspec_cli.corpus.documents import CONVERSATION_FIELDS, Document, Fields, Reason, Skipped
from frspec_cli.corpus.records import record_document
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import BrokenFile, lines, text_chunks
from frspec_cli.errors import FrspecError, did_you_mean, option

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_ROW_OVERHEAD = 4
"""A row may be longer than its text: quotes and other fields. Above this multiple of the longest text the file is broken."""


def read_delimited(shard: Shard, fields: Fields, digest: Any) -> Iterator[Document | Skipped]:
    """The rows of a CSV or TSV file; a row's line is the one that it begins in.

    Raises `FrspecError` if the first line has no text column, `BrokenFile` for a row that is longer than any text may be.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _longest(fields) + 1))  # 128 KB; rows are limited below
    text = _Lines(text_chunks(shard, shard.paths[0], digest), shard, fields)
    rows = csv.reader(text, delimiter=_DELIMITERS[shard.format], strict=True)
    header: list[str] | None = None
    while True:
        text.begins = text.read + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise BrokenFile(shard.label, f"the names of its columns cannot be read ({error})", 0) from None
            yield from _broken(text, error)
            continue
        if header is None:
            header = _checked(row, shard, fields)
        elif not row:
            yield Skipped(text.begins, Reason.EMPTY)
        elif len(row) != len(header):
            yield Skipped(text.begins, Reason.RAGGED, f"{len(row)} fields, the first line names {len(header)}")
        else:
            yield record_document(dict(zip(header, row, strict=True)), text.begins, shard, fields)


class _Lines:
    """A file's lines for the csv reader.

    read: lines handed over so far.
    begins: the line in which the row begins that is being read.
    Bytes that are not UTF-8 become lone surrogates, so that the row that holds them is skipped and not the file.
    """

    def __init__(self, chunks: Iterable[bytes], shard: Shard, fields: Fields) -> None:
        self.shard = shard
        self.longest = _longest(fields)
        self.read = self.begins = 0
        self._position = self._row_began_at = 0  # bytes of the text
        self._lines = lines(chunks, longest=self.longest)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.read += 1
        if self.read == 1 and line is not None:
            line = line.removeprefix(codecs.BOM_UTF8)
        if self.read == self.begins:
            self._row_began_at = self._position
        self._position += self.longest + 1 if line is None else len(line) + 1
        if line is None or self._position - self._row_began_at > self.longest:
            raise BrokenFile(
                self.shard.label,
                f"the row of line {self.begins:,} has more than {self.longest:,} bytes, or its quotes are not closed,",
                self._row_began_at,
            )
        return line.decode("utf-8", "surrogateescape") + "\n"


def _longest(fields: Fields) -> int:
    return fields.longest * _ROW_OVERHEAD


def _broken(text: _Lines, error: csv.Error) -> Iterator[Skipped]:
    """Every line that a row with wrong quotes has taken."""
    problem = "a quote is not closed" if "unexpected end" in str(error) else str(error)
    for line in range(text.begins, text.read + 1):
        where = "" if line == text.begins else f", in the row of line {text.begins:,}"
        yield Skipped(line, Reason.BROKEN_CSV, problem + where)


def _checked(header: list[str], shard: Shard, fields: Fields) -> list[str]:
    """The names of the columns. Raises `FrspecError` if none of them is the text's, or two are."""
    names = [name.strip() for name in header]
    wanted = [fields.text] if fields.text else ["text", *CONVERSATION_FIELDS]
    found = [name for name in wanted if name in names]
    if not found:
        shown = ", ".join(name.encode("utf-8", "replace").decode()[:40] for name in names[:20])
        raise FrspecError(
            f"{shard.label} has no column {wanted[0]!r}; its first line names: {shown}.",
            hint=(did_you_mean(wanted[0], names) or f"Name the column that holds the text with {option('text_field')}.")
            + ("" if len(names) > 1 else " Columns are separated by commas in .csv, by tabs in .tsv."),
        )
    if names.count(found[0]) > 1:
        raise FrspecError(f"{shard.label} has {names.count(found[0])} columns named {found[0]!r}: rename all but one.")
    return names
