"""Parquet and Arrow: rows are documents; a missing column and a broken file end in one sentence."""

from __future__ import annotations

import gzip
import hashlib
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from frspec_cli.corpus import arrow
from frspec_cli.corpus.documents import Document, Fields, Skipped
from frspec_cli.corpus.reading import read_shard
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import BrokenFile
from frspec_cli.errors import FrspecError, as_flags

ROWS = {
    "text": ["one", None, "", "four"],
    "meta": [{"redpajama_set_name": name} for name in "abab"],
    "unused": [b"\xff", b"", b"", b""],
}


def _write(path: Path, form: str, rows: dict = ROWS) -> Shard:
    table = pa.table(rows)
    if form == "parquet":
        pq.write_table(table, path)
    else:
        new = pa.ipc.new_file if form == "arrow file" else pa.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table)
    return Shard(path.name, (str(path),), form.split()[0], size=path.stat().st_size, source="mine")


def _read(shard: Shard, fields: Fields | None = None) -> list[Document | Skipped]:
    digest = hashlib.sha256()
    items = list(read_shard(shard, fields or Fields(), digest))
    assert digest.hexdigest() == hashlib.sha256(Path(shard.paths[0]).read_bytes()).hexdigest()
    return items


@pytest.mark.parametrize("form", ["parquet", "arrow file", "arrow stream"])
def test_rows_are_documents(tmp_path: Path, form: str) -> None:
    items = _read(_write(tmp_path / "rows", form))
    assert [item.reason if isinstance(item, Skipped) else item.text for item in items] == [
        "one",
        "null",
        "empty",
        "four",
    ]
    assert [item.source for item in items if isinstance(item, Document)] == ["a", "b"]
    assert [item.line for item in items] == [1, 2, 3, 4]


def test_a_compressed_table_is_unpacked(tmp_path: Path) -> None:
    shard = _write(tmp_path / "rows", "arrow file")
    path = tmp_path / "rows.arrow.gz"
    path.write_bytes(gzip.compress(Path(shard.paths[0]).read_bytes()))
    assert len(_read(Shard("rows", (str(path),), "arrow", "gz", size=path.stat().st_size))) == 4


def test_conversations_and_nested_columns(tmp_path: Path) -> None:
    turns = [[{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]]
    [document] = _read(_write(tmp_path / "rows", "parquet", {"conversations": turns}))
    assert [(message.role, message.content) for message in document.messages] == [
        ("user", "hi"),
        ("assistant", "hello"),
    ]
    shard = _write(tmp_path / "deep", "parquet", {"body": [{"content": "deep"}]})
    assert [item.text for item in _read(shard, Fields("body.content"))] == ["deep"]


@pytest.mark.parametrize("form", ["parquet", "arrow file"])
def test_a_missing_column_lists_the_columns(tmp_path: Path, form: str) -> None:
    with pytest.raises(FrspecError, match="has no column 'body'; it has: text, meta, unused") as caught:
        _read(_write(tmp_path / "rows", form), Fields("body"))
    assert "--text-field" in as_flags(caught.value.hint)


def test_a_row_that_is_not_utf8_spoils_only_itself(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"bro\xffken", b"fine too"]).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    items = _read(_write(tmp_path / "rows", "arrow stream", {"text": text}))
    assert [item.reason if isinstance(item, Skipped) else item.text for item in items] == [
        "fine",
        "invalid UTF-8",
        "fine too",
    ]


@pytest.mark.parametrize("form", ["parquet", "arrow file", "arrow stream"])
@pytest.mark.parametrize("keep", [0, 10, -30])
def test_a_truncated_table_names_file_and_byte(tmp_path: Path, form: str, keep: int) -> None:
    shard = _write(tmp_path / "rows", form)
    path = Path(shard.paths[0])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BrokenFile, match=r"rows is broken: damaged (parquet|Arrow) data \(.*\) at byte [\d,]+\."):
        _read(shard)


