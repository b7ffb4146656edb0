"""Counts are the plain loop's, whatever the order, the workers, the cut: equal inputs, equal bytes."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frspec_cli.corpus import shards as cutting
from frspec_cli.corpus.options import Selection
from frspec_cli.counting import accumulator, worker
from frspec_cli.counting.merge import merge
from frspec_cli.counting.options import CountOptions, RunOptions
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.errors import FrspecError, UsageError
from tests.counting.corpora import as_counter, count, plain_loop, sentence_piece, texts, write, write_jsonl

DOCUMENTS = texts(120)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of three formats, with a few bad records."""
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "a.jsonl.zst", DOCUMENTS[:40])
    write_jsonl(folder / "b.jsonl", [*DOCUMENTS[40:70], {"text": None}, {"other": 1}])
    write(folder / "c.json.gz", json.dumps([{"text": text} for text in DOCUMENTS[70:90]]).encode())
    pq.write_table(pa.table({"text": DOCUMENTS[90:]}), folder / "d.parquet")
    return folder


LENIENT = {"max_bad": 0.1}


@pytest.mark.parametrize("encoder", ["reference", "fast"])
@pytest.mark.parametrize("name", ["tokenizer", "sentencepiece"])
def test_the_counts_are_the_plain_loops(
    request: pytest.FixtureRequest, tmp_path: Path, corpus: Path, name: str, encoder: str
) -> None:
    if encoder == "fast":
        pytest.importorskip("gigatoken")
    tokenizer = request.getfixturevalue(name)
    result = count([corpus], tokenizer, tmp_path / "out.parquet", encoder=encoder, **LENIENT)
    expected = plain_loop(tokenizer, DOCUMENTS)
    assert as_counter(result.table) == expected
    metadata = result.table.metadata
    assert (metadata["documents"], metadata["tokens"], metadata["lines"]) == (120, expected.total(), 122)
    assert metadata["skipped"] == {"missing field": 1, "null": 1}
    assert metadata["bytes"] == sum(len(text.encode()) for text in DOCUMENTS)
    assert metadata["encoder"]["name"] == encoder


def test_the_file_reads_back_and_the_ledger_is_gone(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = tmp_path / "deep" / "out.parquet"
    written = count([corpus], tokenizer, out, **LENIENT).table
    read = FrequencyTable.read(out)
    assert read.metadata == written.metadata
    assert all((read.counts[source] == written.counts[source]).all() for source in written.sources)
    assert [path.name for path in out.parent.iterdir()] == ["out.parquet"]


def test_folds_are_the_documents_hash(tmp_path: Path, tokenizer: Path) -> None:
    table = count([write_jsonl(tmp_path / "a.jsonl", DOCUMENTS)], tokenizer, tmp_path / "out.parquet").table
    for fold in range(10):
        mine = [text for text in DOCUMENTS if zlib.crc32(text.encode()) % 10 == fold]
        assert table.totals(folds=[fold]).sum() == plain_loop(tokenizer, mine).total()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_and_order_do_not_show_in_the_bytes(
    tmp_path: Path, corpus: Path, tokenizer: Path, workers: int
) -> None:
    count([corpus], tokenizer, tmp_path / "one.parquet", encoder="reference", **LENIENT)
    files = sorted(corpus.iterdir(), reverse=True)
    selection = Selection(name=corpus.name)
    how = {"workers": workers, "encoder": "reference"} | LENIENT
    count(files, tokenizer, tmp_path / "many.parquet", selection=selection, **how)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "many.parquet").read_bytes()


TEXTS = st.lists(st.text(max_size=12), max_size=14).map(lambda texts: ["a", *texts])  # an empty corpus is refused


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    TEXTS,
    TEXTS,
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(5, 60),
)
def test_any_batches_pieces_and_shards_give_the_bytes_of_one_run(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: Path,
    first: list[str],
    second: list[str],
    parts: int,
    batch: int,
    piece: int,
) -> None:
    folder = tmp_path_factory.mktemp("property")
    monkeypatch.setattr(cutting, "PIECE_BYTES", piece)
    files = [write_jsonl(folder / "a.jsonl", first), write_jsonl(folder / "b.jsonl", second)]
    how = {"max_bad": 1.0, "encoder": "reference"}
    whole = count(files, tokenizer, folder / "whole.parquet", **how).table
    monkeypatch.setattr(worker, "BATCH_DOCUMENTS", batch)
    monkeypatch.setattr(accumulator, "FLUSH_TOKENS", 3 * batch)
    outs = [folder / f"part{index}.parquet" for index in range(1, parts + 1)]
    for index, out in enumerate(outs, start=1):
        count(list(reversed(files)), tokenizer, out, shard=(index, parts), **how)
    if parts > 1:
        merge([FrequencyTable.read(out) for out in outs], list(map(str, outs))).write(outs[0])
    assert outs[0].read_bytes() == (folder / "whole.parquet").read_bytes()
    kept = [text for text in first + second if text]
    assert as_counter(whole) == plain_loop(tokenizer, kept)
    assert whole.metadata["lines"] == len(first + second)
    assert whole.metadata["lines"] == whole.metadata["documents"] + sum(whole.metadata["skipped"].values())
    # count(A and B) = count(A) + count(B)
    alone = [as_counter(count([file], tokenizer, folder / "alone.parquet", **how).table) for file in files]
    assert as_counter(whole) == alone[0] + alone[1]


