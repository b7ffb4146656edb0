"""Killed and started again, a run writes the bytes of an undisturbed one; a changed input is refused, and named."""

from __future__ import annotations

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
import pytest

from frspec_cli.corpus import shards as cutting
from frspec_cli.corpus.streams import BrokenFile
from frspec_cli.counting import executors as engines
from frspec_cli.counting import run
from frspec_cli.counting.ledger import ledger_folder
from frspec_cli.counting.options import CountOptions, Listener
from frspec_cli.errors import FrspecError
from frspec_cli.tokens.encoder import ReferenceEncoder
from tests.counting.corpora import as_counter, byte_level, count, plain_loop, texts, write_jsonl


class Stop(Exception):
    """What interrupts a run in these tests."""


def _corpus(folder: Path, shards: int = 6, documents: int = 10, words: int = 40) -> Path:
    for index in range(shards):
        write_jsonl(folder / f"s{index:02d}.jsonl.zst", texts(documents, seed=index, words=words))
    return folder


def _stopping(after: int) -> Listener:
    left = [after]

    def finished(size: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Stop

    return Listener(finished=finished)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return _corpus(tmp_path / "corpus")


def _undisturbed(tmp_path: Path, corpus: Path, tokenizer: Path, **options) -> bytes:
    out = tmp_path / "undisturbed.parquet"
    count([corpus], tokenizer, out, options=CountOptions(**options), encoder="reference")
    return out.read_bytes()


@pytest.mark.parametrize("options", [{}, {"limit_documents": 33}, {"limit_tokens": 400}, {"until_stable": 0.5}])
@pytest.mark.parametrize("join", [64, 2])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path: Path, corpus: Path, tokenizer: Path, options: dict, join: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _undisturbed(tmp_path, corpus, tokenizer, **options)
    monkeypatch.setattr(run, "JOIN_AFTER", join)
    out = tmp_path / "out.parquet"
    for _ in range(8):
        try:
            count([corpus], tokenizer, out, options=CountOptions(**options), encoder="reference", listener=_stopping(1))
        except Stop:
            assert ledger_folder(out).is_dir()
            assert not out.exists()
        else:
            break
    count([corpus], tokenizer, out, options=CountOptions(**options), encoder="reference")
    assert out.read_bytes() == expected
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "undisturbed.parquet", "out.parquet"}


