"""The recorded sessions of docs/walks: each `$` line is typed again, and what it shows is compared.

    python -m tests.docs.walk docs/walks/serving.md    # types the lines in a fresh folder and writes down what they show

A session is all blocks ```console of a page, in one working folder that holds what a clone does. `frspec` runs in this
process, on a terminal of 80 columns and without bars and spinners; any other line runs in a shell.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from frspec_cli.storage import cache_folder
from tests.conftest import ROOT
from tests.terminals import on_terminal

COLUMNS = 80
WALKS = sorted((ROOT / "docs" / "walks").glob("*.md"))
_EXPORT = re.compile(r"export ((?:\w+=\S+ ?)+)")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_RATE = re.compile(r"\d[\d,]*(?:\.\d+)?(?= ?(?:s\b|ms\b|[kM]B/s|M?\s?tokens/s|documents/s))")


@dataclass(frozen=True)
class Step:
    """One line that is typed. command: without the prompt, continued lines joined. shown: what the page has below it."""

    command: str
    shown: tuple[str, ...]


def steps(page: str) -> list[Step]:
    """The session of a page's text."""
    found: list[Step] = []
    for block in re.findall(r"```console\n(.*?)```", page, flags=re.DOTALL):
        lines = block.replace("\\\n", "").splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        for first, last in zip(starts, [*starts[1:], len(lines)], strict=True):
            command = re.sub(r"  +", " ", lines[first].removeprefix("$ "))
            found.append(Step(command, tuple(_trimmed(lines[first + 1 : last]))))
    return found


def play(page: str) -> Iterator[tuple[Step, list[str]]]:
    """Types the lines of a page's text in the working folder; yields each with what it shows now, errors included."""
    environment = names_in(page)
    for step in steps(page):
        if match := _EXPORT.fullmatch(step.command):
            environment = dict(pair.split("=", 1) for pair in match[1].split()) | environment
            yield step, []
            continue
        with patch.dict(os.environ, environment):
            shown = _run(step.command)
        yield step, _trimmed(shown.replace("\r", "").replace(str(cache_folder()), "~/.cache/frspec").splitlines())


def _run(command: str) -> str:
    if not command.startswith("frspec "):
        run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        return run.stdout + run.stderr
    with still():
        return on_terminal(COLUMNS, *shlex.split(os.path.expandvars(command))[1:])[1]


@contextmanager
def still() -> Iterator[None]:
    """Without what moves: bars and spinners, which a terminal takes away again."""
    from frspec_cli.cli.output import Output, Progress

    class Hidden(Progress):
        def __init__(self, *columns: object, **settings: object) -> None:
            super().__init__(*columns, **{**settings, "disable": True})  # type: ignore[arg-type]

    with patch("frspec_cli.cli.output.Progress", Hidden), patch.object(Output, "begin"):
        yield


def comparable(step: Step, shown: list[str], differs: str) -> list[str]:
    """The lines as they are compared.

    differs: what is not the same on every machine: "rates" or all "numbers".
    What a model wrote is left out: a `generate` is compared from its closing line on.
    """
    lines = shown[-1:] if step.command.startswith("frspec generate") else shown
    if differs == "rates":
        return [_RATE.sub("#", line) for line in lines]
    return [re.sub(r" {2,}|─+|━+", " ", _NUMBER.sub("#", line)) for line in lines]  # a column is as wide as its numbers


def names_in(page: str) -> dict[str, str]:
    """What the page's variables stand for here: `<!-- recorded with: MODEL=smollm2-135m -->`."""
    match = re.search(r"<!-- recorded with: (.*) -->", page)
    return dict(pair.split("=", 1) for pair in match[1].split()) if match else {}


def differs_in(page: str) -> str:
    """What the page says about itself in `<!-- differs: rates -->`."""
    match = re.search(r"<!-- differs: (rates|numbers) -->", page)
    assert match, "the page does not say what differs from machine to machine"
    return match[1]


def recorded(page: str) -> str:
    """The page's text with what its lines show now."""
    shown = iter([lines for _, lines in play(page)])

    def block(match: re.Match[str]) -> str:
        out, skipping = [], False
        for line in match[1].splitlines():
            typed = line.startswith("$ ") or (out and out[-1].endswith("\\") and not skipping)
            if typed:
                out.append(line)
                skipping = False
                if not line.endswith("\\"):
                    out += next(shown)
                    skipping = True
        return "```console\n" + "\n".join(out) + "\n```"

    return re.sub(r"```console\n(.*?)```", block, page, flags=re.DOTALL)


def _trimmed(lines: list[str]) -> list[str]:
    """Without spaces at the ends of lines, and without empty lines at the end."""
    lines = [line.rstrip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def fresh_folder(folder: Path) -> None:
    """Puts into `folder` what a clone holds for its user."""
    for name in ("data", "docs", "recipes", "Makefile"):
        (folder / name).symlink_to(ROOT / name)


if __name__ == "__main__":
    os.environ["TERM"] = "xterm-256color"
    for name in sys.argv[1:]:
        path = Path(name).resolve()
        with tempfile.TemporaryDirectory() as scratch:
            fresh_folder(Path(scratch))
            os.chdir(scratch)
            path.write_text(recorded(path.read_text(encoding="utf-8")), encoding="utf-8")
