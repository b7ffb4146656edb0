"""Every command in README, docs and cards parses; the README's paths run as they are typed, in order."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.docs.commands import Line, all_lines, path_of, python_blocks
from tests.tiny import run_cli

README = ROOT / "README.md"
INSTALLED = ["-o", ".venv/.frspec-ready"]
"""For make: what `make setup` makes is there."""


def parse(arguments: list[str]) -> None:
    """Parses a command line as `frspec` would, and runs nothing. Raises what the command line would show."""
    from typer.main import get_command

    from frspec_cli.cli.app import app

    root: Any = get_command(app)
    context = root.make_context("frspec", ["env"])
    name, command, rest = root.resolve_command(context, arguments)
    command.make_context(name, list(rest), parent=context)


def test_every_frspec_command_parses() -> None:
    wrong = []
    lines = [line for line in all_lines() if line.arguments() is not None]
    assert len(lines) > 40
    for line in lines:
        try:
            parse([word for word in line.arguments() or [] if word != "..."])
        except Exception as error:
            wrong.append(f"{line}: {error}")
    assert wrong == []


def test_no_page_uses_a_name_that_was_given_up() -> None:
    from frspec_cli.cli.command import OLD_NAMES

    old = {name for names in OLD_NAMES.values() for name in names if name.startswith("--")} - OLD_NAMES.keys()
    assert "--suite" in old
    assert [
        str(line) for line in all_lines() if old & {word.partition("=")[0] for word in line.arguments() or []}
    ] == []


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--no-such"):
        parse(["build-vocab", "--model", "qwen3", "--k", "8", "--out", "x", "--no-such"])


def test_every_make_command_is_a_target_with_its_variables() -> None:
    lines = [line for line in all_lines() if line.words()[:1] == ["make"]]
    assert lines
    wrong = []
    for text in sorted({shlex.join(line.words()) for line in lines}):
        run = subprocess.run(
            [*shlex.split(text), "-n", *INSTALLED], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if run.returncode:
            wrong.append(f"{text}: {run.stderr.strip()}")
    assert wrong == []


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a clone holds for its user; the working folder."""
    for name in ("data", "docs", "recipes", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(lines: list[Line]) -> dict[str, str]:
    """Runs the lines in order; what each printed on stdout, by its text."""
    printed = {}
    for line in lines:
        arguments = line.arguments()
        assert arguments is not None, line
        code, out, err = run_cli(*arguments)
        assert code == 0, f"{line}\n{err}"
        printed[line.text] = out
    return printed


@pytest.mark.real
def test_the_path_from_logs_to_token_maps_runs_as_typed(clone: Path) -> None:
    printed = run(path_of("logs"))
    assert any("sglang.launch_server" in out for out in printed.values())
    ids = [int(line) for line in (clone / "out" / "qwen3-ids.txt").read_text().split()]
    assert len(ids) == 32768
    assert ids == sorted(set(ids))
    assert (clone / "out" / "qwen3-d2t.gguf").is_file()
    assert (clone / "out" / "hot_tokens.pt.manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(3600)  # five minutes on two cores that nothing else uses
def test_the_path_of_a_laptop_runs_as_typed(clone: Path) -> None:
    printed = run(path_of("laptop"))
    plain, drafted = (printed[f'frspec generate "Why is the sky blue?"{more}'] for more in ("", " --method ar"))
    assert plain
    assert drafted
    assert (clone / "out" / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(600)
def test_the_python_of_the_readme_runs(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = python_blocks(README)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "'value'" in capsys.readouterr().out
    assert (clone / "hot_tokens.pt").is_file()


def test_the_path_with_a_gpu_needs_only_what_its_first_line_names() -> None:
    export, *lines = path_of("gpu")
    assert export.text.startswith("export MODEL=")
    assert all(line.arguments() or line.words()[:1] == ["make"] for line in lines)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "recipes").glob("*.mk")))
def test_each_recipe_chains_all_steps(recipe: str) -> None:
    command = ["make", "-n", "report", f"RECIPE={recipe}", *INSTALLED, "BIN=bin", f"WORK=none/{recipe}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    steps = [shlex.split(line)[1:] for line in run.stdout.splitlines() if line.startswith("bin/frspec ")]
    for step in steps:
        parse(step)
    expected = ["build-vocab", "collect", "count-freq", "replay", "report"]
    if recipe != "qwen3.5-mtp":
        expected += ["bench", "tune"]
    if recipe not in ("qwen3.5-mtp", "llama3-8b-instruct"):
        expected += ["train-draft"]
    assert sorted(step[0] for step in steps) == sorted(expected)


def test_a_recipe_holds_variables_only() -> None:
    for path in (ROOT / "recipes").glob("*.mk"):
        first, *lines = path.read_text().splitlines()
        assert first.startswith("# ")
        assert all(line.startswith("#") or "?=" in line or ":=" in line for line in lines), path


def test_make_help_lists_targets_and_recipes_from_the_files() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    described = [line.split(":")[0] for line in makefile.splitlines() if " ## " in line and line[0].isalpha()]
    assert described
    assert all(f"  make {name} " in shown for name in described)
    assert all(f"  {path.stem} " in shown for path in (ROOT / "recipes").glob("*.mk"))


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_a_recipe_that_there_is_not() -> None:
    run = subprocess.run(["make", "-n", "head", "RECIPE=nosuch"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "no recipe nosuch; there are: gemma3-270m llama3-8b-instruct" in run.stderr
