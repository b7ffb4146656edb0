"""The recorded sessions of docs/walks, typed again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.walk import WALKS, Step, comparable, differs_in, fresh_folder, play, recorded, steps

PAGE = """<!-- differs: rates -->
```console
$ export NAME=fox
$ echo the \\
    $NAME
the fox
$ ls here
```
words
```console
$ frspec env --no-such
error: there is no option --no-such.
See frspec env --help.
```
"""


def compare(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types the lines of docs/walks/NAME.md in a folder like a clone, and compares what they show."""
    fresh_folder(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TERM", "xterm-256color")
    for variable in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    page = (ROOT / "docs" / "walks" / f"{name}.md").read_text(encoding="utf-8")
    differs, typed = differs_in(page), 0
    for step, shown in play(page):
        expected = comparable(step, list(step.shown), differs)
        assert comparable(step, shown, differs) == expected, f"$ {step.command}"
        typed += 1
    assert typed == len(steps(page)) > 8


@pytest.mark.real
def test_from_logs_to_a_token_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare("serving", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [page.stem for page in WALKS if page.stem != "serving"])
def test_a_walk_with_a_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(name, tmp_path, monkeypatch)


def test_the_lines_of_a_page() -> None:
    assert [(step.command, step.shown) for step in steps(PAGE)] == [
        ("export NAME=fox", ()),
        ("echo the $NAME", ("the fox",)),
        ("ls here", ()),
        ("frspec env --no-such", ("error: there is no option --no-such.", "See frspec env --help.")),
    ]


def test_a_session_is_typed_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAME", raising=False)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "new").touch()
    assert recorded(PAGE) == PAGE.replace("$ ls here\n", "$ ls here\nnew\n")
    assert "NAME" not in os.environ
    assert [shown for _, shown in play(PAGE)][:3] == [[], ["the fox"], ["new"]]


def test_what_is_compared() -> None:
    lines = ["read 8 documents in 1.5 s (2.3 kB/s)", "│ 1,024 │ 12.3 tokens/s │"]
    assert comparable(Step("frspec inspect x", ()), lines, "rates") == [
        "read 8 documents in # s (# kB/s)",
        "│ 1,024 │ # tokens/s │",
    ]
    assert comparable(Step("frspec inspect x", ()), lines, "numbers")[0] == "read # documents in # s (# kB/s)"
    assert comparable(Step("frspec generate x", ()), ["The sky", "8 tokens"], "rates") == ["8 tokens"]
