"""Where commands put what they have to say: stdout is data, stderr is talk.

Commands never print. They call one `Output`, which knows whether a person (tables, bars) or a program (one JSON object)
is reading.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.table import Column
from rich.text import Text

from frspec_cli.cli.layout import framed, stacked, tab_separated, wrapped
from frspec_cli.errors import as_flags
from frspec_cli.outputs import is_stdout
from frspec_cli.progress import Callbacks


def console(stream: TextIO) -> Console:
    """A console that is a terminal if the stream is; in colours if it is, or as NO_COLOR and FORCE_COLOR say."""
    terminal = stream.isatty()
    colours: Literal["auto", "standard"] = "auto" if terminal or not os.environ.get("FORCE_COLOR") else "standard"
    return Console(
        stderr=stream is sys.stderr, soft_wrap=True, highlight=False, force_terminal=terminal, color_system=colours
    )


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

    _spinner: ClassVar[Status | None] = None

    def __init__(self, *, as_json: bool = False, quiet: bool = False, out: Path | None = None) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._stdout_taken = out is not None and is_stdout(out)
        self.err = console(sys.stderr)
        self.out = self.err if self._stdout_taken else console(sys.stdout)
        self._tables = 0

    @classmethod
    def begin(cls, what: str) -> None:
        """On a terminal a spinner says what is done ("loading smollm2-135m") until there is a bar, a table or a result."""
        err = console(sys.stderr)
        if err.is_terminal:
            cls._spinner = err.status(Text(f"{what} ..."))
            cls._spinner.start()

    @classmethod
    def busy(cls, what: str) -> None:
        """The spinner, if it is still there, says what is done now."""
        if cls._spinner is not None:
            cls._spinner.update(Text(f"{what} ..."))

    @classmethod
    def rest(cls) -> None:
        """Stops the spinner, if there is one."""
        if cls._spinner is not None:
            cls._spinner.stop()
            cls._spinner = None

    def say(self, text: str) -> None:
        """Talk: a line on stderr, unless quiet."""
        if not self.quiet:
            self.err.print(Text(self._fitted(as_flags(text))))

    def warn(self, text: str) -> None:
        """A warning on stderr, also when quiet: it says that a result is not quite what was asked for."""
        lines = self._fitted(f"warning: {as_flags(text)}")
        self.err.print(Text.assemble(("warning:", "yellow"), lines.removeprefix("warning:")))

    def _fitted(self, text: str) -> str:
        return wrapped(text, self.err.width) if self.err.is_terminal else text

    def data(self, text: str, end: str = "\n") -> None:
        """Data: written to stdout as it is, at once; a byte of a file's name that is not UTF-8 is escaped (\\udcff)."""
        self.rest()
        stream = sys.stderr if self._stdout_taken else sys.stdout
        stream.write(text.encode("utf-8", "backslashreplace").decode() + end)
        stream.flush()

    def json(self, value: Any) -> None:
        """One JSON object on one line of stdout."""
        self.data(as_flags(json.dumps(value, ensure_ascii=False)))

    def table(
        self,
        title: str,
        columns: Iterable[str],
        rows: Iterable[Iterable[Any]],
        *,
        left: int = 1,
        brief: Sequence[str] | None = None,
    ) -> None:
        """A table on stdout, or nothing if the command gives JSON.

        left: the number of columns, from the first, that are text.
        brief: the columns that a terminal shows; None: all.

        Nothing in it is ever cut. In a pipe it is tab-separated, without a frame; on a terminal that is too narrow the
        headers are wrapped, then intervals shortened, then each row becomes a list of its cells.
        """
        self.rest()
        if self.as_json:
            return
        headers, cells = list(columns), [[str(cell) for cell in row] for row in rows]
        if not self.out.is_terminal:
            self._pipe(title, headers, cells)
            return
        if brief is not None:
            shown = [index for index, header in enumerate(headers) if header in brief]
            headers, cells = [headers[index] for index in shown], [[row[index] for index in shown] for row in cells]
        if title:
            self.out.print(Text(wrapped(title, self.out.width), style="bold"))
        table = framed(headers, cells, left=left, width=self.out.width)
        if table is not None:
            self.out.print(table)
            return
        for name, lines in stacked(headers, cells, left):
            self.out.print(Text(name, style="bold"))
            for line in lines:
                self.out.print(Text(line))

    def lines(self, text: str) -> None:
        """Text for people beside a table, on stdout; nothing if the command gives JSON."""
        self.rest()
        if not self.as_json:
            self.out.print(Text(wrapped(text, self.out.width) if self.out.is_terminal else text))

    def _pipe(self, title: str, headers: list[str], cells: list[list[str]]) -> None:
        """A table for a program: its title is talk, and a line is empty before the next."""
        if title:
            self.say(title)
        self.data("\n" * bool(self._tables) + tab_separated(headers, cells))
        self._tables += 1

    @contextmanager
    def filling(self) -> Iterator[Callable[[str, Sequence[str], list[list[str]]], None]]:
        """A table that fills while a command measures: to be called with title, columns and the rows so far.

        It is gone at the end, when the command shows the whole. Off a terminal, a line a minute with the title.
        """
        if not self.err.is_terminal or self.quiet or self.as_json:
            said = time.monotonic()

            def tell(title: str, columns: Sequence[str], rows: list[list[str]]) -> None:
                nonlocal said
                if time.monotonic() - said >= NowAndThen.SECONDS:
                    said = time.monotonic()
                    self.say(title)

            yield tell
            return
        live = Live(console=self.err, transient=True, refresh_per_second=4)

        def fill(title: str, columns: Sequence[str], rows: list[list[str]]) -> None:
            self.rest()
            live.start()
            table = framed(columns, rows, left=1, width=self.err.width)
            live.update(Group(Text(title, style="bold"), table or Text(tab_separated(columns, rows))), refresh=True)

        try:
            yield fill
        finally:
            live.stop()

    @property
    def width(self) -> int:
        """Columns for what is drawn in characters."""
        return self.out.width if self.out.is_terminal else 80

    @property
    def piped(self) -> bool:
        """Whether a program reads the tables: it is given all of them."""
        return not self.out.is_terminal

    def result(self, value: dict[str, Any], line: str) -> None:
        """The end of a command: the JSON object for programs, else one closing line (it names the path written)."""
        self.rest()
        if self.as_json:
            self.json(value)
        elif line:
            self.say(line)

    def progress(self) -> Progress:
        """A progress display on stderr; silent if a program reads, if quiet, or if stderr is not a terminal."""
        left = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
        return self._progress(SpinnerColumn(), _text("{task.description}"), *self._bar(45), _Amount(), left)

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
        talk, left = _text("{task.fields[talk]}"), TimeRemainingColumn()
        return self._progress(SpinnerColumn(), _text(verb), *self._bar(87), done, talk, left)

    def _bar(self, others: int) -> list[ProgressColumn]:
        """A bar in the room that columns of the width `others` leave; none if there is too little."""
        room = min(40, self.err.width - others)
        return [BarColumn(bar_width=room)] if room >= 5 else []

    def _progress(self, *columns: ProgressColumn) -> Progress:
        self.rest()
        disable = self.as_json or self.quiet or not self.err.is_terminal
        return Progress(*columns, console=self.err, disable=disable, transient=True)
