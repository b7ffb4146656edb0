"""The table's file: what is written is read, in bytes that only its content decides; what is not a table is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from frspec_cli.counting.table import FrequencyTable
from frspec_cli.errors import FrspecError


def _table(*, documents: bool = False) -> FrequencyTable:
    random = np.random.default_rng(1)
    counts = {name: random.integers(0, 3, size=(10, 30)) for name in ("web", "code")}
    held = {name: np.minimum(array, 1) for name, array in counts.items()} if documents else None
    return FrequencyTable(counts, {"tokenizer": {"highest_id": 29, "fingerprint": "f", "reference": "r"}}, held)


@pytest.mark.parametrize("documents", [False, True])
def test_what_is_written_is_read(tmp_path: Path, documents: bool) -> None:
    table = _table(documents=documents)
    table.write(tmp_path / "a.parquet")
    read = FrequencyTable.read(tmp_path / "a.parquet")
    assert read.metadata == table.metadata
    assert all((read.counts[source] == table.counts[source]).all() for source in ("web", "code"))
    assert (read.documents is not None) == documents
    if documents:
        assert all((read.documents[source] == table.documents[source]).all() for source in ("web", "code"))


def test_rows_are_sorted_and_positive_and_other_tools_read_them(tmp_path: Path) -> None:
    _table().write(tmp_path / "a.parquet")
    raw = pq.read_table(tmp_path / "a.parquet")
    assert raw.schema.types == [pa.int32(), pa.dictionary(pa.int32(), pa.string()), pa.int8(), pa.int64()]
    rows = [(row["token_id"], row["source"], row["fold"]) for row in raw.to_pylist()]
    assert rows == sorted(rows)
    assert min(raw["count"].to_pylist()) > 0


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    table = _table()
    other = FrequencyTable(dict(reversed(list(table.counts.items()))), dict(reversed(list(table.metadata.items()))))
    table.write(tmp_path / "a")
    other.write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_totals_over_parts(tmp_path: Path) -> None:
    table = _table()
    assert (table.totals() == table.totals(sources=["web"]) + table.totals(sources=["code"])).all()
    assert (table.totals() == sum(table.totals(folds=[fold]) for fold in range(10))).all()
    assert all((table.by_fold()[fold] == table.totals(folds=[fold])).all() for fold in range(10))
    with pytest.raises(FrspecError, match="no source 'books'; it has: code, web"):
        table.totals(sources=["books"])


def test_what_is_not_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FrspecError, match="there is no file"):
        FrequencyTable.read(tmp_path / "none")
    (tmp_path / "broken").write_bytes(b"PAR1 and no more")
    with pytest.raises(FrspecError, match="cannot be read as parquet"):
        FrequencyTable.read(tmp_path / "broken")
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").write_bytes(b"")
    for name, said in (("text", "is not a parquet file"), ("empty", "is empty"), (".", "is a folder")):
        with pytest.raises(FrspecError, match=said):
            FrequencyTable.read(tmp_path / name)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "other.parquet")
    with pytest.raises(FrspecError, match="not a frequency table"):
        FrequencyTable.read(tmp_path / "other.parquet")
