"""Killed and started again, a run writes the bytes of an undisturbed one; a changed input is refused, and named."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from frspec_cli.corpus import shards as cutting
from frspec_cli.corpus.options import Selection
from frspec_cli.corpus.streams import BrokenFile
from frspec_cli.counting import executors, run, worker
from frspec_cli.counting.accumulator import CountAccumulator
from frspec_cli.counting.options import DOCUMENT_BYTES, CountOptions
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.errors import FrspecError, as_flags
from frspec_cli.progress import Callbacks
from frspec_cli.resume import run_folder
from frspec_cli.tokens.encoder import ReferenceEncoder
from frspec_cli.tokens.encoder_check import EncodersDiffer
from tests.counting.corpora import TEMPLATE, as_counter, byte_level, count, plain_loop, texts, write_jsonl


class Stop(Exception):
    """What interrupts a run in these tests."""


def _corpus(folder: Path, shards: int = 6, documents: int = 10, words: int = 40) -> Path:
    for index in range(shards):
        write_jsonl(folder / f"s{index:02d}.jsonl.zst", texts(documents, seed=index, words=words))
    return folder


def _stopping(after: int) -> Callbacks:
    left = [after]

    def finished(size: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Stop

    return Callbacks(finished=finished)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return _corpus(tmp_path / "corpus")


def _undisturbed(tmp_path: Path, corpus: Path, tokenizer: Path, **options) -> bytes:
    out = tmp_path / "undisturbed.parquet"
    count([corpus], tokenizer, out, options=CountOptions(**options), encoder="reference")
    return out.read_bytes()


@pytest.mark.parametrize(
    ("options", "needed"),
    [({}, 6), ({"limit_documents": 33}, 4), ({"limit_tokens": 400}, 1), ({"until_stable": 0.5}, 1)],
)
@pytest.mark.parametrize("join", [64, 2])
def test_a_stopped_run_resumes_to_the_same_bytes(
    tmp_path: Path,
    corpus: Path,
    tokenizer: Path,
    options: dict,
    needed: int,
    join: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every run is stopped once it has counted one more shard, until all the shards that are needed are counted."""
    expected = _undisturbed(tmp_path, corpus, tokenizer, **options)
    monkeypatch.setattr(run, "JOIN_AFTER", join)
    out = tmp_path / "out.parquet"
    for _ in range(needed):
        with pytest.raises(Stop):
            count(
                [corpus], tokenizer, out, options=CountOptions(**options), encoder="reference", callbacks=_stopping(1)
            )
        assert run_folder(out).is_dir()
        assert not out.exists()
    count([corpus], tokenizer, out, options=CountOptions(**options), encoder="reference")
    assert out.read_bytes() == expected
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "undisturbed.parquet", "out.parquet"}


