"""Merging is addition, and nothing is hidden by it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from frspec_cli.counting.merge import counted_twice, merge
from frspec_cli.counting.options import CountOptions
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.errors import FrspecError, UsageError
from tests.counting.corpora import as_counter, count, texts, write_jsonl


def _table(folder: Path, tokenizer: Path, name: str, seed: int, **options) -> FrequencyTable:
    path = write_jsonl(folder / f"{name}.jsonl", texts(20, seed=seed))
    return count([path], tokenizer, folder / f"{name}.parquet", options=CountOptions(**options)).table


def test_counts_and_figures_add(tmp_path: Path, tokenizer: Path) -> None:
    tables = [_table(tmp_path, tokenizer, name, seed) for seed, name in enumerate("abc")]
    merged = merge(tables, list("abc"))
    assert as_counter(merged) == sum((as_counter(table) for table in tables), start=Counter())
    for name in ("lines", "documents", "tokens", "bytes"):
        assert merged.metadata[name] == sum(table.metadata[name] for table in tables)
    assert [shard["path"] for shard in merged.metadata["shards"]] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert merged.metadata["encoder"]["name"] == tables[0].metadata["encoder"]["name"]


def test_the_order_of_the_tables_does_not_show(tmp_path: Path, tokenizer: Path) -> None:
    tables = [_table(tmp_path, tokenizer, name, seed) for seed, name in enumerate("ab")]
    merge(tables, ["a", "b"]).write(tmp_path / "ab")
    merge(tables[::-1], ["b", "a"]).write(tmp_path / "ba")
    assert (tmp_path / "ab").read_bytes() == (tmp_path / "ba").read_bytes()


def test_options_that_differ_are_both_kept(tmp_path: Path, tokenizer: Path) -> None:
    first = _table(tmp_path, tokenizer, "a", 1)
    second = _table(tmp_path, tokenizer, "b", 2, limit_documents=5)
    assert merge([first, second], ["a", "b"]).metadata["options"] == {"limit_documents": [5, None]}


def test_tables_of_two_tokenizers_are_refused(tmp_path: Path, tokenizer: Path, sentencepiece: Path) -> None:
    first = _table(tmp_path, tokenizer, "a", 1)
    second = _table(tmp_path, sentencepiece, "b", 2)
    with pytest.raises(FrspecError, match=r"a and b were counted with different tokenizers"):
        merge([first, second], ["a", "b"])


def _with_single_letters(tokenizer: Path, folder: Path) -> Path:
    """The same tokens under the same ids; words fall into single letters."""
    folder.mkdir()
    parsed = json.loads((tokenizer / "tokenizer.json").read_text())
    letters = {"type": "Split", "pattern": {"Regex": r"\p{L}"}, "behavior": "Isolated", "invert": False}
    parsed["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [letters, parsed["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(parsed))
    return folder


def test_tables_of_one_vocabulary_that_is_split_differently_are_refused(tmp_path: Path, tokenizer: Path) -> None:
    other = _with_single_letters(tokenizer, tmp_path / "letters")
    first, second = _table(tmp_path, tokenizer, "a", 1), _table(tmp_path, other, "b", 1)
    assert first.fingerprint == second.fingerprint
    assert first.metadata["tokens"] < second.metadata["tokens"]  # of one text
    with pytest.raises(FrspecError, match=r"a and b .* split text differently: .* differ in pre_tokenizer\.") as caught:
        merge([first, second], ["a", "b"])
    assert str(other) in caught.value.message
    del second.metadata["tokenizer"]["split_rules"]  # as in a table of an earlier version
    merged = [merge(pair, ["a", "b"]) for pair in ([first, second], [second, first])]
    assert ["split_rules" in each.metadata["tokenizer"] for each in merged] == [False, False]


def test_a_shard_in_two_tables_is_said(tmp_path: Path, tokenizer: Path) -> None:
    table = _table(tmp_path, tokenizer, "a", 1)
    assert counted_twice([table, table], ["x", "y"]) == ["a.jsonl is in both x and y: it counts twice."]
    assert counted_twice([table, _table(tmp_path, tokenizer, "b", 2)], ["x", "y"]) == []


def test_document_frequencies_add_or_are_missed(tmp_path: Path, tokenizer: Path) -> None:
    with_documents = [_table(tmp_path, tokenizer, name, 1, document_frequency=True) for name in "ab"]
    merged = merge(with_documents, ["a", "b"])
    assert merged.documents is not None
    assert sum(array.sum() for array in merged.documents.values()) == 2 * sum(
        array.sum() for array in (with_documents[0].documents or {}).values()
    )
    with pytest.raises(FrspecError, match="c has no document frequencies"):
        merge([with_documents[0], _table(tmp_path, tokenizer, "c", 2)], ["a", "c"])


def test_one_table_is_nothing_to_merge(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(UsageError, match="at least two"):
        merge([_table(tmp_path, tokenizer, "a", 1)], ["a"])
