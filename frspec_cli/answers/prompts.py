"""Prompt files: JSONL with `{"prompt"}`, Spec-Bench's `{"turns"}` (the first turn is used), or texts to be continued."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from frspec_cli.corpus.conversations import BadRecord, parse_id
from frspec_cli.corpus.jsonl import at, read_jsonl
from frspec_cli.errors import FrspecError


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    id: the record's own `question_id` or `id`, else its line number. Unique in its file: it seeds sampling.
    category: the record's own `category` or `source`, "" if it has neither.
    plain: a text to be continued as it is, never put into a chat template.
    """

    text: str
    id: str
    category: str = ""
    plain: bool = False


def read_prompts(path: Path | str, *, limit: int | None = None, texts: bool = False) -> list[Prompt]:
    """The prompts of a .jsonl file (plain, .gz or .zst), in file order; blank lines are ignored.

    limit: use the first N prompts.
    texts: also take records with `text` alone, as plain prompts.
    Raises `FrspecError` if the file is missing, broken or empty, a line is not a prompt, or two prompts share an id.
    """
    prompts: list[Prompt] = []
    line_of: dict[str, int] = {}
    for number, record in islice(read_jsonl(path), limit):
        prompt = _prompt(record, number, where=at(path, number), texts=texts)
        first = line_of.setdefault(prompt.id, number)
        if first != number:
            raise FrspecError(
                f"{path}, lines {first:,} and {number:,}: two prompts have the id {prompt.id!r}.",
                hint="Make the ids differ, or leave them out: a prompt without an id is named by its line number.",
            )
        prompts.append(prompt)
    if not prompts:
        raise FrspecError(f"{path} holds no prompts.")
    return prompts


def _prompt(record: Any, number: int, *, where: str, texts: bool) -> Prompt:
    text, plain = None, False
    if isinstance(record, dict):
        turns = record.get("turns")
        text = turns[0] if isinstance(turns, list) and turns else record.get("prompt")
        if text is None and texts:
            text, plain = record.get("text"), True
    if not isinstance(text, str) or not text:
        known = '{"prompt": "..."} or {"turns": ["...", ...]}' + (' or {"text": "..."}' if texts else "")
        raise FrspecError(f"{where} is not a prompt.", hint=f"A line is {known}.")
    try:
        own_id = parse_id(record.get("question_id")) or parse_id(record.get("id"))
    except BadRecord as error:
        raise FrspecError(f"{where} is not a prompt: {error}.") from None
    category = record.get("category") or record.get("source") or ""
    return Prompt(text=text, id=own_id or str(number), category=str(category), plain=plain)
