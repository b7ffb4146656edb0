"""The cells of a report's tables: numbers with their intervals, spelled once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ALL = "all"


@dataclass(frozen=True)
class Cell:
    """A number as it is read, with its 95 % interval if it has one."""

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Table:
    """One table.

    figure: what its cells are, such as "acceptance length".
    columns: headings after the first column, which names the rows.
    rows: (name, cells); as many cells as columns.
    note: a sentence under it.
    """

    result: str
    figure: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str = field(default="")


def number(value: float | None, digits: int = 2) -> Cell:
    """A plain number."""
    return Cell("–") if value is None else Cell(f"{value:,.{digits}f}", value)


def interval(found: Mapping[str, float] | None, digits: int = 2, suffix: str = "") -> Cell:
    """A number with its interval."""
    if found is None:
        return Cell("–")
    value, low, high = (found[name] for name in ("value", "low", "high"))
    return Cell(f"{value:.{digits}f}{suffix} ({low:.{digits}f}–{high:.{digits}f})", value, low, high)


def percent(found: Mapping[str, float] | None) -> Cell:
    """A share with its interval, in per cent."""
    if found is None:
        return Cell("–")
    value, low, high = (found[name] for name in ("value", "low", "high"))
    return Cell(f"{value:.1%} ({low * 100:.1f}–{high * 100:.1f})", value, low, high)


def share(value: float | None) -> Cell:
    """A share without an interval, in per cent."""
    return Cell("–") if value is None else Cell(f"{value:.1%}", value)
