"""Lines and tables for a terminal of any width, and for a pipe: nothing in them is ever cut."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_INTERVAL = re.compile(r"(?P<value>[\d.,]+)(?P<unit>[x%]?) \((?P<low>[\d.,]+)[x%]? to (?P<high>[\d.,]+)[x%]?\)")


def wrapped(text: str, width: int) -> str:
    """The text with its lines broken at words; a path or another long word stays whole."""
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        after = indent + ("  " if line.lstrip().startswith("- ") else "")
        parts = textwrap.wrap(
            line,
            width,
            subsequent_indent=after,
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        )
        lines += parts or [""]
    return "\n".join(lines)


def tab_separated(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table for programs and spreadsheets: a line of headers, then the rows."""
    return "\n".join("\t".join(cell.replace("\t", " ") for cell in row) for row in [headers, *cells])


def short(cell: str) -> str:
    """`2.31x ±0.10` of `2.31x (2.21 to 2.41)`: half the interval's width, for a narrow terminal."""

    def halved(match: re.Match[str]) -> str:
        low, high = (float(match[name].replace(",", "")) for name in ("low", "high"))
        places = len(match["low"].partition(".")[2])
        return f"{match['value']}{match['unit']} ±{(high - low) / 2:.{places}f}"

    return _INTERVAL.sub(halved, cell)


def framed(headers: Sequence[str], cells: Sequence[Sequence[str]], *, left: int, width: int) -> Table | None:
    """The table, with headers in as few lines and intervals as long as the width allows; None if it never fits.

    left: the number of columns, from the first, that are text.
    """
    most = max((len(header.split()) for header in headers), default=1)
    for rows in (cells, [[short(cell) for cell in row] for row in cells]):
        inside = [max((cell_len(row[column]) for row in rows), default=0) for column in range(len(headers))]
        for lines in range(1, most + 1):
            widths = [max(pair) for pair in zip(inside, (_narrowest(each, lines) for each in headers), strict=True)]
            if sum(widths) + 3 * len(widths) + 1 <= width:
                return _table(headers, rows, widths, left)
    return None


def _narrowest(header: str, lines: int) -> int:
    """The least width in which the header takes at most so many lines, broken between words."""
    widths = range(max(map(cell_len, _words(header).split(" "))), cell_len(header) + 1)
    return next((width for width in widths if len(_broken(header, width)) <= lines), 0)


def _broken(header: str, width: int) -> list[str]:
    lines = textwrap.wrap(_words(header), max(width, 1), break_long_words=False, break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in lines]


def _words(header: str) -> str:
    """The header with "95% CI" as one word."""
    return header.replace("% CI", "%\u00a0CI")


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], left: int) -> Table:
    table = Table(header_style="bold")
    for index, (header, width) in enumerate(zip(headers, widths, strict=True)):
        lines = _broken(header, width)
        side = "left" if index < left else "right"
        table.add_column("\n".join(lines), justify=side, no_wrap=True, width=width, vertical="bottom")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def stacked(headers: Sequence[str], cells: Sequence[Sequence[str]], left: int) -> list[tuple[str, list[str]]]:
    """For each row its text columns as a title, and a line for each figure."""
    widest = max(map(len, headers[left:]), default=0)
    rows = []
    for row in cells:
        pairs = zip(headers[left:], row[left:], strict=True)
        lines = [f"  {header:<{widest}}  {cell}" for header, cell in pairs if cell]
        rows.append((", ".join(cell.strip() for cell in row[:left] if cell.strip()), lines))
    return rows
