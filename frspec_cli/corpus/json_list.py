"""The items of a JSON list, one by one, without holding the file: it may be larger than memory.

By hand: `ijson` is twice as fast, but it silently turns a lone surrogate into "?", and one invalid byte, NaN or large
integer makes it give up the whole file.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from frspec_cli import bounded_json
from frspec_cli.corpus.streams import BrokenFile

LONGEST_ITEM = 256 << 20
"""Characters of one item after which the file is taken to be broken, not unfinished."""
_NOT_SPACE = re.compile(r"[^ \t\r\n]")
_SCALAR = re.compile(r'[^\s,"\[\]{}]+')
_BRACKET_OR_QUOTE = re.compile(r'["\[\]{}]')


class BadItem(NamedTuple):
    """An item that is not valid JSON; the list goes on after it."""

    problem: str


def first_text(chunks: Iterator[bytes]) -> bytes:
    """The first bytes of the text without white space before them; b"" if there is none."""
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) < len(codecs.BOM_UTF8):
            continue
        start = start.removeprefix(codecs.BOM_UTF8)
        text = start.lstrip()
        if text:
            return text
        start = b"   "  # whatever was there is passed over
    return start.lstrip()


def items(chunks: Iterable[bytes], name: str) -> Iterator[Any]:
    """The list's items, a `BadItem` for one that is not valid JSON but whose brackets and quotes show where it ends.

    Raises `BrokenFile`, naming the byte, if the list's own syntax is wrong or it ends too early.
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
        """The next JSON value, or `BadItem`. Raises `BrokenFile` if there is none, or no end of it."""
        decode = json.JSONDecoder().raw_decode
        if self.peek() in ("", ",", "]", "}"):
            raise self.unexpected("a value")
        while True:
            problem = ""
            try:
                value, end = decode(self.text, self.position)
                bounded_json.check_depth(value, self.text[self.position : end])
            except RecursionError:
                problem = "nested too deeply"
            except ValueError as error:
                problem = str(error).split(": line")[0]
            if problem:
                value, end = BadItem(problem), _end_of_item(self.text, self.position)
            # A number at the end of the text may continue in the next piece.
            if 0 <= end < len(self.text):
                break
            if not self._read_more():
                if end < 0:
                    raise self._broken(f"not valid JSON ({problem})")
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


def _end_of_item(text: str, start: int) -> int:
    """The end of the value that begins at `start`, by its brackets and quotes alone; -1 if it is not in the text."""
    if match := _SCALAR.match(text, start):
        return match.end()
    depth, position = 0, start
    while match := _BRACKET_OR_QUOTE.search(text, position):
        position = match.end()
        if match[0] == '"':
            position = _end_of_string(text, position)
            if position < 0:
                return -1
        else:
            depth += 1 if match[0] in "[{" else -1
        if depth <= 0:
            return position
    return -1


def _end_of_string(text: str, start: int) -> int:
    """Behind the quote that ends the string whose characters begin at `start`; -1 if there is none."""
    begin = start
    while (quote := text.find('"', begin)) >= 0:
        escapes = quote
        while escapes > begin and text[escapes - 1] == "\\":
            escapes -= 1
        begin = quote + 1
        if (quote - escapes) % 2 == 0:
            return begin
    return -1
