"""Prompt files: JSONL with `{"prompt"}`, or Spec-Bench's `{"turns"}` (the first turn is taken)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from frspec_cli.errors import FrspecError


@dataclass(frozen=True)
class Prompt:
    """One prompt: its text, its id (the file's own, else the line number from 1) and its category, '' where none."""

    text: str
    id: str
    category: str = ""


def read_prompts(path: Path | str, *, limit: int | None = None) -> list[Prompt]:
    """The prompts of a .jsonl file (or .jsonl.zst), in file order; blank lines are passed over.

    Raises `FrspecError` when the file is missing, empty, or a line is no prompt, naming the line.
    """
    prompts: list[Prompt] = []
    for number, line in enumerate(_lines(Path(path)), start=1):
        if limit is not None and len(prompts) == limit:
            break
        if line.strip():
            prompts.append(_prompt(line, where=f"{path} line {number}", number=number))
    if not prompts:
        raise FrspecError(f"{path} holds no prompts.")
    return prompts


def _lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise FrspecError(f"there is no file {path}.") from None
    if path.suffix == ".zst":
        import zstandard

        try:
            with zstandard.ZstdDecompressor().stream_reader(data) as reader:
                data = reader.read()
        except zstandard.ZstdError as error:
            raise FrspecError(f"{path} is no readable zstd file: {error}.") from None
    return data.splitlines()


def _prompt(line: bytes, *, where: str, number: int) -> Prompt:
    try:
        record: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise FrspecError(f"{where} is no JSON: {error}.") from None
    text = None
    if isinstance(record, dict):
        turns = record.get("turns")
        text = turns[0] if isinstance(turns, list) and turns else record.get("prompt")
    if not isinstance(text, str) or not text:
        raise FrspecError(f"{where} is no prompt.", hint='A line is {"prompt": "..."} or {"turns": ["...", ...]}.')
    own_id = record.get("question_id", record.get("id", number))
    return Prompt(text=text, id=str(own_id), category=str(record.get("category") or ""))
