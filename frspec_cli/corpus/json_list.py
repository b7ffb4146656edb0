"""The items of a JSON list, one by one, without holding the file: it may be larger than memory.

By hand: `ijson` is twice as fast, but it silently turns a lone surrogate into "?", and one invalid byte, NaN or large
integer makes it give up the whole file.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from frspec_cli.corpus.streams import BrokenFile

LONGEST_ITEM = 256 << 20
"""Characters of one item after which the file is taken to be broken, not unfinished."""
_NOT_SPACE = re.compile(r"[^ \t\r\n]")


def first_text(chunks: Iterator[bytes]) -> tuple[Iterator[bytes], bytes]:
    """(the same chunks, the first bytes of the text without white space before them; b"" if there is none)."""
    head: list[bytes] = []
    for chunk in chunks:
        head.append(chunk)
        text = b"".join(head).removeprefix(codecs.BOM_UTF8).lstrip()
        if text:
            return itertools.chain(head, chunks), text
    return iter(head), b""


def items(chunks: Iterable[bytes], name: str) -> Iterator[Any]:
    """The list's items. Raises `BrokenFile`, naming the byte, if the list is not valid JSON or ends too early.

    Bytes that are not UTF-8 become lone surrogates, so that the record that holds them is skipped and not the file.
    """
    text = _Text(chunks, name)
    text.take("[")
    if text.peek() != "]":
        yield text.item()
        while text.peek() != "]":
            text.take(",", expected=", or ]")
            yield text.item()
    text.take("]")
    if text.peek():
        raise text.unexpected("nothing")


class _Text:
    """The text not yet parsed, read as far as needed. Its first `position` characters are parsed."""

    def __init__(self, chunks: Iterable[bytes], name: str) -> None:
        self.name = name
        self.text = ""
        self.position = 0
        self.dropped = 0  # bytes before `text`
        self._pieces = codecs.iterdecode(chunks, "utf-8-sig", "surrogateescape")

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            match = _NOT_SPACE.search(self.text, self.position)
            self.position = match.start() if match else len(self.text)
            if match:
                return match[0]
            if not self._read_more():
                return ""

    def take(self, character: str, *, expected: str = "") -> None:
        """Passes over a character. Raises `BrokenFile` if another one comes next."""
        if self.peek() != character:
            raise self.unexpected(expected or character)
        self.position += 1

    def item(self) -> Any:
        """The next JSON value."""
        decode = json.JSONDecoder().raw_decode
        self.peek()
        while True:
            try:
                value, end = decode(self.text, self.position)
                problem = ""
            except (ValueError, RecursionError) as error:
                problem = f"not valid JSON ({str(error).split(': line')[0]})"
            # A number at the end of the text may continue in the next piece.
            if not problem and end < len(self.text):
                break
            if not self._read_more():
                if problem:
                    raise self._broken(problem)
                break
        self.position = end
        return value

    def unexpected(self, expected: str) -> BrokenFile:
        """The error for another character, or the end, in place of what was expected."""
        character = self.peek()
        return self._broken(f"expected {expected}, found {character!r}" if character else "the list ends too early")

    def _read_more(self) -> bool:
        """Drops what is parsed and at least doubles the rest, so that retries take linear time; False at the end."""
        parsed, rest = self.text[: self.position], self.text[self.position :]
        self.dropped += len(parsed.encode("utf-8", "surrogateescape"))
        self.text, self.position = rest, 0
        if len(rest) > LONGEST_ITEM:
            raise self._broken("one item is too long, or not valid JSON")
        pieces, size = [rest], 0
        for piece in self._pieces:
            pieces.append(piece)
            size += len(piece)
            if size > len(rest):
                break
        self.text = "".join(pieces)
        return size > 0

    def _broken(self, problem: str) -> BrokenFile:
        parsed = self.text[: self.position].encode("utf-8", "surrogateescape")
        return BrokenFile(self.name, problem, self.dropped + len(parsed))
