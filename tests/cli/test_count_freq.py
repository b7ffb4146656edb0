"""`frspec count-freq` and `frspec merge` as a user meets them: exit codes, stdout, stderr."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from frspec_cli.cli.count_freq import _Bar
from frspec_cli.cli.output import Output
from tests.counting.corpora import byte_level, texts, write_jsonl


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for index in range(3):
        write_jsonl(tmp_path / "corpus" / f"{index}.jsonl.zst", texts(200, seed=index))
    return tmp_path / "corpus"


def test_a_program_gets_one_object_and_nothing_else(cli, tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = tmp_path / "counts.parquet"
    code, stdout, stderr = cli("count-freq", corpus, "--tokenizer", tokenizer, "--out", out, "--json", "--quiet")
    assert (code, stderr) == (0, "")
    value = json.loads(stdout)
    keys = ["out", "tokenizer", "encoder", "lines", "documents", "skipped", "tokens", "bytes", "seconds", "stability"]
    assert list(value) == keys
    assert (value["out"], value["documents"], value["skipped"]) == (str(out), 600, {})
    assert value["lines"] == value["documents"] + sum(value["skipped"].values())


def test_a_person_reads_what_was_counted_and_where_it_is(cli, tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    out = tmp_path / "counts.parquet"
    write_jsonl(corpus / "9.jsonl", ["", {"text": None}])
    code, _, stderr = cli("count-freq", corpus, "-t", tokenizer, "-o", out)
    assert code == 0
    assert "skipped 2 of 602 records: 1 empty, 1 null." in stderr
    assert "9.jsonl, line 2: null" in stderr
    assert stderr.splitlines()[-1].startswith("600 documents, ")
    assert stderr.rstrip().endswith(f"-> {out}")


def test_the_bar_says_how_fast_and_how_far() -> None:
    output = Output()
    output.err = Console(file=io.StringIO(), force_terminal=True, width=140)
    with _Bar(output) as bar:
        callbacks = bar.callbacks()
        callbacks.begin(1000)
        callbacks.advance(documents=1234, bytes=5_000_000, tokens=1_200_000, read=250)
        bar.progress.refresh()
    shown = output.err.file.getvalue()
    assert "25%" in shown
    assert "1,234 documents" in shown
    assert "MB/s" in shown
    assert "M tokens/s" in shown


def test_parts_merge_to_the_bytes_of_one_run(cli, tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    parts = [tmp_path / f"part{index}.parquet" for index in (1, 2)]
    for index, part in enumerate(parts, start=1):
        assert cli("count-freq", corpus, "-t", tokenizer, "-o", part, "--shard", f"{index}/2")[0] == 0
    assert cli("count-freq", corpus, "-t", tokenizer, "-o", tmp_path / "one.parquet")[0] == 0
    code, stdout, _ = cli("merge", *parts, "--out", tmp_path / "merged.parquet", "--json")
    assert code == 0
    assert json.loads(stdout)["documents"] == 600
    assert (tmp_path / "merged.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    _, _, stderr = cli("merge", parts[0], tmp_path / "one.parquet", "--out", tmp_path / "twice.parquet")
    assert "warning: 0.jsonl.zst is in both" in stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nowhere.jsonl"], 1, "there is no file or folder nowhere.jsonl."),
        (["CORPUS", "--text-field", "body"], 1, "600 of 600 records (100.0%) are bad (600 missing field)"),
        (["CORPUS", "--tokenizer", "nosuch"], 1, "there is no model named 'nosuch'"),
        (["CORPUS", "--shard", "4/3"], 2, "--shard is I/N with 1 <= I <= N, not 4/3."),
        (["CORPUS", "--shard", "x"], 2, "--shard x is not of the form I/N"),
        (["CORPUS", "--max-bad", "many"], 2, "--max-bad many is not a share"),
        (["CORPUS", "--encoder", "quick"], 2, "--encoder quick is not one of auto, fast, reference."),
        (["CORPUS", "--until-stable", "7"], 2, "--until-stable is a share"),
        (["CORPUS", "--out", "CORPUS"], 1, "is a folder, and a file is written"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    cli, tmp_path: Path, corpus: Path, tokenizer: Path, arguments: list[str], code: int, sentence: str
) -> None:
    given = [str(corpus) if argument == "CORPUS" else argument for argument in arguments]
    defaults = {"--tokenizer": tokenizer, "--out": tmp_path / "counts.parquet"}
    rest = [item for name, value in defaults.items() if name not in given for item in (name, value)]
    before = sorted(tmp_path.iterdir())
    exit_code, stdout, stderr = cli("count-freq", *given, *rest)
    assert (exit_code, stdout) == (code, "")
    assert sentence in stderr
    assert "Traceback" not in stderr
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_itself(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    """One real process: its exit code, and nothing half-written."""
    command = [sys.executable, "-m", "frspec_cli", "count-freq", str(corpus), "--tokenizer", str(tokenizer)]
    broken = corpus / "0.jsonl.zst"
    broken.write_bytes(broken.read_bytes()[:-3])
    run = subprocess.run([*command, "--out", str(tmp_path / "d.parquet")], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith(
        f"error: 0.jsonl.zst is broken: the zstd data ends too early at byte {broken.stat().st_size:,}."
    )
    assert run.stdout == ""
    assert not (tmp_path / "d.parquet").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_said_before_the_work(cli, tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    code, _, stderr = cli("count-freq", corpus, "-t", tokenizer, "-o", tmp_path / "locked" / "c.parquet")
    assert code == 1
    assert "locked is read-only." in stderr


def test_the_text_that_is_counted_is_never_written_over(cli, tmp_path: Path, tokenizer: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the fox")
    code, _, stderr = cli("count-freq", tmp_path / ".." / tmp_path.name / "text.txt", "-t", tokenizer, "-o", text)
    assert (code, "is an input." in stderr) == (1, True)
    assert text.read_text() == "the fox"


def test_a_corpus_without_text_is_a_failure(cli, tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    out = tmp_path / "c.parquet"
    code, _, stderr = cli("count-freq", tmp_path / "empty.jsonl", "-t", tokenizer, "-o", out)
    assert (code, "error: no text was found in 0 records, so there is nothing to count." in stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.jsonl"]
    code, _, stderr = cli("count-freq", tmp_path / "empty.jsonl", "-t", tokenizer, "-o", out, "--shard", "2/2")
    assert (code, "this part of the corpus holds no text" in stderr) == (0, True)


def test_a_run_that_counted_nothing_does_not_block_the_next(cli, tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    (tmp_path / "blank.jsonl").write_text("\n" * 3 + '{"question": "x"}\n' * 3)
    out = tmp_path / "c.parquet"
    code, _, stderr = cli("count-freq", tmp_path / "blank.jsonl", "-t", tokenizer, "-o", out)
    assert (code, "missing field" in stderr) == (1, True)
    assert not (tmp_path / "c.parquet.ledger").exists()
    assert cli("count-freq", corpus, "-t", tokenizer, "-o", out)[0] == 0


def test_one_table_twice_is_refused(cli, tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    table, copy = tmp_path / "a.parquet", tmp_path / "b.parquet"
    assert cli("count-freq", corpus, "-t", tokenizer, "-o", table)[0] == 0
    copy.write_bytes(table.read_bytes())
    code, _, stderr = cli("merge", table, table, "-o", tmp_path / "sum.parquet")
    assert (code, " ".join(stderr.split())) == (2, f"error: {table} is given twice: its text would count twice.")
    code, _, stderr = cli("merge", table, copy, "-o", tmp_path / "sum.parquet")
    assert (code, f"{copy} holds the same table as {table}" in stderr) == (2, True)
    assert not (tmp_path / "sum.parquet").exists()


def test_merge_does_not_write_over_its_tables(cli, tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    table = tmp_path / "a.parquet"
    assert cli("count-freq", corpus, "-t", tokenizer, "-o", table)[0] == 0
    before = table.read_bytes()
    code, _, stderr = cli("merge", table, table, "-o", table)
    assert (code, "is an input." in stderr) == (1, True)
    assert table.read_bytes() == before