def test_going_on_is_said_and_nothing_is_counted_twice(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(Stop):
        count([corpus], tokenizer, out, listener=_stopping(4), encoder="reference")
    said: list[str] = []
    finished: list[int] = []
    count([corpus], tokenizer, out, listener=Listener(say=said.append, finished=finished.append), encoder="reference")
    assert said == ["4 of 6 shards were counted before; going on."]
    assert len(finished) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_adds_up(tmp_path: Path, corpus: Path, tokenizer: Path, workers: int) -> None:
    told: list[tuple[int, ...]] = []
    sizes: list[int] = []
    listener = Listener(progress=lambda *done: told.append(done), begin=sizes.append)
    metadata = count([corpus], tokenizer, tmp_path / "out.parquet", listener=listener, workers=workers).table.metadata
    assert sizes == [sum(path.stat().st_size for path in corpus.iterdir())]
    sums = tuple(map(sum, zip(*told, strict=True)))
    assert sums == (metadata["documents"], metadata["bytes"], metadata["tokens"], sizes[0])


def _half_counted(tmp_path: Path, corpus: Path, tokenizer: Path) -> Path:
    out = tmp_path / "out.parquet"
    with pytest.raises(Stop):
        count([corpus], tokenizer, out, listener=_stopping(3), encoder="reference")
    return out


def test_a_changed_option_is_refused_and_named(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = _half_counted(tmp_path, corpus, tokenizer)
    with pytest.raises(FrspecError, match="--text-field was not given, now it is body") as caught:
        count([corpus], tokenizer, out, options=CountOptions(text_field="body"), encoder="reference")
    assert "--restart" in caught.value.hint
    pytest.importorskip("gigatoken")
    with pytest.raises(FrspecError, match="the encoder was reference, now it is fast"):
        count([corpus], tokenizer, out, encoder="fast")


def test_another_tokenizer_is_refused(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = _half_counted(tmp_path, corpus, tokenizer)
    with pytest.raises(FrspecError, match=r"the tokenizer was [0-9a-f]{16}, now it is [0-9a-f]{16}"):
        count([corpus], byte_level(tmp_path / "other", size=350), out, encoder="reference")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda corpus: write_jsonl(corpus / "s01.jsonl.zst", texts(99)),
            r"s01\.jsonl\.zst had [\d,]+ bytes, now [\d,]+",
        ),
        (lambda corpus: write_jsonl(corpus / "s99.jsonl.zst", texts(1)), r"s99\.jsonl\.zst is new"),
        (lambda corpus: (corpus / "s05.jsonl.zst").unlink(), r"s05\.jsonl\.zst is not there any more"),
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
    assert not ledger_folder(out).exists()


def test_a_touched_file_is_looked_at_again(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    expected = _undisturbed(tmp_path, corpus, tokenizer)
    out = _half_counted(tmp_path, corpus, tokenizer)
    first = corpus / "s00.jsonl.zst"
    os.utime(first, ns=(1, 1))
    with pytest.raises(Stop):
        count([corpus], tokenizer, out, listener=_stopping(1), encoder="reference")
    data = bytearray(first.read_bytes())
    data[-5] ^= 1
    first.write_bytes(data)
    with pytest.raises(FrspecError, match=r"s00\.jsonl\.zst has changed since it was counted"):
        count([corpus], tokenizer, out, encoder="reference")
    data[-5] ^= 1
    first.write_bytes(data)
    count([corpus], tokenizer, out, encoder="reference")
    assert out.read_bytes() == expected


def test_an_entry_that_cannot_be_read_is_counted_again(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    expected = _undisturbed(tmp_path, corpus, tokenizer)
    out = _half_counted(tmp_path, corpus, tokenizer)
    entry = sorted(ledger_folder(out).glob("*.npz"))[1]
    entry.write_bytes(entry.read_bytes()[:-40])
    count([corpus], tokenizer, out, encoder="reference")
    assert out.read_bytes() == expected


def test_two_runs_on_one_output_do_not_meet(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = tmp_path / "out.parquet"
    failed: list[str] = []

    def second(size: int) -> None:
        with pytest.raises(FrspecError, match=r"another run is counting into out\.parquet") as caught:
            count([corpus], tokenizer, out, encoder="reference")
        failed.append(caught.value.message)

    count([corpus], tokenizer, out, listener=Listener(finished=second), encoder="reference")
    assert len(failed) == 6
    assert out.exists()


def test_an_encoder_that_is_caught_late_starts_the_run_again(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes the probe, then goes wrong: the documents that are checked on the way give it away."""
    fast = pytest.importorskip("frspec_cli.tokens.fast")
    counting = pytest.importorskip("frspec_cli.counting.worker")
    pytest.importorskip("gigatoken")
    right = fast.FastEncoder.encode
    calls = [0]

    def wrong(self, chosen, data):
        encoded = right(self, chosen, data)
        calls[0] += 1
        return (
            encoded if calls[0] < 4 else encoded._replace(ids=np.where(encoded.ids == encoded.ids[0], 5, encoded.ids))
        )

    monkeypatch.setattr(fast.FastEncoder, "encode", wrong)
    monkeypatch.setattr(counting, "RECHECK_SHARE", 1)
    said: list[str] = []
    out = tmp_path / "out.parquet"
    corpus = _corpus(tmp_path / "more", documents=80)
    table = count([corpus], tokenizer, out, listener=Listener(say=said.append)).table
    assert said[0].startswith("counting again with the reference encoder: the fast encoder differs")
    assert table.metadata["encoder"]["name"] == "reference"
    assert out.read_bytes() == _undisturbed(tmp_path, corpus, tokenizer)


def test_an_encoder_that_fails_the_probe_is_not_used(
    tmp_path: Path, corpus: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = pytest.importorskip("frspec_cli.tokens.fast")
    pytest.importorskip("gigatoken")
    right = fast.FastEncoder.encode
    monkeypatch.setattr(fast.FastEncoder, "encode", lambda self, chosen, data: right(self, chosen[::-1], data[::-1]))
    said: list[str] = []
    table = count([corpus], tokenizer, tmp_path / "out.parquet", listener=Listener(say=said.append), workers=2).table
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
    assert "--max-bad" in caught.value.hint
    assert count([path], tokenizer, tmp_path / "out.parquet", max_bad=0.05).lines == 52


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
        count([tmp_path / "corpus"], tokenizer, tmp_path / "o.parquet", listener=Listener(finished=finished.append))
    assert len(finished) == 1
    assert "--text-field" in caught.value.hint


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


def test_the_rest_is_not_counted_once_the_ranking_is_sure(tmp_path: Path, tokenizer: Path) -> None:
    corpus = _corpus(tmp_path / "corpus", shards=8, documents=60)
    options = CountOptions(until_stable=0.02, stable_k=100)
    first = count([corpus], tokenizer, tmp_path / "a.parquet", options=options)
    count([corpus], tokenizer, tmp_path / "b.parquet", options=options, workers=2)
    assert first.stopped == "--until-stable"
    assert 0 < len(first.table.metadata["shards"]) < 8
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_worker_that_dies_is_said(
    tmp_path: Path, corpus: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Patched code reaches forked workers only, and another test's idle thread would have new processes started instead.
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(ReferenceEncoder, "encode", lambda self, chosen, data: os._exit(7))
    with pytest.raises(FrspecError, match=r"a worker died while it counted s0\d\.jsonl\.zst \(exit code 7\)"):
        count([corpus], tokenizer, tmp_path / "out.parquet", workers=2, encoder="reference")


def test_a_bug_in_a_worker_keeps_its_traceback(
    tmp_path: Path, corpus: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(self, chosen, data):
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
    monkeypatch.setattr(engines.sys, "platform", "elsewhere")
    out = tmp_path / "out.parquet"
    count([corpus], tokenizer, out, workers=2, encoder="reference")
    assert out.read_bytes() == _undisturbed(tmp_path, corpus, tokenizer)


def _kill_until_done(tmp_path: Path, tokenizer: Path, *, kills: int, shards: int, documents: int) -> None:
    """SIGKILL at random moments between the first and the last ledger entry; workers and order of arguments change."""
    corpus = _corpus(tmp_path / "corpus", shards, documents, words=4000)
    expected = _undisturbed(tmp_path, corpus, tokenizer)
    out = tmp_path / "out.parquet"
    chance = random.Random(5)
    killed = 0
    while not out.exists():
        files = [str(path) for path in corpus.iterdir()]
        chance.shuffle(files)
        command = [sys.executable, "-m", "frspec_cli", "count-freq", *files, "--tokenizer", str(tokenizer), "--quiet"]
        command += ["--out", str(out), "--encoder", "reference", "--source-name", "corpus"]
        command += ["--workers", str(chance.randint(1, 2))]
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        before = len(list(ledger_folder(out).glob("*.npz")))
        while killed < kills and process.poll() is None:
            time.sleep(chance.uniform(0.001, 0.02))
            if len(list(ledger_folder(out).glob("*.npz"))) > before and not out.exists():
                process.send_signal(signal.SIGKILL)
                killed += 1
                break
        assert process.wait(timeout=120) in (0, -signal.SIGKILL)
    assert killed == kills
    assert out.read_bytes() == expected
    shutil.rmtree(corpus)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "undisturbed.parquet"]


def test_killed_and_started_again_until_done(tmp_path: Path, tokenizer: Path) -> None:
    _kill_until_done(tmp_path, tokenizer, kills=2, shards=5, documents=8)


@pytest.mark.slow
def test_killed_thirty_times(tmp_path: Path, tokenizer: Path) -> None:
    _kill_until_done(tmp_path, tokenizer, kills=30, shards=80, documents=12)


def test_an_interrupt_is_resumable(tmp_path: Path, tokenizer: Path) -> None:
    corpus = _corpus(tmp_path / "corpus", 6, 12, words=4000)
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "frspec_cli", "count-freq", str(corpus), "-t", str(tokenizer), "-o", str(out)]
    command += ["--workers", "2", "--encoder", "reference"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(ledger_folder(out).glob("*.npz")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.stderr is not None
    message = process.stderr.read()
    assert "interrupted" in message
    assert "the same command goes on" in message
    assert ledger_folder(out).is_dir()
    count([corpus], tokenizer, out, encoder="reference")
    assert out.read_bytes() == _undisturbed(tmp_path, corpus, tokenizer)
