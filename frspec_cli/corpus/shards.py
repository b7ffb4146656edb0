"""A corpus as a sorted list of shards: what one worker reads at a time, cut the same way on every machine.

How a corpus is cut depends on the files alone (never on workers or on the order of arguments): a compressed file or a
table is one shard, a large plain file of lines is split at line ends by byte range, small plain text files are bundled.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

PIECE_BYTES = 16 << 20
"""A plain line-oriented file is split into byte ranges of this size (a line belongs to the range it begins in)."""
BUNDLE_BYTES = 4 << 20
BUNDLE_FILES = 2000
MAX_DEFAULT_SOURCES = 32
"""More data set names than this, taken from the files' names, are too many to be labels: the common folder's name is used."""

LINE_FORMATS = ("jsonl", "lines")
COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".bz2": "bz2", ".xz": "xz"}
"""Suffix -> a shard's compression."""


@dataclass(frozen=True)
class Shard:
    """One unit of counting.

    label: the path relative to the folder common to the whole corpus, or the URL, readable (see `readable`); shards are
        ordered by it.
    paths: what is opened, local paths or URLs; more than one only for bundled text files.
    format: a key of `reading.READERS`.
    compression: "" or a value of `COMPRESSIONS`.
    start, stop: byte range (line formats), stop None means to the end; of a hub dataset the shard's number and how many.
    size: bytes on disk.
    stamp: changes when the file does (modification and change time, etag), "" if unknown.
    source: the label of documents that carry none of their own.
    """

    label: str
    paths: tuple[str, ...]
    format: str
    compression: str = ""
    start: int = 0
    stop: int | None = None
    size: int = 0
    stamp: str = ""
    source: str = ""

    @property
    def name(self) -> str:
        """How messages name the whole shard."""
        more = f" and {len(self.paths) - 1} more files" if len(self.paths) > 1 else ""
        return self.label + more

    def file_name(self, path: str) -> str:
        """How messages name one of its files: like the label, relative to the corpus's folder."""
        folder = readable(self.paths[0]).removesuffix(self.label)
        return self.label if path == self.paths[0] else readable(path).removeprefix(folder)

    def current_stamp(self) -> str:
        """The stamp that the files have now; "" if it cannot be known: not local files, or not there any more."""
        if self.format == "hub" or any("://" in path for path in self.paths):
            return ""
        try:
            stamps = [file_stamp(os.stat(path)) for path in self.paths]
        except OSError:
            return ""
        return _joined_stamp(stamps)


def readable(name: str) -> str:
    """A file's name as text that can be stored: a byte that is not UTF-8 is written as `\\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def file_stamp(state: os.stat_result) -> str:
    """Changes when a local file does: its modification time, and its change time, which no tool sets back."""
    return f"{state.st_mtime_ns}-{state.st_ctime_ns}"


def _joined_stamp(stamps: list[str]) -> str:
    return stamps[0] if len(stamps) == 1 else hashlib.sha256(" ".join(stamps).encode()).hexdigest()


def arrange(files: Iterable[Shard]) -> list[Shard]:
    """The corpus's shards from its whole files in any order: sorted, each file once, split and bundled."""
    unique: dict[tuple[tuple[str, ...], int], Shard] = {}
    for shard in files:
        known = unique.get((shard.paths, shard.start))
        if known is None or shard.source < known.source:
            unique[shard.paths, shard.start] = shard
    ordered = sorted(unique.values(), key=lambda shard: (shard.label, shard.paths, shard.start))
    return _bundle(piece for shard in ordered for piece in _split(shard))


def _split(shard: Shard) -> list[Shard]:
    if shard.compression or shard.format not in LINE_FORMATS or shard.size <= PIECE_BYTES:
        return [shard]
    starts = range(0, shard.size, PIECE_BYTES)
    return [
        replace(
            shard, start=start, stop=min(start + PIECE_BYTES, shard.size), size=min(PIECE_BYTES, shard.size - start)
        )
        for start in starts
    ]


def _bundle(shards: Iterable[Shard]) -> list[Shard]:
    """Joins small text files of one source that follow each other, so that a folder of files is not a million shards."""
    groups: list[list[Shard]] = []
    size = 0
    for shard in shards:
        fits = size + shard.size <= BUNDLE_BYTES and groups and len(groups[-1]) < BUNDLE_FILES
        if fits and _can_share(shard, groups[-1][0]):
            groups[-1].append(shard)
            size += shard.size
        else:
            groups.append([shard])
            size = shard.size
    return [group[0] if len(group) == 1 else _join(group) for group in groups]


def _can_share(shard: Shard, first: Shard) -> bool:
    # A compressed file stays alone: if it is damaged, it is left out without its neighbours.
    plain_text = all(each.format == "text" and not each.compression for each in (shard, first))
    return plain_text and shard.source == first.source


def _join(group: list[Shard]) -> Shard:
    stamp = _joined_stamp([shard.stamp for shard in group])
    paths = tuple(path for shard in group for path in shard.paths)
    return replace(group[0], paths=paths, size=sum(shard.size for shard in group), stamp=stamp)
