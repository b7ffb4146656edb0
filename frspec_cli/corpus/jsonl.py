"""The one reader of JSON lines that must all be valid: prompts and answers, plain or compressed.

Corpora, in which bad lines are skipped and counted, are read by `reading`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

from frspec_cli import bounded_json
from frspec_cli.corpus.shards import COMPRESSIONS
from frspec_cli.corpus.streams import BrokenFile, as_file, decompress, lines, raw_chunks
from frspec_cli.errors import FrspecError

LONGEST_LINE = 64 << 20
_MAGIC = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2", b"\xfd7zXZ\0": "xz"}


def read_jsonl(path: Path | str) -> Iterator[tuple[int, Any]]:
    """(line number from 1, JSON value) of every line that is not blank.

    Raises `FrspecError` if the file is missing or broken (naming the byte), or a line is too long or not valid JSON.
    """
    for number, line in _numbered_lines(Path(path)):
        try:
            value = orjson.loads(line)
            bounded_json.check_depth(value, line)
        except ValueError as error:
            raise FrspecError(f"{at(path, number)} is not valid JSON: {error}.") from None
        yield number, value


def count_lines(path: Path | str) -> int:
    """The number of lines that are not blank, whatever they hold. Raises `FrspecError` like `read_jsonl`."""
    return sum(1 for _ in _numbered_lines(Path(path)))


def first_json(path: Path | str) -> Any:
    """The JSON value of a whole indented file, or of a file's first line; None if it is not JSON.

    Raises `FrspecError` if the file is missing or its compression broken.
    """
    with _opened(Path(path)) as chunks:
        file = as_file(chunks)
        text = file.readline(LONGEST_LINE)
        if text.strip() in (b"{", b"["):  # an indented file
            text += file.read(LONGEST_LINE)
    try:
        value = orjson.loads(text.removeprefix(codecs.BOM_UTF8))
        bounded_json.check_depth(value, text)
    except ValueError:
        return None
    return value


def at(path: Path | str, number: int) -> str:
    """How messages name a line."""
    return f"{path}, line {number:,}"


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with _opened(path) as chunks:
        for number, line in enumerate(lines(chunks, longest=LONGEST_LINE), start=1):
            if line is None:
                raise FrspecError(f"{at(path, number)} is longer than {LONGEST_LINE:,} bytes.")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, line


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[bytes]]:
    """The file's text in chunks; its compression is known by the suffix, else by the first bytes."""
    if path.is_dir():
        raise FrspecError(f"{path} is a folder, not a file.")
    try:
        with open(path, "rb") as file:
            compression = COMPRESSIONS.get(path.suffix) or _compression(file)
            yield decompress(raw_chunks(file, None), compression, str(path))
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except BrokenFile as error:
        raise FrspecError(error.message, hint="Get the file again.") from None


def _compression(file: IO[bytes]) -> str:
    head = file.read(6)
    file.seek(0)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
