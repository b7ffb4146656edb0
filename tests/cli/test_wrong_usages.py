"""What is typed wrongly, and the one sentence that each gives: what is wrong, where, and what to do."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from frspec_cli.cli import app, kinds
from frspec_cli.cli.examples import EXAMPLES

USAGE = {  # what is typed: the end of the sentence, or a part of it
    "genrate": "there is no command 'genrate'. Did you mean generate?",
    "gen": "there is no command 'gen'. Did you mean generate?",
    "xyzzy": "there is no command 'xyzzy'. See frspec --help.",
    "--bogus": "there is no option --bogus. See frspec --help.",
    "bench --prompt p.jsonl -o b": "there is no option --prompt. Did you mean --prompts?",
    "generate hi --limit 3x": "--limit 3x is not a whole number of at least 1. See frspec generate --help.",
    "generate hi --limit 0": "--limit 0 is not a whole number of at least 1. See frspec generate --help.",
    "generate hi --seed -1": "--seed -1 is not a whole number from 0 to 9,223,372,036,854,775,807. See frspec generate --help.",
    "generate hi --top-p half": "--top-p half is not a number. See frspec generate --help.",
    "generate hi --json=true": "--json is a switch and takes no value. See frspec generate --help.",
    "generate hi --model": "--model needs a value. See frspec generate --help.",
    "generate hello world": "the prompt is one argument, and world is another. Put the prompt in quotes.",
    "inspect": "PATH is missing. For example: frspec inspect subset.parquet",
    "inspect a b": "b is one argument too many. See frspec inspect --help.",
    "merge t.parquet": "--out is missing. For example: frspec merge part-1.parquet part-2.parquet --out counts.parquet",
    "build-vocab t.parquet --k 32m -o s": "--k 32m is not a whole number above 0.",
    "collect": "--out is missing. For example: " + EXAMPLES["collect"][0],
    "collect -o a": "--prompts is missing. For example: " + EXAMPLES["collect"][0],
    "collect a.jsonl --prompts b.jsonl -o c": "a.jsonl is one argument too many: the prompts are --prompts b.jsonl.",
    "count-freq t -t m -o o --encoder fats": "--encoder fats is not one of auto, fast, reference. Did you mean fast?",
    "build-vocab t --k 9 -o s --forced eso": "--forced eso is not one of all, eos, none. Did you mean eos?",
    "export-vocab s --to sglan -o o": "Did you mean sglang?",
    "generate hi --method frspc": "--method frspc is not one of ar, eagle, frspec, lookup. Did you mean frspec?",
    "generate hi --dtype fp32": "--dtype fp32 is not one of",
    "bench --prompts p --methods ar,egle -o b": "Did you mean eagle?",
}


@pytest.mark.parametrize("typed", USAGE)
def test_a_usage_error(typed, cli, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p").write_text('{"prompt": "fox"}\n')
    code, _, err = cli(*shlex.split(typed))
    said = " ".join(err.split())
    assert code == 2, err
    assert said.startswith("error: ")
    assert USAGE[typed] in said


MISPLACED = {  # what lies in the wrong place: what it is, and where it belongs
    "count-freq counts.parquet -t model -o o": "counts.parquet is a frequency table, not a file of text or prompts.",
    "count-freq s.parquet -t model -o o": "s.parquet is a vocabulary subset, not a file of text or prompts.",
    "build-vocab s.parquet --k 9 -m model -o o": "s.parquet is a vocabulary subset, not a frequency table.",
    "build-vocab answers.jsonl --k 9 -m model -o o": "answers.jsonl is a file of recorded answers, not a frequency table.",
    "merge counts.parquet s.parquet -o o": "s.parquet is a vocabulary subset, not a frequency table.",
    "coverage counts.parquet --on prompts.jsonl": "counts.parquet is a frequency table, not a vocabulary subset.",
    "coverage s.parquet prompts.jsonl --on counts.parquet": (
        "prompts.jsonl is a file of text or prompts, not a vocabulary subset."
    ),
    "export-vocab counts.parquet --to json -o o": "counts.parquet is a frequency table, not a vocabulary subset.",
    "import-vocab s.parquet -t model -o o": "s.parquet is a vocabulary subset already: there is nothing to import.",
    "import-vocab counts.parquet -t model -o o": "counts.parquet is a frequency table, not another project's draft vocab",
    "collect --prompts counts.parquet -m model -o o": "counts.parquet is a frequency table, not a file of text or prompts.",
    "train-draft prompts.jsonl -m model -o o": "prompts.jsonl is a file of text or prompts, not a file of recorded answers.",
    "generate hi -m head": "head is a draft head, not a model. Give it with --draft.",
    "generate hi -m model --draft model --method eagle": "model is a model, not a draft head. Give it with --model.",
    "generate hi -m model --draft head --vocab counts.parquet": "counts.parquet is a frequency table, not a vocabulary subset.",
    "generate --prompts s.parquet -m model": "s.parquet is a vocabulary subset, not a file of text or prompts.",
    "bench --prompts result.json -m model --methods ar -o o": "result.json is a result, not a file of text or prompts.",
    "replay counts.parquet -m model --draft head --vocab s.parquet -o o": (
        "counts.parquet is a frequency table, not a file of recorded answers."
    ),
    "report answers.jsonl --csv o": "answers.jsonl is a file of recorded answers, not a result.",
    "export-draft model --to eagle -o o": "model is a model, not a draft head. Give it with --model.",
}


@pytest.fixture
def places(folder: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of each kind, by a short name, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("counts.parquet", "s.parquet", "answers.jsonl", "prompts.jsonl", "head"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "model").symlink_to(tiny_folder)
    (tmp_path / "result.json").write_text(json.dumps({"prompts": 1, "methods": {}, "summary": {}}))
    return tmp_path


@pytest.mark.parametrize("typed", MISPLACED)
def test_a_file_in_the_wrong_place(typed, cli, places) -> None:
    code, _, err = cli(*shlex.split(typed))
    said = " ".join(err.split())
    assert code == 1, err
    assert f"error: {MISPLACED[typed]}" in said


def test_each_kind_belongs_somewhere() -> None:
    assert all(where.endswith(".") for _, where in kinds.KINDS.values())
    accepted = {kind for each in (*kinds.ACCEPTS.values(), *kinds._OWN.values()) for kind in each}
    assert accepted <= set(kinds.KINDS)
    assert {command for command, _ in kinds._OWN} <= set(app.COMMANDS)


def test_a_file_that_is_right_keeps_its_own_error(cli, places) -> None:
    (places / "broken.jsonl").write_text('{"prompt": 7}\n')
    code, _, err = cli("collect", "--prompts", "broken.jsonl", "-m", "model", "-o", "o")
    assert (code, "broken.jsonl, line 1" in err) == (1, True)


def test_models_that_lie_beside_it_are_proposed(cli, places) -> None:
    code, _, err = cli("count-freq", "prompts.jsonl", "-t", "modle", "-o", "o")
    assert (code, "Did you mean model?" in err) == (1, True)


def test_columns_are_proposed(cli, places) -> None:
    (places / "t.csv").write_text("content,label\nfox,a\n")
    code, _, err = cli("count-freq", "t.csv", "-t", "model", "--text-field", "contents", "-o", "o")
    assert (code, "has no column 'contents'" in err, "Did you mean content?" in err) == (1, True, True)


def test_at_least_forty_of_them() -> None:
    assert len(USAGE) + len(MISPLACED) >= 40
