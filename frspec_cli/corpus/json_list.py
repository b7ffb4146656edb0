"""The items of a JSON list, one by one, without holding the file: it may be larger than memory."""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from frspec_cli.corpus.streams import BrokenFile

LONGEST_ITEM = 256 << 20
"""Characters of one item after which the file is held to be broken, not unfinished."""


def starts_with_list(chunks: Iterator[bytes]) -> tuple[Iterator[bytes], bool]:
    """(the same chunks, whether the first character that is no white space is a bracket)."""
    seen: list[bytes] = []
    for chunk in chunks:
        seen.append(chunk)
        text = b"".join(seen).removeprefix(codecs.BOM_UTF8).lstrip()
        if text:
            return itertools.chain(seen, chunks), text.startswith(b"[")
    return iter(seen), False


def items(chunks: Iterable[bytes], name: str) -> Iterator[Any]:
    """The list's items. Raises `BrokenFile`, naming the byte, where the list is no JSON or ends too early.

    Bytes that are no UTF-8 become lone surrogates, so that the record they lie in is skipped and not the file.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    scanner = _Scanner(name)
    for chunk in chunks:
        yield from scanner.feed(decoder.decode(chunk))
    yield from scanner.feed(decoder.decode(b"", final=True), last=True)
    scanner.finish()


class _Scanner:
    """Finds items in text that arrives in pieces. An unfinished item is tried again only when the text has doubled."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = ""
        self.passed = 0  # bytes before `text`
        self.wanted = 0  # characters of `text` that a further try is worth
        self.expect = "["  # then an item or "]", then "," or "]", then nothing
        self.reason = "the list ends too early"

    def feed(self, more: str, *, last: bool = False) -> Iterator[Any]:
        """The items that are complete with `more`."""
        self.text += more
        if len(self.text) < self.wanted and not last:
            return
        self.reason = "the list ends too early"
        position = 0
        decode = json.JSONDecoder().raw_decode
        while True:
            position = self._skip_space(position)
            if position == len(self.text):
                break
            if self.expect != "item" or self.text[position] == "]":
                position = self._punctuation(position)
                continue
            try:
                item, end = decode(self.text, position)
            except (ValueError, RecursionError) as error:
                self.reason = f"no JSON ({str(error).split(': line')[0]})"
                break
            if end == len(self.text) and not last:  # a number may go on in the next piece
                break
            position, self.expect = end, ", or ]"
            yield item
        self._drop(position)

    def _skip_space(self, position: int) -> int:
        while position < len(self.text) and self.text[position] in " \t\r\n":
            position += 1
        return position

    def _punctuation(self, position: int) -> int:
        character = self.text[position]
        follows = {("[", "["): "item", ("item", "]"): "nothing", (", or ]", ","): "item", (", or ]", "]"): "nothing"}
        if (self.expect, character) not in follows:
            self._drop(position)
            raise BrokenFile(self.name, f"expected {self.expect}, found {character!r}", self.passed)
        self.expect = follows[self.expect, character]
        return position + 1

    def _drop(self, position: int) -> None:
        self.passed += len(self.text[:position].encode("utf-8", "surrogateescape"))
        self.text = self.text[position:]
        self.wanted = 2 * len(self.text)
        if len(self.text) > LONGEST_ITEM:
            raise BrokenFile(self.name, self.reason, self.passed)

    def finish(self) -> None:
        """Raises `BrokenFile` unless the list was closed."""
        if self.expect != "nothing":
            raise BrokenFile(self.name, self.reason, self.passed)