def test_resuming_is_reported_and_nothing_is_counted_twice(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(Stop):
        count([corpus], tokenizer, out, callbacks=_stopping(4), encoder="reference")
    said: list[str] = []
    finished: list[int] = []
    count([corpus], tokenizer, out, callbacks=Callbacks(say=said.append, finished=finished.append), encoder="reference")
    assert said == ["4 of 6 shards were counted before; resuming."]
    assert len(finished) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_adds_up(tmp_path: Path, corpus: Path, tokenizer: Path, workers: int) -> None:
    advances: list[dict[str, int]] = []
    sizes: list[int] = []
    callbacks = Callbacks(advance=lambda **amounts: advances.append(amounts), begin=sizes.append)
    metadata = count([corpus], tokenizer, tmp_path / "out.parquet", callbacks=callbacks, workers=workers).table.metadata
    assert sizes == [sum(path.stat().st_size for path in corpus.iterdir())]
    sums = {
        name: sum(amounts.get(name, 0) for amounts in advances) for name in ("documents", "bytes", "tokens", "read")
    }
    assert sums == {name: metadata[name] for name in ("documents", "bytes", "tokens")} | {"read": sizes[0]}


def _half_counted(tmp_path: Path, corpus: Path, tokenizer: Path) -> Path:
    out = tmp_path / "out.parquet"
    with pytest.raises(Stop):
        count([corpus], tokenizer, out, callbacks=_stopping(3), encoder="reference")
    return out


def test_a_changed_option_is_refused_and_named(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = _half_counted(tmp_path, corpus, tokenizer)
    with pytest.raises(FrspecError, match="text_field was not given, now it is body") as caught:
        count([corpus], tokenizer, out, options=CountOptions(text_field="body"), encoder="reference")
    assert "restart" in caught.value.hint
    pytest.importorskip("gigatoken")
    with pytest.raises(FrspecError, match="the encoder was reference, now it is fast"):
        count([corpus], tokenizer, out, encoder="fast")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "tokenizer_config.json",
            r"tokenizer_config\.json beside the tokenizer \(chat template, end-of-sequence token\)",
        ),
        ("chat_template.jinja", r"chat_template\.jinja beside the tokenizer \(chat template\)"),
        ("generation_config.json", r"generation_config\.json beside the tokenizer \(end-of-sequence tokens\)"),
    ],
)
def test_a_changed_chat_template_or_end_of_sequence_is_refused_and_named(
    tmp_path: Path, corpus: Path, file: str, said: str
) -> None:
    tokenizer = byte_level(tmp_path / "tokenizer")
    out = _half_counted(tmp_path, corpus, tokenizer)
    changed = {"chat_template": TEMPLATE.replace("<|end|>", "<|turn|>"), "eos_token": "<|turn|>", "eos_token_id": 1}
    (tokenizer / file).write_text(json.dumps(changed))
    with pytest.raises(FrspecError, match=said + " has changed"):
        count([corpus], tokenizer, out, encoder="reference")


def test_another_tokenizer_is_refused(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = _half_counted(tmp_path, corpus, tokenizer)
    with pytest.raises(FrspecError, match=r"the tokenizer was [0-9a-f]{12}, now it is [0-9a-f]{12}"):
        count([corpus], byte_level(tmp_path / "other", size=350), out, encoder="reference")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda corpus: write_jsonl(corpus / "s01.jsonl.zst", texts(99)),
            r"s01\.jsonl\.zst had [\d,]+ bytes, now [\d,]+",
        ),
        (lambda corpus: write_jsonl(corpus / "s99.jsonl.zst", texts(1)), r"s99\.jsonl\.zst is new"),
        (lambda corpus: (corpus / "s05.jsonl.zst").unlink(), r"the stopped run also counted s05\.jsonl\.zst"),
    ],
)
def test_a_changed_corpus_is_refused_and_named(
    tmp_path: Path, corpus: Path, tokenizer: Path, change, message: str
) -> None:
    out = _half_counted(tmp_path, corpus, tokenizer)
    change(corpus)
    with pytest.raises(FrspecError, match=message):
        count([corpus], tokenizer, out, encoder="reference")
    count([corpus], tokenizer, out, encoder="reference", restart=True)
    assert not run_folder(out).exists()


