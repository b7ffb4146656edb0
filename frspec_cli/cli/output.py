"""Where commands put what they have to say: stdout is data, stderr is talk.

Commands never print. They call one `Output`, which knows whether a person (tables, bars) or a program (one JSON object)
is reading.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from frspec_cli.errors import as_flags


class _Amount(ProgressColumn):
    """How much is done of how much; the total may not be known yet."""

    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else f"{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}/{total}")


class Output:
    """One command's output. `as_json`: one object on stdout and no bars. `quiet`: no talk on stderr either."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.out = Console(soft_wrap=True, highlight=False)
        self.err = Console(stderr=True, soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """Talk: a line on stderr, unless quiet."""
        if not self.quiet:
            self.err.print(Text(as_flags(text)))

    def warn(self, text: str) -> None:
        """A warning on stderr, also when quiet: it says that a result is not quite what was asked for."""
        self.err.print(Text.assemble(("warning: ", "yellow"), as_flags(text)))

    def data(self, text: str, end: str = "\n") -> None:
        """Data: written to stdout as it is, at once."""
        sys.stdout.write(text + end)
        sys.stdout.flush()

    def json(self, value: Any) -> None:
        """One JSON object on one line of stdout."""
        self.data(as_flags(json.dumps(value, ensure_ascii=False)))

    def table(self, title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]], *, left: int = 1) -> None:
        """A table on stdout for people; nothing when a program reads. The first `left` columns are text."""
        if self.as_json:
            return
        table = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold")
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index < left else "right")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        console = self.out if self.out.is_terminal else Console(width=200, highlight=False)
        console.print(table)

    def result(self, value: dict[str, Any], line: str) -> None:
        """The end of a command: the JSON object for programs, else one closing line (it names the path written)."""
        if self.as_json:
            self.json(value)
        else:
            self.say(line)

    def progress(self) -> Progress:
        """A progress display on stderr; silent when a program reads, when quiet, or where stderr is no terminal."""
        return self._progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _Amount(), TimeElapsedColumn()
        )

    def long_progress(self, verb: str, *, whole_numbers: bool = False) -> Progress:
        """Like `progress`, with the time left and the task's field `talk`. whole_numbers: m/n in place of a percentage."""
        done = MofNCompleteColumn() if whole_numbers else TaskProgressColumn()
        talk = TextColumn("{task.fields[talk]}")
        return self._progress(TextColumn(verb), BarColumn(), done, talk, TimeRemainingColumn())

    def _progress(self, *columns: ProgressColumn) -> Progress:
        disable = self.as_json or self.quiet or not self.err.is_terminal
        return Progress(*columns, console=self.err, disable=disable, transient=True)
