"""Where commands put what they have to say: stdout is data, stderr is talk.

Commands never print. They call one `Output`, which knows whether a person (tables, bars) or a program (one JSON object)
is reading.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
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
from rich.table import Column, Table
from rich.text import Text

from frspec_cli.errors import as_flags
from frspec_cli.outputs import is_stdout
from frspec_cli.progress import Callbacks

_ANY_WIDTH = 10_000


class _Amount(ProgressColumn):
    """How much is done of how much; the total may not be known yet."""

    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else f"{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}/{total}")


def _text(template: str) -> TextColumn:
    """A column of text that is wrapped, not cut, if the terminal is narrow."""
    return TextColumn(template, table_column=Column(overflow="fold"))


class NowAndThen:
    """A line a minute on what is done, where there is no terminal for a bar."""

    SECONDS = 60.0

    def __init__(self, output: Output, verb: str) -> None:
        self.output, self.verb = output, verb
        self.said = time.monotonic()

    def __call__(self, done: int, total: int, talk: str = "") -> None:
        """done, total: amounts of work (total 0 if not known). talk: more words."""
        if self.output.err.is_terminal or time.monotonic() - self.said < self.SECONDS:
            return
        self.said = time.monotonic()
        self.output.say(f"{self.verb}: {done:,}{f' of {total:,}' if total else ''}{f', {talk}' if talk else ''}")


class Output:
    """One command's output.

    as_json: one object on stdout and no progress bars.
    quiet: no talk on stderr either.
    out: the file that the command writes; if that is stdout, everything else goes to stderr.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False, out: Path | None = None) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._stdout_taken = out is not None and is_stdout(out)
        self.err = Console(stderr=True, soft_wrap=True, highlight=False)
        self.out = self.err if self._stdout_taken else Console(soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """Talk: a line on stderr, unless quiet."""
        if not self.quiet:
            self.err.print(Text(as_flags(text)))

    def warn(self, text: str) -> None:
        """A warning on stderr, also when quiet: it says that a result is not quite what was asked for."""
        self.err.print(Text.assemble(("warning: ", "yellow"), as_flags(text)))

    def data(self, text: str, end: str = "\n") -> None:
        """Data: written to stdout as it is, at once; a byte of a file's name that is not UTF-8 is escaped (\\udcff)."""
        stream = sys.stderr if self._stdout_taken else sys.stdout
        stream.write(text.encode("utf-8", "backslashreplace").decode() + end)
        stream.flush()

    def json(self, value: Any) -> None:
        """One JSON object on one line of stdout."""
        self.data(as_flags(json.dumps(value, ensure_ascii=False)))

    def table(self, title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]], *, left: int = 1) -> None:
        """A table on stdout for people; nothing when a program reads. The first `left` columns are text.

        Nothing in it is ever cut: on a terminal that is too narrow, each row becomes a list of its cells.
        """
        if self.as_json:
            return
        headers, cells = list(columns), [[str(cell) for cell in row] for row in rows]
        table = Table(header_style="bold")
        for index, header in enumerate(headers):
            table.add_column(header, justify="left" if index < left else "right", no_wrap=True)
        for row in cells:
            table.add_row(*map(Text, row))
        if title:
            self.out.print(Text(title, style="bold"))
        width = Measurement.get(self.out, self.out.options.update(max_width=_ANY_WIDTH), table).maximum
        if self.out.is_terminal and width > self.out.width:
            self._list(headers, cells, left)
        else:
            table.width = width
            self.out.print(table)

    def _list(self, headers: list[str], cells: list[list[str]], left: int) -> None:
        """The cells of a table below each other: a row's text columns, and its figures under that."""
        widest = max(map(len, headers[left:]), default=0)
        for row in cells:
            self.out.print(Text(", ".join(cell for cell in row[:left] if cell.strip()), style="bold"))
            for header, cell in zip(headers[left:], row[left:], strict=True):
                if cell:
                    self.out.print(Text(f"  {header:<{widest}}  {cell}"))

    def result(self, value: dict[str, Any], line: str) -> None:
        """The end of a command: the JSON object for programs, else one closing line (it names the path written)."""
        if self.as_json:
            self.json(value)
        else:
            self.say(line)

    def progress(self) -> Progress:
        """A progress display on stderr; silent if a program reads, if quiet, or if stderr is not a terminal."""
        return self._progress(
            SpinnerColumn(), _text("{task.description}"), *self._bar(45), _Amount(), TimeElapsedColumn()
        )

    @contextmanager
    def callbacks(self, verb: str) -> Iterator[Callbacks]:
        """A run's progress callbacks: a bar of what is finished, and sentences and warnings beside it."""
        with self.progress() as progress:
            task, now_and_then = progress.add_task(verb, total=None), self.now_and_then(verb)

            def begin(total: int) -> None:
                progress.reset(task, total=total)
                now_and_then(0, total)

            def finished(count: int) -> None:
                progress.advance(task, count)
                now_and_then(int(progress.tasks[task].completed), int(progress.tasks[task].total or 0))

            yield Callbacks(say=self.say, warn=self.warn, begin=begin, finished=finished)

    def now_and_then(self, verb: str) -> NowAndThen:
        """Progress for a run that no terminal shows: to be called with what is done, of how much, as it is done."""
        return NowAndThen(self, verb)

    def long_progress(self, verb: str, *, whole_numbers: bool = False) -> Progress:
        """Like `progress`, with the time left and the task's field `talk`. whole_numbers: m/n in place of a percentage."""
        done = MofNCompleteColumn() if whole_numbers else TaskProgressColumn()
        return self._progress(_text(verb), *self._bar(85), done, _text("{task.fields[talk]}"), TimeRemainingColumn())

    def _bar(self, others: int) -> list[ProgressColumn]:
        """A bar in the room that columns of the width `others` leave; none if there is too little."""
        room = min(40, self.err.width - others)
        return [BarColumn(bar_width=room)] if room >= 5 else []

    def _progress(self, *columns: ProgressColumn) -> Progress:
        disable = self.as_json or self.quiet or not self.err.is_terminal
        return Progress(*columns, console=self.err, disable=disable, transient=True)