def test_a_touched_file_is_looked_at_again(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    expected = _undisturbed(tmp_path, corpus, tokenizer)
    out = _half_counted(tmp_path, corpus, tokenizer)
    first = corpus / "s00.jsonl.zst"
    os.utime(first, ns=(1, 1))
    with pytest.raises(Stop):
        count([corpus], tokenizer, out, callbacks=_stopping(1), encoder="reference")
    data = bytearray(first.read_bytes())
    data[-5] ^= 1
    first.write_bytes(data)
    with pytest.raises(FrspecError, match=r"s00\.jsonl\.zst has changed since it was counted"):
        count([corpus], tokenizer, out, encoder="reference")
    data[-5] ^= 1
    first.write_bytes(data)
    count([corpus], tokenizer, out, encoder="reference")
    assert out.read_bytes() == expected


def _edit_unseen(path: Path) -> None:
    """Changes a byte, and sets the modification time back."""
    time.sleep(0.02)  # the file system's clock is coarse
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_edit_that_keeps_size_and_time_is_noticed_by_the_resumed_run(
    tmp_path: Path, corpus: Path, tokenizer: Path
) -> None:
    out = _half_counted(tmp_path, corpus, tokenizer)
    _edit_unseen(corpus / "s01.jsonl.zst")
    with pytest.raises(FrspecError, match=r"s01\.jsonl\.zst has changed since it was counted"):
        count([corpus], tokenizer, out, encoder="reference")


def test_a_file_that_is_edited_after_it_was_counted_is_noticed_at_the_end(
    tmp_path: Path, corpus: Path, tokenizer: Path
) -> None:
    out, sizes = tmp_path / "out.parquet", []

    def finished(size: int) -> None:
        sizes.append(size)
        if len(sizes) == 3:
            _edit_unseen(corpus / "s01.jsonl.zst")
            os.utime(corpus / "s00.jsonl.zst")  # touched only

    with pytest.raises(FrspecError, match=r"s01\.jsonl\.zst has changed since it was counted"):
        count([corpus], tokenizer, out, callbacks=Callbacks(finished=finished), encoder="reference")
    assert len(sizes) == 6
    assert not out.exists()


def test_an_output_inside_its_own_corpus_resumes(
    tmp_path: Path, corpus: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _undisturbed(tmp_path, corpus, tokenizer)
    monkeypatch.chdir(corpus)
    with pytest.raises(Stop):
        count(["."], tokenizer, Path("counts.parquet"), callbacks=_stopping(3), encoder="reference")
    assert run_folder(corpus / "counts.parquet").is_dir()
    count(["."], tokenizer, Path("counts.parquet"), encoder="reference")
    assert (corpus / "counts.parquet").read_bytes() == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_file_names_that_are_not_utf8_are_counted(tmp_path: Path, tokenizer: Path, workers: int) -> None:
    folder = tmp_path / os.fsdecode(b"n\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    for name in (b"a\xff.jsonl.zst", b"b.jsonl.zst"):
        path = write_jsonl(folder / "x.jsonl.zst", [{"text": text} for text in texts(10)])
        path.rename(folder / os.fsdecode(name))
    out = tmp_path / "out.parquet"
    with pytest.raises(Stop):
        count([folder], tokenizer, out, callbacks=_stopping(1), encoder="reference")
    count([folder], tokenizer, out, encoder="reference", workers=workers)
    table = FrequencyTable.read(out)
    assert as_counter(table) == plain_loop(tokenizer, texts(10) * 2)
    assert table.sources == ["n\\xff"]
    assert [shard["path"] for shard in table.metadata["shards"]] == ["a\\xff.jsonl.zst", "b.jsonl.zst"]


def test_the_reference_encoder_takes_shorter_documents_unless_it_is_told_otherwise(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CountOptions().fields("reference").longest < CountOptions().fields("fast").longest
    monkeypatch.setitem(DOCUMENT_BYTES, "reference", 50)
    path = write_jsonl(tmp_path / "a.jsonl", ["a fox", "hen " * 20])
    warned: list[str] = []
    callbacks, options = Callbacks(warn=warned.append), CountOptions(max_document_bytes=1000)
    table = count([path], tokenizer, tmp_path / "o.parquet", encoder="reference", max_bad=1, callbacks=callbacks).table
    assert table.metadata["skipped"] == {"too long": 1}
    assert warned[0].startswith("documents of more than 50 bytes were skipped (1): the reference encoder")
    with pytest.raises(FrspecError, match="are bad") as caught:
        count([path], tokenizer, tmp_path / "o.parquet", encoder="reference")
    assert "max_document_bytes" in caught.value.hint
    count([path], tokenizer, tmp_path / "p.parquet", encoder="reference", options=options, callbacks=callbacks)
    assert len(warned) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_arrow_ends_in_a_sentence_or_is_left_out(tmp_path: Path, tokenizer: Path, workers: int) -> None:
    offsets = pa.py_buffer(np.array([0, 1 << 30, 4], dtype=np.int32))
    wrong = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abcd")])
    for name, text in (("a", pa.array(["a fox", "a hen"])), ("b", wrong)):
        table = pa.table({"text": text})
        with pa.ipc.new_stream(str(tmp_path / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)
    out = tmp_path / "out.parquet"
    with pytest.raises(FrspecError, match=r"b\.arrow is broken: damaged Arrow data"):
        count([tmp_path], tokenizer, out, workers=workers)
    options = CountOptions(skip_broken_files=True)
    table = count([tmp_path], tokenizer, out, workers=workers, options=options, restart=True).table
    assert as_counter(table) == plain_loop(tokenizer, ["a fox", "a hen"])


def test_an_entry_that_cannot_be_read_is_counted_again(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    expected = _undisturbed(tmp_path, corpus, tokenizer)
    out = _half_counted(tmp_path, corpus, tokenizer)
    entry = sorted(run_folder(out).glob("*.npz"))[1]
    entry.write_bytes(entry.read_bytes()[:-40])
    count([corpus], tokenizer, out, encoder="reference")
    assert out.read_bytes() == expected


@pytest.mark.parametrize(
    "change",
    [
        {"key": np.array([10**6], np.int32)},
        {"token": np.array([-5], np.int32)},
        {"count": np.array([0.5])},
        {"count": np.zeros((2, 2), np.int64)},
        {"meta": np.frombuffer(b'{"sources": ["a"], "shards": [{}], "examples": []}', np.uint8)},
        {"meta": np.frombuffer(b'{"sources": [1], "shards": [], "examples": []}', np.uint8)},
        {"meta": np.frombuffer(b"[" * 10**5, np.uint8)},
    ],
)
def test_an_entry_that_holds_something_else_is_counted_again(
    tmp_path: Path, corpus: Path, tokenizer: Path, change
) -> None:
    expected = _undisturbed(tmp_path, corpus, tokenizer)
    out = _half_counted(tmp_path, corpus, tokenizer)
    entry = sorted(run_folder(out).glob("*.npz"))[1]
    with np.load(entry) as arrays:
        changed = {name: arrays[name] for name in arrays} | change
    with open(entry, "wb") as file:
        np.savez(file, **changed)
    count([corpus], tokenizer, out, encoder="reference")
    assert out.read_bytes() == expected


def test_two_runs_on_one_output_do_not_meet(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = tmp_path / "out.parquet"
    failed: list[str] = []

    def second(size: int) -> None:
        with pytest.raises(FrspecError, match=r"another process is writing to .*out\.parquet\.ledger") as caught:
            count([corpus], tokenizer, out, encoder="reference")
        failed.append(caught.value.message)

    count([corpus], tokenizer, out, callbacks=Callbacks(finished=second), encoder="reference")
    assert len(failed) == 6
    assert out.exists()


def test_an_encoder_that_is_caught_late_starts_the_run_again(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes the probe, then goes wrong: the documents that are checked on the way give it away."""
    fast = pytest.importorskip("frspec_cli.tokens.fast")
    pytest.importorskip("gigatoken")
    right = fast.FastEncoder.encode
    calls = [0]

    def wrong(self, documents, data):
        encoded = right(self, documents, data)
        calls[0] += 1
        return (
            encoded if calls[0] < 4 else encoded._replace(ids=np.where(encoded.ids == encoded.ids[0], 5, encoded.ids))
        )

    monkeypatch.setattr(fast.FastEncoder, "encode", wrong)
    monkeypatch.setattr(worker, "RECHECK_SHARE", 1)
    said: list[str] = []
    out = tmp_path / "out.parquet"
    corpus = _corpus(tmp_path / "more", documents=80)
    table = count([corpus], tokenizer, out, callbacks=Callbacks(say=said.append)).table
    assert said[0].startswith("counting again with the reference encoder: the fast encoder differs")
    assert table.metadata["encoder"]["name"] == "reference"
    assert out.read_bytes() == _undisturbed(tmp_path, corpus, tokenizer)


def _conversations(path: Path, number: int) -> Path:
    turns = [{"role": "user", "content": "hens?"}, {"role": "assistant", "content": ""}]
    return write_jsonl(path, [{"messages": [turns[0], turns[1] | {"content": text}]} for text in texts(number)])


def test_an_encoder_that_is_wrong_on_conversations_fails_the_probe(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = pytest.importorskip("frspec_cli.tokens.fast")
    pytest.importorskip("gigatoken")
    path = _conversations(tmp_path / "chat.jsonl", 20)
    out = tmp_path / "out.parquet"
    right = count([path], tokenizer, out, encoder="fast").table
    text_only = count([write_jsonl(tmp_path / "one.jsonl", ["a fox"])], tokenizer, out, encoder="fast").table
    probes = [table.metadata["encoder"]["probe"]["documents"] for table in (right, text_only)]
    assert probes[0] - probes[1] == 19  # 20 conversations against one text
    encode = fast.FastEncoder.encode

    def wrong(self, documents, data):
        encoded = encode(self, documents, data)
        return encoded._replace(ids=encoded.ids + 1) if "hens?" in documents else encoded

    monkeypatch.setattr(fast.FastEncoder, "encode", wrong)
    with pytest.raises(EncodersDiffer, match=r"the fast encoder differs from the reference on 'hens\?"):
        count([path], tokenizer, out, encoder="fast")


def test_an_encoder_that_is_caught_late_on_conversations_starts_the_run_again(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = pytest.importorskip("frspec_cli.tokens.fast")
    pytest.importorskip("gigatoken")
    encode = fast.FastEncoder.encode

    def wrong(self, documents, data):
        encoded = encode(self, documents, data)
        return (
            encoded._replace(ids=encoded.ids[::-1].copy()) if len(documents) > 100 and "hens?" in documents else encoded
        )

    monkeypatch.setattr(fast.FastEncoder, "encode", wrong)
    monkeypatch.setattr(worker, "RECHECK_SHARE", 1)
    path = _conversations(tmp_path / "chat.jsonl", 200)
    said: list[str] = []
    table = count([path], tokenizer, tmp_path / "out.parquet", callbacks=Callbacks(say=said.append)).table
    assert said[0].startswith("counting again with the reference encoder: the fast encoder differs")
    assert table.metadata["encoder"]["name"] == "reference"


def test_an_encoder_that_fails_the_probe_is_not_used(
    tmp_path: Path, corpus: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = pytest.importorskip("frspec_cli.tokens.fast")
    pytest.importorskip("gigatoken")
    right = fast.FastEncoder.encode
    monkeypatch.setattr(
        fast.FastEncoder, "encode", lambda self, documents, data: right(self, documents[::-1], data[::-1])
    )
    said: list[str] = []
    table = count([corpus], tokenizer, tmp_path / "out.parquet", callbacks=Callbacks(say=said.append), workers=2).table
    assert "reference encoder" in said[0]
    assert as_counter(table) == plain_loop(tokenizer, [text for index in range(6) for text in texts(10, seed=index)])
    with pytest.raises(FrspecError, match="the fast encoder differs"):
        count([corpus], tokenizer, tmp_path / "out.parquet", encoder="fast")


def test_too_many_bad_records_end_the_run(tmp_path: Path, tokenizer: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*texts(50), {"body": "x"}, {"text": 5}])
    with pytest.raises(
        FrspecError, match=r"2 of 52 records \(3\.8%\) are bad \(1 missing field, 1 not a string\)"
    ) as caught:
        count([path], tokenizer, tmp_path / "out.parquet")
    assert "for instance a.jsonl, line 51: missing field (its fields are body)" in caught.value.message
    assert "max_bad" in caught.value.hint
    assert count([path], tokenizer, tmp_path / "out.parquet", max_bad=0.05).lines == 52


def test_a_text_file_that_is_too_long_comes_with_advice_that_helps(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "huge.txt").write_text("the fox runs\n" * 100)
    options = CountOptions(max_document_bytes=1000)
    with pytest.raises(FrspecError, match=r"huge\.txt: too long \(1,300 bytes\)") as caught:
        count([tmp_path / "huge.txt"], tokenizer, tmp_path / "out.parquet", options=options)
    assert as_flags(caught.value.hint) == (
        "A file of plain text is one document: --lines makes each of its lines one, --split-on STRING what is between "
        "separators, and --max-document-bytes allows longer ones."
    )
    by_lines = count(
        [tmp_path / "huge.txt"], tokenizer, tmp_path / "out.parquet", options=options, selection=Selection(lines=True)
    )
    assert by_lines.table.metadata["documents"] == 100


def test_lines_are_those_of_the_file_also_when_it_is_split(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "PIECE_BYTES", 500)
    records: list = [{"text": "the fox runs"}] * 200
    records[150] = {"text": 5}
    path = write_jsonl(tmp_path / "a.jsonl", records)
    assert count([path], tokenizer, tmp_path / "o.parquet").examples == [("a.jsonl", 151, "not a string", "a int")]
    # A part of the pieces does not know how many lines the others have.
    parts = [count([path], tokenizer, tmp_path / "o.parquet", shard=(index, 2), max_bad=1).examples for index in (1, 2)]
    [(name, line, reason, _)] = parts[0] + parts[1]
    assert name.startswith("a.jsonl (from byte ")
    assert (line < 151, reason) == (True, "not a string")


def test_lines_of_a_hub_dataset_are_those_of_the_shard_that_is_named() -> None:
    """Its `start` is the shard's number, not a byte."""
    counted, part = run.Counted(CountAccumulator(4)), CountAccumulator(4).part()
    sums = {"size": 0, "lines": 9, "documents": 8, "tokens": 8, "bytes": 8, "skipped": {"null": 1}}
    part.shards = [{"path": "hub:data/train/00001-of-00003", "format": "hub", "sha256": "", "start": 1, **sums}]
    part.examples = [("hub:data/train/00001-of-00003", 7, "null", "")]
    counted.add(part)
    assert run.in_words(counted.examples[0]) == "hub:data/train/00001-of-00003, line 7: null"


def test_skipped_files_are_named(tmp_path: Path, tokenizer: Path) -> None:
    for name, data in (("a.txt", b"x"), ("b.txt", b"\xff"), ("c.txt", b"")):
        (tmp_path / name).write_bytes(data)
    examples = count([tmp_path], tokenizer, tmp_path / "o.parquet", max_bad=1).examples
    assert [(Path(name).name, line, reason) for name, line, reason, _ in examples] == [
        ("b.txt", 0, "invalid UTF-8"),
        ("c.txt", 0, "empty"),
    ]


def test_a_wrong_field_is_noticed_early(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "EARLY_BAD_LINES", 20)
    for index in range(4):
        write_jsonl(tmp_path / "corpus" / f"{index}.jsonl.gz", [{"body": "x"}] * 30)
    finished: list[int] = []
    with pytest.raises(FrspecError, match="30 of 30 records") as caught:
        count([tmp_path / "corpus"], tokenizer, tmp_path / "o.parquet", callbacks=Callbacks(finished=finished.append))
    assert len(finished) == 1
    assert "text_field" in caught.value.hint


def test_empty_text_files_are_not_bad(tmp_path: Path, tokenizer: Path) -> None:
    for index in range(6):
        (tmp_path / f"{index}.txt").write_text("x" if index % 2 else "")
    result = count([tmp_path], tokenizer, tmp_path / "out.parquet")
    assert result.table.metadata["skipped"] == {"empty": 3}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_file_fails_the_run_or_is_left_out(
    tmp_path: Path, corpus: Path, tokenizer: Path, workers: int
) -> None:
    broken = corpus / "s02.jsonl.zst"
    broken.write_bytes(broken.read_bytes()[:-9])
    out = tmp_path / "out.parquet"
    with pytest.raises(FrspecError, match=r"s02\.jsonl\.zst is broken: the zstd data ends too early at byte [\d,]+"):
        count([corpus], tokenizer, out, workers=workers)
    options = CountOptions(skip_broken_files=True)
    table = count([corpus], tokenizer, out, workers=workers, options=options, restart=True).table
    expected = plain_loop(tokenizer, [text for index in (0, 1, 3, 4, 5) for text in texts(10, seed=index)])
    assert as_counter(table) == expected
    assert [shard["path"] for shard in table.metadata["shards"] if "broken" in shard] == ["s02.jsonl.zst"]


def test_a_run_that_counted_nothing_leaves_nothing(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"no zstd")
    with pytest.raises(BrokenFile):
        count([path], tokenizer, tmp_path / "out.parquet")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl.zst"]


def test_a_stream_gets_the_table_and_no_ledger_beside_it(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    expected = _undisturbed(tmp_path, corpus, tokenizer)
    (tmp_path / "new").mkdir()
    pipe = tmp_path / "new" / "pipe.parquet"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    beside: list[list[str]] = []
    callbacks = Callbacks(finished=lambda size: beside.append(os.listdir(pipe.parent)))
    count([corpus], tokenizer, pipe, encoder="reference", callbacks=callbacks)
    reader.join(timeout=60)
    assert received == [expected]
    assert beside == [["pipe.parquet"]] * 6


def test_the_rest_is_not_counted_once_the_ranking_is_sure(tmp_path: Path, tokenizer: Path) -> None:
    corpus = _corpus(tmp_path / "corpus", shards=8, documents=60)
    options = CountOptions(until_stable=0.02, stable_k=100)
    first = count([corpus], tokenizer, tmp_path / "a.parquet", options=options)
    count([corpus], tokenizer, tmp_path / "b.parquet", options=options, workers=2)
    assert first.stopped == "until_stable"
    assert 0 < len(first.table.metadata["shards"]) < 8
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_worker_that_dies_is_said(
    tmp_path: Path, corpus: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Patched code reaches forked workers only, and another test's idle thread would have new processes started instead.
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(ReferenceEncoder, "encode", lambda self, documents, data: os._exit(7))
    with pytest.raises(FrspecError, match=r"a worker died while it counted s0\d\.jsonl\.zst \(exit code 7\)"):
        count([corpus], tokenizer, tmp_path / "out.parquet", workers=2, encoder="reference")


def test_a_bug_in_a_worker_keeps_its_traceback(
    tmp_path: Path, corpus: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(self, documents, data):
        raise ZeroDivisionError("a bug")

    # Patched code reaches forked workers only, and another test's idle thread would have new processes started instead.
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(ReferenceEncoder, "encode", bug)
    with pytest.raises(RuntimeError, match=r"(?s)in a worker:.*ZeroDivisionError: a bug"):
        count([corpus], tokenizer, tmp_path / "out.parquet", workers=2, encoder="reference")


def test_bundles_of_many_files_do_not_fill_the_pipe(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that names thousands of files is larger than a pipe, and so are its counts: neither side may wait."""
    monkeypatch.setattr(cutting, "BUNDLE_FILES", 500)
    folder = tmp_path / "corpus" / ("x" * 100)
    folder.mkdir(parents=True)
    for index, text in enumerate(texts(2000)):
        (folder / f"{index}{'y' * 100}.txt").write_text(text)
    table = count([tmp_path / "corpus"], tokenizer, tmp_path / "out.parquet", workers=2, encoder="reference").table
    assert table.metadata["documents"] == 2000
    assert len(table.metadata["shards"]) >= 4


def test_spawned_workers_count_the_same(
    tmp_path: Path, corpus: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors.sys, "platform", "elsewhere")
    out = tmp_path / "out.parquet"
    count([corpus], tokenizer, out, workers=2, encoder="reference")
    assert out.read_bytes() == _undisturbed(tmp_path, corpus, tokenizer)


def test_progress_always_says_how_much_was_read(
    tmp_path: Path, corpus: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passed on at once, so that nothing is held back when a shard ends: an empty report then ended the command."""
    monkeypatch.setattr(executors, "PROGRESS_SECONDS", -1)
    seen: list[dict[str, int]] = []
    callbacks = Callbacks(advance=lambda **amounts: seen.append(amounts))
    count([corpus], tokenizer, tmp_path / "out.parquet", callbacks=callbacks, workers=2, encoder="reference")
    assert all(set(amounts) == {"documents", "bytes", "tokens", "read"} for amounts in seen)
    assert seen


GATED = """
import sys, time
from pathlib import Path
from frspec_cli.cli.app import main
from frspec_cli.counting.worker import ShardCounter

gate, first_gated = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
count = ShardCounter.count

def gated(self, task, *progress):
    while task.index >= first_gated and not gate.exists():
        time.sleep(0.002)
    return count(self, task, *progress)

ShardCounter.count = gated  # forked workers have it too
main()
"""
"""The command line; shards from the `first_gated` on wait until the file `gate` exists, so a test may stop the run first."""


def _gated(gate: Path, first_gated: int, *arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", GATED, str(gate), str(first_gated), "count-freq", *map(str, arguments)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], **options)


def _saved(out: Path) -> int:
    """Shards that the ledger holds."""
    entries = [list(map(int, path.stem.split("-"))) for path in run_folder(out).glob("*-*.npz")]
    return len({index for first, last in entries for index in range(first, last + 1)})


def _kill_until_done(tmp_path: Path, tokenizer: Path, *, kills: int, shards: int, documents: int) -> None:
    """SIGKILL at random moments, each time after one more ledger entry at least while there are any to come.

    The last shard waits until all kills are done, so that no run can end before. Workers and order of arguments change.
    """
    corpus = _corpus(tmp_path / "corpus", shards, documents, words=4000)
    expected = _undisturbed(tmp_path, corpus, tokenizer)
    out, gate = tmp_path / "out.parquet", tmp_path / "gate"
    chance = random.Random(5)

    def start() -> subprocess.Popen:
        files = list(corpus.iterdir())
        chance.shuffle(files)
        rest = ["--tokenizer", tokenizer, "--quiet", "--out", out, "--encoder", "reference", "--source-name", "corpus"]
        return _gated(gate, shards - 1, *files, *rest, "--workers", chance.randint(1, 2), start_new_session=True)

    for _ in range(kills):
        before = _saved(out)
        process = start()
        while _saved(out) == before < shards - 1:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        assert process.wait(timeout=120) == -signal.SIGKILL
        assert not out.exists()
    gate.touch()
    assert start().wait(timeout=120) == 0
    assert out.read_bytes() == expected
    shutil.rmtree(corpus)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gate", "out.parquet", "undisturbed.parquet"]


def test_killed_and_started_again_until_done(tmp_path: Path, tokenizer: Path) -> None:
    _kill_until_done(tmp_path, tokenizer, kills=2, shards=5, documents=8)


@pytest.mark.slow
def test_killed_thirty_times(tmp_path: Path, tokenizer: Path) -> None:
    _kill_until_done(tmp_path, tokenizer, kills=30, shards=80, documents=12)


def test_an_interrupt_is_resumable(tmp_path: Path, tokenizer: Path) -> None:
    corpus = _corpus(tmp_path / "corpus")
    out = tmp_path / "out.parquet"
    arguments = [corpus, "-t", tokenizer, "-o", out, "--workers", 2, "--encoder", "reference"]
    process = _gated(tmp_path / "never", 3, *arguments, stderr=subprocess.PIPE, text=True)
    while _saved(out) < 3:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in message
    assert f"what is done is kept in {out}.ledger. To resume, run: frspec count-freq {corpus} " in message
    assert _saved(out) == 3
    count([corpus], tokenizer, out, encoder="reference")
    assert out.read_bytes() == _undisturbed(tmp_path, corpus, tokenizer)
