"""Each command once on a terminal of 60, 80 and 200 columns: it ends well, and no figure or name is cut."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from frspec_cli.cli import app
from frspec_cli.cli.layout import short
from frspec_cli.cli.output import Output
from tests.terminals import ESCAPES, on_terminal, terminal

WIDTHS = (60, 80, 200)


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


@pytest.mark.parametrize("name", app.COMMANDS)
def test_a_terminal_is_told_at_once_what_a_command_does(name) -> None:
    """The spinner is there before the command's own code runs, and gone when it ends."""
    said = []

    def command(**_: Any) -> None:
        assert Output._spinner is not None
        said.append(str(Output._spinner.renderable.text))  # type: ignore[attr-defined]

    with terminal(80) as shown:
        app._wrapped(name, command)(as_json=False, model="tiny")
    assert said == [f"{app.BUSY.get(name, 'loading tiny')} ..."]
    assert said[0].encode() in b"".join(shown)
    assert Output._spinner is None


@pytest.mark.parametrize("silent", [{"as_json": True}, {"as_json": False, "quiet": True}])
def test_no_spinner_where_nobody_looks_at_it(silent) -> None:
    with terminal(80) as shown:
        app._wrapped("env", lambda **_: None)(**silent)
    assert b"".join(shown) == b"\0end\0"


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
        shown = ESCAPES.sub(b"", output.err.file.getvalue().encode()).decode()
        assert "…" not in shown
        assert all(word in shown for word in talk.split())
