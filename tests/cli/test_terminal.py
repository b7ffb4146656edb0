"""Each command once on a terminal of 60, 80 and 200 columns: it ends well, and no figure or name is cut."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from frspec_cli.cli import app
from frspec_cli.cli.layout import short
from frspec_cli.cli.output import Output

WIDTHS = (60, 80, 200)
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_END = b"\x00end\x00"


@contextmanager
def terminal(columns: int) -> Iterator[list[bytes]]:
    """Stdin, stdout and stderr of this process as a terminal; the list holds what it showed, once the block has ended."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        while not b"".join(shown[-2:]).endswith(_END):
            shown.append(os.read(master, 65536))

    reader = threading.Thread(target=read)
    reader.start()
    kept = [os.dup(number) for number in range(3)]
    try:
        for number in range(3):
            os.dup2(slave, number)
        with (
            open(1, "w", closefd=False) as out,
            open(2, "w", closefd=False) as err,
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            yield shown
    finally:
        for number, descriptor in enumerate(kept):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.write(slave, _END)
        reader.join()
        os.close(slave)
        os.close(master)


def on_terminal(columns: int, *arguments: Any) -> tuple[int, str]:
    """`frspec ARGUMENTS` on a terminal: (exit code, all that it showed, without colours and cursor movements)."""
    from frspec_cli.cli.app import main

    before, sys.argv, code = sys.argv, ["frspec", *map(str, arguments)], 0
    try:
        with terminal(columns) as shown:
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return code, _ESCAPES.sub(b"", b"".join(shown).removesuffix(_END)).decode()


@pytest.fixture(autouse=True)
def cells(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All cells of the tables that a command shows."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    seen: list[str] = []
    table = Output.table

    def recorded(self: Output, title: str, columns: Any, rows: Any, **options: Any) -> None:
        columns, rows = list(columns), [[str(cell) for cell in row] for row in rows]
        brief = options.get("brief") or columns
        seen.extend(cell for row in rows for header, cell in zip(columns, row, strict=True) if header in brief)
        table(self, title, columns, rows, **options)

    monkeypatch.setattr(Output, "table", recorded)
    return seen


COMMANDS = {
    "help": "--help",
    "count-freq": "count-freq {out}/text.jsonl -t {model} -o {out}/counts.parquet",
    "merge": "merge {files}/ids.parquet {files}/text.parquet -o {out}/merged.parquet",
    "build-vocab": "build-vocab {files}/text.parquet --k 290 --k 300 --model {model} --script-budget Latin=3 --pad "
    "-o {out}/subsets",
    "coverage": "coverage {run}/s.parquet --on {run}/answers.jsonl --k 40 --k 80 --k 100 --k 120 --k 140 --k 160",
    "export-vocab": "export-vocab {run}/s.parquet --to sglang -o {out}/s.pt",
    "import-vocab": "import-vocab {files}/ids.txt --tokenizer {model} -o {out}/s.parquet",
    "inspect": "inspect {run}/s.parquet",
    "collect": "collect {run}/prompts.jsonl --model {model} -n 4 --limit 2 -o {out}/a.jsonl {precision}",
    "import-answers": "import-answers {files}/batch.jsonl --model {model} -o {out}/a.jsonl",
    "train-draft": "train-draft {run}/answers.jsonl --model {model} --epochs 1 --taps 1,2 -o {out}/head {precision}",
    "export-draft": "export-draft {files}/eagle3 --to speculators -o {out}/head",
    "generate": "generate fox --model {model} {head} -n 4 {precision}",
    "verify": "verify --model {model} {head} -n 4 --limit 2 --prompts {run}/prompts.jsonl {precision}",
    "bench": "bench --suite {run}/prompts.jsonl --model {model} {head} --limit 2 -n 4 -o {out}/b.json {precision}",
    "replay": "replay {run}/answers.jsonl --model {model} {head} --limit 4 -o {out}/r.json {precision}",
    "doctor": "doctor --model {model} {head} --answers {run}/answers.jsonl --limit 2 --tree 2,1,3 {precision}",
    "tune": "tune {run}/answers.jsonl --model {model} {head} --contexts 24 --rounds 1 --prompts 1 --measured 1 --beams 1 "
    "--limit 2 -n 4 -o {out}/t.json {precision}",
    "profile": "profile --suite {run}/prompts.jsonl --model {model} {head} --limit 1 -n 4 -o {out}/p.json {precision}",
    "report": "report {files}/coverage.json -o {out}/report.html --csv {out}/report.csv",
    "fetch": "fetch",
    "env": "env",
}


@pytest.fixture(scope="module")
def files(folder: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read, besides the tiny bench: two tables, a list of ids, an EAGLE-3 head."""
    from tests.heads.heads import eagle3, write
    from tests.tiny import TEXT, run_cli

    made = tmp_path_factory.mktemp("terminal")
    text = made / "text.jsonl"
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in TEXT))
    (made / "ids.txt").write_text("0\n9\n7\n")
    for source in (text, made / "ids.txt"):
        assert run_cli("count-freq", source, "-t", tiny_folder, "-o", source.with_suffix(".parquet"))[0] == 0
    write(made / "eagle3", eagle3())
    code, printed, _ = run_cli("coverage", folder / "s.parquet", "--on", folder / "answers.jsonl", "--json")
    assert code == 0
    (made / "coverage.json").write_text(printed)
    choice = {"message": {"content": "hen", "role": "assistant"}, "finish_reason": "stop", "token_ids": [7, 0]}
    (made / "batch.jsonl").write_text(json.dumps({"choices": [choice], "prompt_token_ids": [5]}) + "\n")
    return made


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_terminal(name, columns, cells, files, folder, tiny_folder, tmp_path) -> None:
    (tmp_path / "text.jsonl").write_bytes((files / "text.jsonl").read_bytes())
    places = {"run": folder, "files": files, "out": tmp_path, "model": tiny_folder}
    options = {"precision": "--device cpu --dtype float32", "head": f"--draft {folder}/head --vocab {folder}/s.parquet"}
    code, shown = on_terminal(columns, *COMMANDS[name].format(**places, **options).split())
    assert code == 0, shown
    assert "Traceback" not in shown
    assert "…" not in shown
    lines = shown.splitlines()
    assert [cell for cell in cells if not any(cell.strip() in line or short(cell) in line for line in lines)] == [], (
        shown
    )
    if columns == 60:
        tables = [line for line in lines if line.startswith(("┃", "│")) and name != "help"]
        assert all(len(line) <= columns for line in tables), shown


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_demo_on_a_terminal(columns, cells, folder, tiny_folder, tmp_path, monkeypatch) -> None:
    """Of a tiny model: what the demo shows does not depend on which."""
    from frspec_cli.bench import demo

    monkeypatch.setattr(demo, "DEFAULT_MODEL", str(tiny_folder))
    monkeypatch.setattr(demo, "PROMPTS", demo.PROMPTS[:1])
    shipped = partial(demo.load_pipeline, draft=str(folder / "head"), vocab=str(folder / "s.parquet"))
    monkeypatch.setattr(demo, "load_pipeline", shipped)
    code, shown = on_terminal(columns, "demo", "--out", tmp_path)
    assert code == 0, shown
    assert "…" not in shown
    assert [cell for cell in cells if not any(cell in line for line in shown.splitlines())] == [], shown
    assert all(
        len(line) <= columns for line in shown.splitlines() if line.startswith(("┃", "│", "plain ", "EAGLE-2 "))
    ), shown
    assert "milliseconds per token" in shown
    assert "With 128k" in " ".join(shown.split())


def test_every_command_is_here() -> None:
    assert {*COMMANDS, "demo"} == {"help", *app.COMMANDS}


def test_progress_bars_are_wrapped_and_not_cut() -> None:
    talk = "12,345,678 documents, 1,234.5 MB/s, 123.45 M tokens/s"
    for columns in WIDTHS:
        output = Output()
        output.err = Console(file=io.StringIO(), force_terminal=True, width=columns)
        with output.long_progress("counting") as progress:
            progress.add_task("counting", total=10**9, completed=12_345_678, talk=talk)
            progress.refresh()
        shown = _ESCAPES.sub(b"", output.err.file.getvalue().encode()).decode()
        assert "…" not in shown
        assert all(word in shown for word in talk.split())
