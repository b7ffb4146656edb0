"""Prompt files: JSONL with `{"prompt"}`, or Spec-Bench's `{"turns"}` (the first turn is taken), or texts to go on with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from frspec_cli.corpus.streams import DECOMPRESSORS, BrokenFile, lines, open_binary, raw_chunks
from frspec_cli.errors import FrspecError

_LONGEST_LINE = 64 << 20
_COMPRESSION = {".gz": "gz", ".zst": "zst"}


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    id: the file's own, else the line number from 1. category: the file's own `category` or `source`, '' where none.
    plain: a text to go on with as it stands, never put into a chat template.
    """

    text: str
    id: str
    category: str = ""
    plain: bool = False


def read_prompts(path: Path | str, *, limit: int | None = None, texts: bool = False) -> list[Prompt]:
    """The prompts of a .jsonl file (plain, .gz or .zst), in file order; blank lines are passed over.

    texts: also take records with `text` alone, as plain prompts. Raises `FrspecError` when the file is missing, broken
    or empty, or a line is no prompt, naming the line.
    """
    prompts: list[Prompt] = []
    for number, line in enumerate(_lines(Path(path)), start=1):
        if limit is not None and len(prompts) == limit:
            break
        where = f"{path} line {number}"
        if line is None:
            raise FrspecError(f"{where} is longer than {_LONGEST_LINE:,} bytes.")
        if line.strip():
            prompts.append(_prompt(line, where=where, number=number, texts=texts))
    if not prompts:
        raise FrspecError(f"{path} holds no prompts.")
    return prompts


def _lines(path: Path) -> Iterator[bytes | None]:
    if path.is_dir():
        raise FrspecError(f"{path} is a folder, not a file of prompts.")
    with open_binary(str(path)) as file:
        chunks = DECOMPRESSORS[_COMPRESSION.get(path.suffix, "")](raw_chunks(file, None), str(path))
        try:
            yield from lines(chunks, longest=_LONGEST_LINE)
        except BrokenFile as error:
            raise FrspecError(error.message, hint="Get the file again.") from None


def _prompt(line: bytes, *, where: str, number: int, texts: bool) -> Prompt:
    try:
        record: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise FrspecError(f"{where} is no JSON: {error}.") from None
    text, plain = None, False
    if isinstance(record, dict):
        turns = record.get("turns")
        text = turns[0] if isinstance(turns, list) and turns else record.get("prompt")
        if text is None and texts:
            text, plain = record.get("text"), True
    if not isinstance(text, str) or not text:
        known = '{"prompt": "..."} or {"turns": ["...", ...]}' + (' or {"text": "..."}' if texts else "")
        raise FrspecError(f"{where} is no prompt.", hint=f"A line is {known}.")
    own_id = record.get("question_id", record.get("id", number))
    category = record.get("category") or record.get("source") or ""
    return Prompt(text=text, id=str(own_id), category=str(category), plain=plain)