@pytest.mark.parametrize("limit", [1, 40, 41, 119, 120, 500])
@pytest.mark.parametrize("workers", [1, 2])
def test_limits_on_documents_are_exact(tmp_path: Path, corpus: Path, tokenizer: Path, limit: int, workers: int) -> None:
    options = CountOptions(limit_documents=limit)
    out = tmp_path / f"{workers}.parquet"
    result = count([corpus], tokenizer, out, options=options, workers=workers, encoder="reference", **LENIENT)
    assert result.table.metadata["documents"] == min(limit, 120)
    assert as_counter(result.table) == plain_loop(tokenizer, DOCUMENTS[:limit])
    assert bool(result.stopped) == (limit <= 120)


@pytest.mark.parametrize("limit", [1, 500, 1001])
@pytest.mark.parametrize("workers", [1, 2])
def test_limits_on_tokens_cut_inside_a_document(
    tmp_path: Path, corpus: Path, tokenizer: Path, limit: int, workers: int
) -> None:
    options = CountOptions(limit_tokens=limit)
    result = count([corpus], tokenizer, tmp_path / "out.parquet", options=options, workers=workers, **LENIENT)
    assert (result.table.metadata["tokens"], int(result.table.totals().sum())) == (limit, limit)
    assert result.stopped == "limit_tokens"
    documents = result.table.metadata["documents"]
    assert plain_loop(tokenizer, DOCUMENTS[: documents - 1]).total() < limit
    assert plain_loop(tokenizer, DOCUMENTS[:documents]).total() >= limit
    assert not as_counter(result.table) - plain_loop(tokenizer, DOCUMENTS[:documents])
    shards = result.table.metadata["shards"]
    assert all(shard["lines"] == shard["documents"] + sum(shard["skipped"].values()) for shard in shards)


@pytest.mark.parametrize("batch", [3, 512])
def test_document_frequencies(
    tmp_path: Path, corpus: Path, tokenizer: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BATCH_DOCUMENTS", batch)
    out = tmp_path / "out.parquet"
    count([corpus], tokenizer, out, options=CountOptions(document_frequency=True), **LENIENT)
    expected: Counter[int] = Counter()
    for text in DOCUMENTS:
        expected.update(set(plain_loop(tokenizer, [text])))
    documents = FrequencyTable.read(out).documents
    assert documents is not None
    totals = sum(array.sum(axis=0) for array in documents.values())
    assert Counter({int(index): int(totals[index]) for index in np.flatnonzero(totals)}) == expected


def test_labels_come_from_the_record_or_the_option(tmp_path: Path, tokenizer: Path) -> None:
    path = write_jsonl(tmp_path / "mine-0001.jsonl", [{"text": "the fox", "kind": "x"}, {"text": "a hen"}])
    out = tmp_path / "out.parquet"
    assert count([path], tokenizer, out).table.sources == ["mine"]
    assert count([path], tokenizer, out, options=CountOptions(source_field="kind")).table.sources == ["mine", "x"]
    assert count([path], tokenizer, out, selection=Selection(name="all")).table.sources == ["all"]


def test_a_label_of_too_many_values_is_none(tmp_path: Path, tokenizer: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x", "url": str(index)} for index in range(100)])
    with pytest.raises(FrspecError, match="more than 64 sources"):
        count([path], tokenizer, tmp_path / "out.parquet", options=CountOptions(source_field="url"))
    assert not list(tmp_path.glob("out*"))


def test_tokenizers_with_holes_in_their_ids(tmp_path: Path, tokenizer: Path) -> None:
    definition = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    definition["added_tokens"].append({**definition["added_tokens"][0], "id": 2000, "content": "<|far|>"})
    definition["model"]["vocab"]["<|far|>"] = 2000
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    table = count([write_jsonl(tmp_path / "a.jsonl", DOCUMENTS)], tmp_path, tmp_path / "out.parquet").table
    assert table.rows == 2001
    assert as_counter(table) == plain_loop(tmp_path, DOCUMENTS)


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (CountOptions, {"limit_documents": 0}, "limit_documents must be at least 1, not 0"),
        (CountOptions, {"until_stable": 0.0}, "until_stable is a share of all tokens between 0 and 1, not 0"),
        (RunOptions, {"workers": 0}, "workers must be at least 1, not 0"),
        (RunOptions, {"shard": (3, 2)}, "shard is I/N with 1 <= I <= N, not 3/2"),
        (RunOptions, {"max_bad": 2}, "max_bad is a share between 0 and 1, not 2"),
        (RunOptions, {"engine": "dask"}, "engine dask is not one of local, ray"),
    ],
)
def test_options_out_of_range_are_usage_errors(make, values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**values)


def test_another_encoder_name_is_a_usage_error(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(UsageError, match="encoder quick is not one of auto, fast, reference"):
        count([corpus], sentence_piece(tmp_path), tmp_path / "out.parquet", encoder="quick")
