"""What `--help` shows, and the names that options have."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from typer.main import get_command

from frspec_cli.cli import app
from frspec_cli.cli.examples import EXAMPLES
from frspec_cli.cli.help import columns, shell_lines

WIDTHS = (40, 60, 80, 200)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def parsed(*arguments: Any) -> dict[str, Any]:
    """What a command would be called with."""
    group = get_command(app.app)
    context = group.make_context("frspec", [str(each) for each in arguments])
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    return dict(command.make_context(name, rest, parent=context).params)


def test_commands_are_in_groups_by_the_flow_of_the_work(cli) -> None:
    code, shown, _ = cli("--help")
    titles = [line.removesuffix(":") for line in shown.splitlines() if re.fullmatch(r"\S.*:", line)]
    assert (code, titles) == (0, [*app.GROUPS, "Options"])
    assert list(app.GROUPS) == ["Count and cut", "Draft heads", "Generate and measure", "Files and models"]
    names = re.findall(r"^  ([a-z][a-z-]+) {2,}\S", shown, re.MULTILINE)
    assert names == list(app.COMMANDS)


def test_without_a_command_the_same_help_and_a_usage_error(cli) -> None:
    assert cli()[0] == 2
    assert cli()[1] == cli("--help")[1]
    assert cli("help") == cli("--help")
    assert cli("help", "bench") == cli("bench", "--help")


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", ["", *app.COMMANDS])
def test_no_line_of_help_is_wider_than_the_terminal(name, columns, cli, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    code, shown, _ = cli(*name.split(), "--help")
    wide = [line for line in shown.splitlines() if len(line) > columns and len(line.split()) > 1 and "|" not in line]
    assert (code, wide) == (0, [])
    assert "<" not in shown.replace("<k>", "").replace("<|", "")
    assert "…" not in shown


@pytest.mark.parametrize("name", app.COMMANDS)
def test_a_commands_help_is_grouped_and_ends_with_an_example(name, cli) -> None:
    _, shown, _ = cli(name, "--help")
    titles = [line.removesuffix(":") for line in shown.splitlines() if re.fullmatch(r"\S.*:", line)]
    assert titles[-2:] == ["Output", "Example"]
    assert shown.startswith(f"Usage: frspec {name} [OPTIONS]")
    example = shown.partition("Example:\n")[2].replace("\\\n", " ")
    assert shlex.split(example) == shlex.split(" ".join(EXAMPLES[name]))


@pytest.mark.parametrize("command", [each for examples in EXAMPLES.values() for each in examples])
def test_examples_parse(command) -> None:
    assert parsed(*shlex.split(command)[1:])


def test_every_command_has_an_example() -> None:
    assert set(EXAMPLES) == set(app.COMMANDS)


@pytest.mark.parametrize("width", [30, 50, 78])
def test_a_command_is_broken_where_a_shell_lets_it(width) -> None:
    command = "frspec generate \"Tell me about 'owls'.\" --prompts a.jsonl --method eagle --json --out 'my file.json'"
    lines = shell_lines(command, width)
    assert shlex.split(lines.replace("\\\n", " ")) == shlex.split(command)
    assert len(lines.splitlines()) > 1 or width == 78


def test_a_long_name_has_its_meaning_on_the_next_line() -> None:
    assert columns([("--a-very-long-option NAME=VALUE", "What it is.")], 80) == (
        "  --a-very-long-option NAME=VALUE\n                             What it is."
    )


def test_colours_are_as_the_environment_wishes(cli, monkeypatch) -> None:
    assert "\x1b[" not in cli("--help")[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1mCount and cut:" in cli("--help")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in cli("--help")[1]


OLD = {  # what was typed before, or is typed elsewhere: what is shown now
    "collect p.jsonl -o a": "collect --prompts p.jsonl -o a",
    "collect --suite p.jsonl -o a": "collect --prompts p.jsonl -o a",
    "bench --suite p.jsonl -o b": "bench --prompts p.jsonl -o b",
    "bench --prompts p --method ar -o b": "bench --prompts p --methods ar -o b",
    "bench --prompts p --methods ar --methods lookup -o b": "bench --prompts p --methods ar,lookup -o b",
    "bench --prompts p --k 4096 --k 8192 -o b": "bench --prompts p --k 4k,8k -o b",
    "profile --suite p.jsonl -o b": "profile --prompts p.jsonl -o b",
    "generate hi --methods ar": "generate hi --method ar",
    "generate --suite p.jsonl": "generate --prompts p.jsonl",
    "verify --methods lookup": "verify --method lookup",
    "doctor --prompts p.jsonl": "doctor --answers p.jsonl",
    "build-vocab c.parquet --k 9 -o s --format sglang --format json": "build-vocab c.parquet --k 9 -o s --to sglang,json",
    "build-vocab c.parquet --k 9 -o s --mix a=1 --mix b=2": "build-vocab c.parquet --k 9 -o s --mix a=1,b=2",
    "export-vocab s --format json -o o": "export-vocab s --to json -o o",
    "export-draft h --format eagle -o o": "export-draft h --to eagle -o o",
    "count-freq c --model m -o o": "count-freq c --tokenizer m -o o",
    "coverage s --on t -m m": "coverage s --on t --tokenizer m",
    "import-vocab f --model m -o o": "import-vocab f --tokenizer m -o o",
    "import-answers f -m m -o o": "import-answers f -t m -o o",
    "tune a.jsonl --prompts 3 --beams 1,2": "tune a.jsonl --measured-prompts 3 --beams 1 --beams 2",
    "replay a.jsonl --by task,length -o o": "replay a.jsonl --by task --by length -o o",
    "build-vocab c -m m --k 9 -o s": "build-vocab c --model m --k 9 -o s",
}


@pytest.mark.parametrize("old", OLD)
def test_old_names_still_work_and_are_not_shown(old, cli) -> None:
    before, now = parsed(*old.split()), parsed(*OLD[old].split())
    if old.startswith("collect p"):
        before["prompts"], before["prompts_argument"] = before["prompts_argument"], None
    assert before == now
    shown = cli(old.split()[0], "--help")[1]
    gone = {word for word in old.split() if word.startswith("--")} - set(OLD[old].split())
    assert [name for name in gone if re.search(rf"^  (-\w, )*{name}\b", shown, re.MULTILINE)] == []


def test_completion_knows_commands_options_and_nothing_heavy(cli, monkeypatch) -> None:
    monkeypatch.setenv("_FRSPEC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "frspec cou")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert cli()[1].split() == ["count-freq"]
    monkeypatch.setenv("COMP_WORDS", "frspec generate --tem")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert cli()[1].split() == ["--temperature"]


COMPLETED = {  # the words so far, the last one unfinished: what may follow
    "frspec generate --model smol": ["smollm2-135m"],
    "frspec count-freq text -t mod": ["model"],
    "frspec export-vocab s.parquet --to sg": ["sglang"],
    "frspec build-vocab t --to fr": ["fr-spec"],
    "frspec export-draft head --to spec": ["speculators"],
    "frspec coverage sub": ["sub/", "subset.parquet"],
    "frspec generate hi --vocab subs": ["subset.parquet"],
    "frspec generate hi --dtype float": ["float16", "float32", "float64"],
    "frspec generate hi --draft m": ["mtp", "model"],
    "frspec bench --methods ar,l": ["ar,lookup"],
    "frspec generate --method ea": ["eagle"],
    "frspec bench --out nosuch/x": [],
}


@pytest.mark.parametrize("words", COMPLETED)
def test_completion_of_values(words, cli, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("model", "sub"):
        (tmp_path / folder).mkdir()
    for file in ("model/config.json", "subset.parquet", "notes.md"):
        (tmp_path / file).write_text("{}")
    monkeypatch.setenv("_FRSPEC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert cli()[1].split() == COMPLETED[words]
