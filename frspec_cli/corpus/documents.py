"""Records to documents: what of a record is counted, and why a record is skipped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from frspec_cli.corpus.shards import Shard

DEFAULT_SOURCE_FIELD = "meta.redpajama_set_name"
CONVERSATION_FIELDS = ("conversations", "messages")

BROKEN_JSON = "broken JSON"
MISSING = "missing field"
NULL = "null"
NOT_A_STRING = "not a string"
INVALID_UTF8 = "invalid UTF-8"
TOO_LONG = "too long"
EMPTY = "empty"
BAD_CONVERSATION = "bad conversation"
NO_CONVERSATION = "no assistant turn"


@dataclass(frozen=True)
class Fields:
    """Where a record keeps what is counted.

    text: dotted name of the text (or conversation) field; None looks for `text`, then for `conversations`, `messages`.
    source: dotted name of the label; None looks for SlimPajama's. longest: bytes of text above which a record is
    skipped as too long. assistant_only: only conversations with an assistant's turn are wanted.
    """

    text: str | None = None
    source: str | None = None
    longest: int = 16 << 20
    assistant_only: bool = False


class Message(NamedTuple):
    """One message of a conversation. ids: its recorded token ids (int32), turn end included, or None."""

    role: str
    content: str
    ids: np.ndarray | None = None
    finished: bool = True


class Document(NamedTuple):
    """What is counted as one unit. line: its number in the shard, from 1. data: the text in UTF-8 (its size, its fold).

    messages: the conversation, where it is one; `text` then holds nothing that is counted.
    """

    line: int
    source: str
    text: str
    data: bytes
    messages: tuple[Message, ...] | None = None


class Skipped(NamedTuple):
    """A record that is not counted. line: its number in the shard. detail: what helps to find out why. file: the one
    that the record is, where files are documents."""

    line: int
    reason: str
    detail: str = ""
    file: str = ""


def of_text(text: str, line: int, source: str, longest: int) -> Document | Skipped:
    """A document from its text: skipped when empty, too long, or holding what UTF-8 cannot (lone surrogates)."""
    if not text:
        return Skipped(line, EMPTY)
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        return Skipped(line, INVALID_UTF8, f"a lone surrogate at character {error.start}")
    if len(data) > longest:
        return Skipped(line, TOO_LONG, f"{len(data):,} bytes")
    return Document(line, source, text, data)


def of_bytes(data: bytes, line: int, source: str, longest: int) -> Document | Skipped:
    """A document from bytes that should be UTF-8."""
    if len(data) > longest:
        return Skipped(line, TOO_LONG, f"{len(data):,} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return Skipped(line, INVALID_UTF8, f"byte 0x{data[error.start]:02x} at {error.start}")
    return Document(line, source, text, data) if text else Skipped(line, EMPTY)


def of_record(record: Any, line: int, shard: Shard, fields: Fields) -> Document | Skipped:
    """A document from a record of a JSON or table shard (a mapping; a bare string is its own text)."""
    if isinstance(record, str) and fields.text is None:
        record = {"text": record}
    if not isinstance(record, dict):
        return Skipped(line, MISSING, f"the record is a {type(record).__name__}")
    value, found = _text_value(record, fields)
    if not found:
        return Skipped(line, MISSING, "its fields are " + (", ".join(map(str, list(record)[:8])) or "none"))
    if value is None:
        return Skipped(line, NULL)
    source = _source(record, shard, fields.source)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        from frspec_cli.corpus.conversations import of_conversation

        document = of_conversation(record, value, line, source, fields.longest)
    elif isinstance(value, str):
        document = of_text(value, line, source, fields.longest)
    else:
        return Skipped(line, NOT_A_STRING, f"a {type(value).__name__}")
    return wanted(document, fields)


def wanted(document: Document | Skipped, fields: Fields) -> Document | Skipped:
    """The document, skipped where only conversations are wanted and it has no assistant's turn."""
    if not fields.assistant_only or isinstance(document, Skipped):
        return document
    if any(message.role == "assistant" for message in document.messages or ()):
        return document
    return Skipped(document.line, NO_CONVERSATION)


def _text_value(record: dict[str, Any], fields: Fields) -> tuple[Any, bool]:
    if fields.text is not None:
        return dotted(record, fields.text)
    order = (*CONVERSATION_FIELDS, "text") if fields.assistant_only else ("text", *CONVERSATION_FIELDS)
    return next(((record[name], True) for name in order if name in record), (None, False))


def dotted(record: Any, name: str) -> tuple[Any, bool]:
    """(value, whether it is there) of a dotted field name; a key that itself holds the dots comes first."""
    if isinstance(record, dict):
        if name in record:
            return record[name], True
        head, _, rest = name.partition(".")
        if rest and head in record:
            return dotted(record[head], rest)
    return None, False


def _source(record: dict[str, Any], shard: Shard, field: str | None) -> str:
    value, found = dotted(record, field or DEFAULT_SOURCE_FIELD)
    if isinstance(value, (str, int)) and found and value != "":
        # A label goes into parquet, which holds UTF-8 only.
        return str(value).encode("utf-8", "replace").decode()
    return shard.source


def parse_json(line: bytes) -> tuple[Any, str, str]:
    """(record, reason, detail): reason is "" where the line is JSON.

    orjson is quick and strict; what it refuses is tried again with Python's reader, which takes NaN and lone surrogates
    (the text itself is then judged).
    """
    import orjson

    try:
        return orjson.loads(line), "", ""
    except orjson.JSONDecodeError:
        pass
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return None, INVALID_UTF8, f"byte 0x{line[error.start]:02x} at {error.start}"
    try:
        return json.loads(text), "", ""
    except RecursionError:
        return None, BROKEN_JSON, "nested too deeply"
    except ValueError as error:
        return None, BROKEN_JSON, str(error).split(": line")[0]
