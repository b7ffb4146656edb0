"""What people type by mistake: the exit code, what is wrong, and what to do."""

from __future__ import annotations

import json
import os

import pytest

TEXT = "The hen ran.\n"
CASES = [
    ("count-freq - -t {model} -o {here}/o.parquet", 1, "standard input is not counted", "Write the text to a file"),
    ("count-freq {here}/t.txt -t {model} -o {here}/o.csv", 1, "is named .csv, and a frequency table is written: end its", ""),
    ("count-freq s3://b/x.txt -t {model} -o {here}/o.parquet", 1, "cannot be listed: Install s3fs", "fsspec[s3]"),
    ("build-vocab {run}/counts.parquet --k 99999 -o {here}/s.parquet", 1, "k 99,999 is larger than the vocabulary", ""),
    ("build-vocab {run}/counts.parquet --k 8,9 -o {here}/s.parquet", 2, "several sizes are written into a folder", ""),
    ("build-vocab {run}/counts.parquet --k 8 --mix web=1 -o {here}/s.parquet", 1, "available: answers, counts.", ""),
    ("coverage {run}/s.parquet --on {run}/answers.jsonl {run}/prompts.jsonl", 1, "not a vocabulary subset", "Put --on before"),
    ("collect --prompts {here}/no.jsonl --model {model} -o {here}/a.jsonl", 1, "there is no file", 'A line of such a file is'),
    ("collect --prompts {run}/prompts.jsonl --model {model} -o {here}/a.txt", 1, "end its name in .jsonl.", ""),
    ("collect --prompts {here}/t.txt --model {model} -o {here}/a.jsonl", 1, "is a file of plain text, not", "count-freq"),
    ("generate hi --prompts {run}/prompts.jsonl", 2, "give a prompt or --prompts FILE, not both.", "For example"),
    ("bench --prompts {run}/prompts.jsonl --model {model} -o {here}/b.txt", 1, "is written: end its name in .json.", ""),
    ("version", 2, "there is no command 'version'", "frspec --version shows it."),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "code", "wrong", "advice"), CASES)
def test_a_mistake_is_named_with_what_to_do(typed, code, wrong, advice, cli, folder, tiny_folder, tmp_path) -> None:
    (tmp_path / "t.txt").write_text(TEXT)
    before = sorted(os.listdir(tmp_path))
    words = typed.format(run=folder, model=tiny_folder, here=tmp_path).split()
    found, out, err = cli(*words)
    assert (found, out) == (code, "")
    message, _, hint = err.partition("error: ")[2].partition("\n")
    assert wrong in message
    assert advice in hint
    assert sorted(os.listdir(tmp_path)) == before


def test_other_options_are_named_before_what_follows_from_them(cli, folder, tiny_folder, tmp_path) -> None:
    """Several epochs keep features on disk, one does not: the user gave --epochs."""
    common = ("train-draft", folder / "answers.jsonl", "--model", tiny_folder, "--taps", "1,2", "-o", tmp_path / "head")
    precise = ("--device", "cpu", "--dtype", "float32", "--limit", 4)
    assert cli(*common, *precise, "--epochs", 1)[0] == 0
    code, _, err = cli(*common, *precise, "--epochs", 2)
    assert (code, "epochs was 1, now it is 2." in err) == (1, True)


def test_what_plain_text_a_folder_of_it_and_a_tokenizer_are(cli, tiny_folder, tmp_path) -> None:
    (tmp_path / "a.txt").write_text(TEXT * 3)
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    value = json.loads(cli("inspect", tmp_path / "a.txt", "--json")[1])
    assert value == {"kind": "text", "lines": 3, "bytes": 3 * len(TEXT)}
    value = json.loads(cli("inspect", tmp_path, "--json")[1])
    assert (value["kind"], value["files"], sum(value["formats"].values())) == ("corpus", 2, 2)
    assert value["bytes"] == sum(each.stat().st_size for each in tmp_path.iterdir())
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_bytes((tiny_folder / "tokenizer.json").read_bytes())
    value = json.loads(cli("inspect", tmp_path / "tokenizer", "--json")[1])
    assert (value["kind"], value["type"], value["tokens"]) == ("tokenizer", "BPE", 320)


def test_inspect_shows_shares_as_a_person_reads_them(cli, folder) -> None:
    shown = cli("inspect", folder / "s.parquet")[1]
    assert "value:" not in shown
    assert "vocabulary-subset" in shown


def test_a_table_is_not_written_onto_a_terminal(folder, tmp_path) -> None:
    from tests.terminals import on_terminal

    code, shown = on_terminal(80, "merge", folder / "counts.parquet", "-o", "-")
    assert code == 1
    assert "--out - is the terminal, and a frequency table is not text." in shown
