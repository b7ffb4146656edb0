"""Text: one id a line, `#` comments allowed; or a table, `id TAB count` or CSV with a line of names."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

import numpy as np

from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats.base import ForeignList, Writer, from_counts, from_ids
from frspec_cli.subsets.formats.content import Content
from frspec_cli.subsets.subset import VocabularySubset

_IDS = ("token_id", "id", "token id", "tokenid")
_COUNTS = ("count", "counts", "freq", "frequency")
_HEADER = "Name the columns in a first line, such as token_id,count."

# Reading.


def read(content: Content, read_as: str | None) -> ForeignList | None:
    """The ids in the order of the file; None if it is not text."""
    if content.container != "text":
        return None
    lines = list(_lines(content.value))
    if lines and (delimiter := next((each for each in "\t," if each in lines[0][1].split("#")[0]), None)):
        return _table(content.name, lines, delimiter)
    ids = []
    for number, line in lines:
        if not (match := re.fullmatch(r"\s*(\d{1,10})\s*(#.*)?", line)):
            raise FrspecError(
                f"{content.name}: line {number} ({line.strip()[:40]!r}) is not a token id; such a file has one id a line."
            )
        ids.append(int(match[1]))
    return from_ids(content.name, "txt", np.array(ids, dtype=np.int64))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, without empty ones and comments."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def _table(name: str, lines: list[tuple[int, str]], delimiter: str) -> ForeignList:
    kind = "tsv" if delimiter == "\t" else "csv"
    rows = [(number, next(csv.reader([line], delimiter=delimiter))) for number, line in lines]
    names = [cell.strip().lower() for cell in rows[0][1]]
    columns = _columns(name, names)
    rows = rows[1:] if columns else rows
    id_column, count_column = columns or (0, 1)
    ids = np.array([_cell(name, number, cells, id_column) for number, cells in rows], dtype=np.int64)
    if not len(ids):
        raise FrspecError(f"{name} holds a line of names and no ids.")
    if not columns and _may_be_ranks(ids):
        raise FrspecError(f"{name}: its first column may be ids or ranks, since it counts up by one.", hint=_HEADER)
    if count_column is None:
        return from_ids(name, kind, ids)
    counts = [_cell(name, number, cells, count_column) for number, cells in rows]
    return from_counts(name, kind, ids, np.array(counts, dtype=np.int64))


def _columns(name: str, names: list[str]) -> tuple[int, int | None] | None:
    """The columns of ids and counts (None if there are no counts) by a line of names; None if the line is numbers."""
    if all(each.isdecimal() for each in names):
        if len(names) == 2:
            return None
        raise FrspecError(f"{name} is a table of {len(names)} columns without names.", hint=_HEADER)
    ids, counts = ([each for each in names if each in known] for known in (_IDS, _COUNTS))
    if len(ids) != 1 or len(counts) > 1:
        raise FrspecError(
            f"{name}: which of its columns {', '.join(names)} holds token ids is not clear.", hint=_HEADER
        )
    return names.index(ids[0]), names.index(counts[0]) if counts else None


def _cell(name: str, number: int, cells: list[str], column: int) -> int:
    text = cells[column].strip() if column < len(cells) else ""
    if not re.fullmatch(r"\d{1,18}", text):
        raise FrspecError(f"{name}: line {number}, column {column + 1} ({text[:40]!r}) is not a whole number.")
    return int(text)


def _may_be_ranks(ids: np.ndarray) -> bool:
    return len(ids) > 1 and ids[0] in (0, 1) and bool((np.diff(ids) == 1).all())


# Writing.


def _txt(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: "".join(f"{index}\n" for index in ids).encode()}


def _tsv(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: _with_counts(subset, ids, "\t", names=_may_be_ranks(ids))}


def _csv(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: _with_counts(subset, ids, ",", names=True)}


def _with_counts(subset: VocabularySubset, ids: np.ndarray, delimiter: str, *, names: bool) -> bytes:
    counts = dict(zip(subset.token_ids.tolist(), subset.counts.tolist(), strict=True))
    lines = [f"token_id{delimiter}count"] if names else []
    lines += [f"{index}{delimiter}{counts[index]}" for index in ids.tolist()]
    return ("\n".join(lines) + "\n").encode()


WRITERS = {
    "txt": Writer(_txt, "id", ".txt"),
    "tsv": Writer(_tsv, "count", ".tsv", order_is_fixed=True),
    "csv": Writer(_csv, "count", ".csv", order_is_fixed=True),
}
