"""Every row of a CSV or TSV file becomes a document or is skipped under a reason, with the line that it begins in."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frspec_cli.corpus.documents import Document, Fields, Skipped
from frspec_cli.corpus.reading import read_shard
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import BrokenFile
from frspec_cli.errors import FrspecError, as_flags
from tests.counting.corpora import write


def _read(path: Path, data: bytes, fields: Fields | None = None, form: str = "csv") -> list[Document | Skipped]:
    compression = {".gz": "gz", ".xz": "xz"}.get(path.suffix, "")
    write(path, data)
    shard = Shard(path.name, (str(path),), form, compression, size=path.stat().st_size, source="here")
    return list(read_shard(shard, fields or Fields(), None))


def _short(items: list[Document | Skipped]) -> list[tuple[int, str]]:
    return [(item.line, item.text if isinstance(item, Document) else f"! {item.reason}") for item in items]


def test_quoted_line_ends_commas_and_quotes_are_text(tmp_path: Path) -> None:
    data = b'id,text\r\n1,plain\r\n2,"two\nlines, ""quoted"""\r\n3,"after it"\r\n'
    assert _short(_read(tmp_path / "a.csv", data)) == [(2, "plain"), (3, 'two\nlines, "quoted"'), (5, "after it")]


def test_tabs_separate_the_fields_of_a_tsv(tmp_path: Path) -> None:
    assert _short(_read(tmp_path / "a.tsv", b"text\tid\na, b\t1\n", form="tsv")) == [(2, "a, b")]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.xz"])
def test_a_compressed_file_is_read_alike(tmp_path: Path, name: str) -> None:
    assert _short(_read(tmp_path / name, b"\xef\xbb\xbftext\none\n")) == [(2, "one")]


def test_bad_rows_are_skipped_under_their_reasons(tmp_path: Path) -> None:
    data = (
        b'text,id\ngood,1\n\nshort\nlong,1,2\n,3\nnot \xff utf,4\n"text" after a quote,5\n' + b"x" * 30 + b",6\nlast,7"
    )
    items = _read(tmp_path / "a.csv", data, Fields(longest=25))
    assert _short(items) == [
        (2, "good"),
        (3, "! empty"),
        (4, "! another number of fields"),
        (5, "! another number of fields"),
        (6, "! empty"),
        (7, "! invalid UTF-8"),
        (8, "! broken CSV"),
        (9, "! too long"),
        (10, "last"),
    ]
    assert [item.detail for item in items if isinstance(item, Skipped)][1:3] == [
        "1 fields, the first line names 2",
        "3 fields, the first line names 2",
    ]


def test_a_quote_that_is_not_closed_costs_every_line_that_it_takes(tmp_path: Path) -> None:
    items = _read(tmp_path / "a.csv", b'text\none\n"two\nthree\nfour\n')
    assert _short(items) == [(2, "one"), (3, "! broken CSV"), (4, "! broken CSV"), (5, "! broken CSV")]
    assert [item.detail for item in items[1:3] if isinstance(item, Skipped)] == [
        "a quote is not closed",
        "a quote is not closed, in the row of line 3",
    ]


@pytest.mark.parametrize("data", [b'text\none\n"' + b"two\n" * 30, b"text\none\n" + b"x" * 200 + b"\n"])
def test_a_row_without_end_is_refused_at_its_byte(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BrokenFile, match=r"a\.csv is broken: the row of line 3 has more than 100 bytes.* at byte 9\."):
        _read(tmp_path / "a.csv", data, Fields(longest=25))


def test_the_text_is_in_the_column_that_is_named(tmp_path: Path) -> None:
    data = b"title,body,lang\nt,b,de\n"
    [document] = _read(tmp_path / "a.csv", data, Fields(text="body", source="lang"))
    assert isinstance(document, Document)
    assert (document.text, document.source) == ("b", "de")
    with pytest.raises(FrspecError, match=r"has no column 'text'; its first line names: title, body, lang\.") as caught:
        _read(tmp_path / "a.csv", data)
    assert as_flags(caught.value.hint) == "Name the column that holds the text with --text-field."
    with pytest.raises(FrspecError, match="no column 'text'") as caught:
        _read(tmp_path / "a.csv", b"id;text\n1;x\n")
    assert "separated by commas" in caught.value.hint
    with pytest.raises(FrspecError, match="has 2 columns named 'text'"):
        _read(tmp_path / "a.csv", b"text,text\n1,x\n")


def test_a_conversation_in_a_column_is_a_conversation(tmp_path: Path) -> None:
    data = b'messages\n"[{""role"": ""user"", ""content"": ""Hi""}, {""role"": ""assistant"", ""content"": ""Yo""}]"\n'
    [document] = _read(tmp_path / "a.csv", data)
    assert isinstance(document, Document)
    assert [message.role for message in document.messages or ()] == ["user", "assistant"]


def test_a_file_without_rows_holds_nothing(tmp_path: Path) -> None:
    assert _read(tmp_path / "a.csv", b"") == _read(tmp_path / "b.csv", b"text\n") == []


_CELLS = st.text(st.sampled_from('a",\t\n\r\u6c34 '), max_size=6)


@settings(max_examples=80)
@given(st.lists(st.lists(_CELLS, min_size=2, max_size=2), max_size=6), st.sampled_from(["csv", "tsv"]), st.booleans())
def test_what_python_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], form: str, all_quoted: bool
) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(
        written, delimiter="," if form == "csv" else "\t", quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    )
    writer.writerows([["id", "text"], *rows])
    items = _read(tmp_path_factory.mktemp("csv") / "a", written.getvalue().encode(), form=form)
    assert [item.text if isinstance(item, Document) else "" for item in items] == [text for _, text in rows]
