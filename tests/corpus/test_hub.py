"""Hub datasets, on a local one of SlimPajama's shape: its shards are ours, its rows are documents."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pytest

from frspec_cli.corpus import arrow, hub
from frspec_cli.corpus.documents import Fields
from frspec_cli.corpus.options import Selection
from frspec_cli.corpus.reading import read_shard
from frspec_cli.corpus.sources import find_shards
from frspec_cli.corpus.streams import BrokenFile
from frspec_cli.errors import FrspecError, as_flags
from tests.counting.corpora import as_counter, byte_level, count, plain_loop, texts, write_jsonl


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for index in range(3):
        write_jsonl(tmp_path / "slim" / "data" / f"train-{index}.jsonl.zst", texts(20, seed=index))
    write_jsonl(tmp_path / "slim" / "data" / "validation-0.jsonl", texts(5, seed=9))
    return tmp_path / "slim"


def test_a_dataset_is_counted_shard_by_shard(tmp_path: Path, dataset: Path) -> None:
    tokenizer = byte_level(tmp_path / "tokenizer")
    result = count([f"hub:{dataset}"], tokenizer, tmp_path / "out.parquet", encoder="reference")
    expected = plain_loop(tokenizer, [text for index in range(3) for text in texts(20, seed=index)])
    assert as_counter(result.table) == expected
    assert result.table.sources == ["books", "code", "web"]
    shards = result.table.metadata["shards"]
    assert [shard["path"] for shard in shards] == [f"hub:slim/train/0000{index}-of-00003" for index in range(3)]
    assert len({shard["sha256"] for shard in shards}) == 3


def test_the_split_can_be_chosen(dataset: Path) -> None:
    assert len(find_shards([f"hub:{dataset}"], Selection(split="validation"))) == 1
    with pytest.raises(FrspecError, match="Bad split: nosuch") as caught:
        find_shards([f"hub:{dataset}"], Selection(split="nosuch"))
    assert "--split" in as_flags(caught.value.hint)


def test_without_the_hub_the_error_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets

    def unreachable(*arguments: object, **options: object) -> None:
        logging.getLogger("huggingface_hub").warning("Retrying in 1s")
        raise ConnectionError("Couldn't reach 'cerebras/SlimPajama-627B' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    hub._dataset.cache_clear()
    with pytest.raises(
        FrspecError, match="there is no folder cerebras/SlimPajama-627B here, and the model hub could not be reached"
    ):
        find_shards(["cerebras/SlimPajama-627B"])
    assert "Retrying" not in caplog.text


def test_a_skipped_row_is_reported_with_its_number_in_the_shard(tmp_path: Path) -> None:
    for index in range(2):
        write_jsonl(tmp_path / "rows" / "data" / f"train-{index}.jsonl", [*texts(30, seed=index), {"text": ""}])
    tokenizer = byte_level(tmp_path / "tokenizer")
    result = count([f"hub:{tmp_path / 'rows'}"], tokenizer, tmp_path / "out.parquet", encoder="reference", max_bad=0.1)
    assert [example[:3] for example in result.examples] == [
        ("hub:rows/train/00000-of-00002", 31, "empty"),
        ("hub:rows/train/00001-of-00002", 31, "empty"),
    ]


def _arrow_dataset(folder: Path, text: pa.Array) -> Path:
    folder.mkdir()
    table = pa.table({"text": text})
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    return folder


def test_a_dataset_in_arrow_is_read_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [shard] = find_shards([f"hub:{_arrow_dataset(tmp_path / 'rows', pa.array(['a fox', 'a hen']))}"])
    assert [item.text for item in read_shard(shard, Fields(), None)] == ["a fox", "a hen"]
    monkeypatch.setattr(arrow, "_PROGRAM", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(BrokenFile, match=r"hub:rows/train/00000-of-00001 is broken: .* ended in SIGSEGV"):
        list(read_shard(shard, Fields(), None))
