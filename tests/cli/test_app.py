"""The command itself, as a process: what Ctrl-C says, and what happens if the reader of stdout goes away."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from frspec_cli.cli.output import Output

IMPORTS_UNTIL_TOLD = """
import sys

class Gate:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            print("importing", flush=True)
            sys.stdin.read()

sys.meta_path.insert(0, Gate())
from frspec_cli.__main__ import main
main()
"""


def test_an_interrupt_while_it_is_still_importing() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", IMPORTS_UNTIL_TOLD, "env"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert (process.wait(), process.stderr.read()) == (130, "interrupted\n")


def test_an_interrupt_inside_a_command(tmp_path: Path) -> None:
    """The command reads its prompts from a pipe that this test holds open: it waits there until it is interrupted."""
    pipe = tmp_path / "prompts.jsonl"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "frspec_cli", "generate", "--prompts", str(pipe)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        open(pipe, "w"),  # opens once the command reads
    ):
        process.send_signal(signal.SIGINT)
        assert (process.wait(), *process.communicate()) == (130, "", "interrupted\n")


@pytest.fixture
def prompts(folder: Path, tiny_folder: Path) -> list[Any]:
    return [folder / "prompts.jsonl", "--model", tiny_folder, "--device", "cpu", "--dtype", "float32", "-n", 3]


def test_an_interrupted_run_says_what_is_kept_and_how_it_resumes(cli, prompts, tmp_path, monkeypatch) -> None:
    from frspec_cli.answers import collect

    answer, calls = collect._answer, iter((False, True))

    def interrupted(*arguments: Any) -> Any:
        if next(calls):
            raise KeyboardInterrupt
        return answer(*arguments)

    out = tmp_path / "my answers.jsonl"
    arguments = ["collect", *prompts, "--batch-size", 4, "-o", out]
    with monkeypatch.context() as patch:
        patch.setattr(collect, "_answer", interrupted)
        code, _, err = cli(*arguments)
    command = f"frspec {shlex.join(map(str, arguments))}"
    assert (code, err) == (130, f"interrupted: what is done is kept in {out}.ledger. To resume, run: {command}\n")
    code, _, err = cli(*arguments)
    assert (code, "resuming: 4 of 8 answers are there" in err) == (0, True)


def test_interrupted_before_anything_was_finished(cli, prompts, tmp_path, monkeypatch) -> None:
    from frspec_cli.bench import suite

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "measure_prompt", interrupted)
    code, _, err = cli("bench", "--suite", *prompts, "--methods", "ar", "-o", tmp_path / "b.json")
    assert (code, err) == (130, "interrupted: nothing had been finished yet, so there is nothing to resume.\n")


def test_without_a_terminal_a_line_a_minute(monkeypatch, capsys) -> None:
    clock = iter([0.0, 10.0, 61.0, 62.0, 121.0])
    monkeypatch.setattr("frspec_cli.cli.output.time", SimpleNamespace(monotonic=lambda: next(clock)))
    now_and_then = Output().now_and_then("measuring")
    for done in (1, 2, 3):
        now_and_then(done, 1500, "7 tokens/s")
    assert capsys.readouterr().err == "measuring: 2 of 1,500, 7 tokens/s\n"


def test_a_reader_that_goes_away_is_not_an_error_of_ours() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [sys.executable, "-m", "frspec_cli", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (1, "")


def test_python_dash_m_is_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "frspec_cli", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == "frspec 0.1.0\n"


def test_the_first_module_loads_nothing_before_it_can_be_interrupted() -> None:
    script = (
        "import sys; before = set(sys.modules); import frspec_cli.__main__; print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True, env=_path())
    assert run.stdout.split() == ["__future__", "frspec_cli", "frspec_cli.__main__"]


def _path() -> dict[str, str]:
    import frspec_cli

    return os.environ | {"PYTHONPATH": str(Path(frspec_cli.__file__).parent.parent)}


def test_a_path_of_any_option_may_begin_at_home(cli, tmp_path: Path, monkeypatch) -> None:
    """No shell expands `--option=~/file`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "prompts.jsonl").write_text("not JSON\n")
    assert f"{tmp_path}/prompts.jsonl, line 1" in cli("generate", "--prompts=~/prompts.jsonl")[2]
