"""How a corpus is searched: options without anything heavy, for the command line's defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """How sources are searched for files.

    glob: take a folder's files that match this pattern, whatever their suffix, instead of those in known formats.
    lines: a line of a text file is a document, instead of the file.
    name: the label of all documents that carry none of their own.
    split, config: of hub datasets.
    """

    glob: str | None = None
    lines: bool = False
    name: str | None = None
    split: str = "train"
    config: str | None = None