def wrong_offsets() -> pa.Array:
    """Two strings, the first of which would end far outside the data."""
    offsets = np.array([0, 1 << 30, 4], dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"abcd")])


@pytest.mark.parametrize("form", ["arrow file", "arrow stream"])
@pytest.mark.parametrize("nested", [False, True])
def test_offsets_that_point_outside_are_damage(tmp_path: Path, form: str, nested: bool) -> None:
    """Used unchecked, they end the process."""
    text = wrong_offsets()
    if nested:
        roles = pa.array(["user", "assistant"])
        turns = pa.StructArray.from_arrays([roles, text], ["role", "content"])
        rows = {"messages": pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), turns)}
    else:
        rows = {"text": text}
    with pytest.raises(BrokenFile, match=r"rows is broken: damaged Arrow data \(.*offset.*\) at byte [\d,]+\."):
        _read(_write(tmp_path / "rows", form, rows))


def test_nested_text_that_is_not_utf8_spoils_only_its_row(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"bro\xffken", b"fine too"])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    turns = pa.StructArray.from_arrays([pa.array(["assistant"] * 3), text], ["role", "content"])
    rows = {"messages": pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), turns)}
    items = _read(_write(tmp_path / "rows", "arrow stream", rows))
    assert [item.reason if isinstance(item, Skipped) else item.data.decode() for item in items] == [
        "fine",
        "invalid UTF-8",
        "fine too",
    ]


@pytest.mark.parametrize(
    ("sent", "error", "message"),
    [
        (signal.SIGSEGV, BrokenFile, r"rows is broken: damaged Arrow data \(reading it ended in SIGSEGV\)"),
        (signal.SIGKILL, FrspecError, r"the process that reads rows died \(exit code -9\)"),
    ],
)
def test_a_reader_that_dies_is_reported_with_the_files_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, error: type[FrspecError], message: str
) -> None:
    monkeypatch.setattr(arrow, "_PROGRAM", f"import os; os.kill(os.getpid(), {sent.value})")
    with pytest.raises(error, match=message) as caught:
        _read(_write(tmp_path / "rows", "arrow file"))
    assert type(caught.value) is error


def test_a_reader_ends_when_no_more_rows_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list = []
    popen = arrow.subprocess.Popen
    monkeypatch.setattr(
        arrow.subprocess, "Popen", lambda *args, **options: children.append(popen(*args, **options)) or children[-1]
    )
    shard = _write(tmp_path / "rows", "arrow file", {"text": ["x" * 1000] * 5000})
    items = read_shard(shard, Fields(), None)
    assert next(items).text == "x" * 1000
    items.close()
    assert children[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize("compression", ["", "gz"])
def test_arrow_that_is_not_local_is_read(tmp_path: Path, compression: str) -> None:
    import fsspec

    data = Path(_write(tmp_path / "rows", "arrow file").paths[0]).read_bytes()
    data = gzip.compress(data) if compression else data
    fsspec.filesystem("memory").pipe("/rows.arrow", data)
    digest = hashlib.sha256()
    shard = Shard("rows", ("memory://rows.arrow",), "arrow", compression, size=len(data))
    assert len(list(read_shard(shard, Fields(), digest))) == 4
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()


def test_no_room_to_unpack_a_table_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet.gz"
    path.write_bytes(gzip.compress(Path(_write(tmp_path / "rows", "parquet").paths[0]).read_bytes()))
    monkeypatch.setattr("frspec_cli.corpus.tables.tempfile.TemporaryFile", lambda: open("/dev/full", "r+b"))  # noqa: SIM115
    with pytest.raises(FrspecError, match=r"rows cannot be unpacked in .*: No space left") as caught:
        _read(Shard("rows", (str(path),), "parquet", "gz", size=path.stat().st_size))
    assert not isinstance(caught.value, BrokenFile)
