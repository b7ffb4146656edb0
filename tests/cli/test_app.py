"""The command itself, as a process: what Ctrl-C says, and what happens if the reader of stdout goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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
