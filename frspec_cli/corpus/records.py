"""Records to documents: what of a record is counted, and why a record is skipped."""

from __future__ import annotations

from typing import Any

import orjson

from frspec_cli import bounded_json
from frspec_cli.corpus.conversations import as_turns, conversation_document
from frspec_cli.corpus.documents import (
    CONVERSATION_FIELDS,
    DEFAULT_SOURCE_FIELD,
    Document,
    Fields,
    Reason,
    Skipped,
)
from frspec_cli.corpus.shards import Shard
from frspec_cli.errors import option

_KNOWN_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


def text_document(text: str, line: int, source: str, longest: int) -> Document | Skipped:
    """A document from its text: skipped if empty, too long, or holding what UTF-8 cannot (lone surrogates)."""
    if not text:
        return Skipped(line, Reason.EMPTY)
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        return Skipped(line, Reason.INVALID_UTF8, f"a lone surrogate at character {error.start}")
    if len(data) > longest:
        return Skipped(line, Reason.TOO_LONG, f"{len(data):,} bytes")
    return Document(line, source, text, data)


def bytes_document(data: bytes, line: int, source: str, longest: int) -> Document | Skipped:
    """A document from bytes that should be UTF-8."""
    if len(data) > longest:
        return Skipped(line, Reason.TOO_LONG, f"{len(data):,} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return Skipped(line, Reason.INVALID_UTF8, _bad_byte(data, error))
    return Document(line, source, text, data) if text else Skipped(line, Reason.EMPTY)


def record_document(record: Any, line: int, shard: Shard, fields: Fields) -> Document | Skipped:
    """A document from a record of a JSON or table shard (a mapping; a bare string is its own text)."""
    if isinstance(record, str) and fields.text is None:
        record = {"text": record}
    if not isinstance(record, dict):
        return Skipped(line, Reason.MISSING, f"the record is a {type(record).__name__}")
    value, present = _text_value(record, fields)
    if isinstance(value, Skipped):
        return value._replace(line=line)
    if not present:
        return Skipped(line, Reason.MISSING, "its fields are " + (", ".join(map(str, list(record)[:8])) or "none"))
    if value is None:
        return Skipped(line, Reason.NULL)
    source = _source(record, shard, fields.source)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        document = conversation_document(record, value, line, source, fields)
    elif isinstance(value, str):
        document = text_document(value, line, source, fields.longest)
    else:
        return Skipped(line, Reason.NOT_A_STRING, f"a {type(value).__name__}")
    return require_assistant(document, fields)


def require_assistant(document: Document | Skipped, fields: Fields) -> Document | Skipped:
    """The document; with `assistant_only`, skipped if it has no assistant turn."""
    if not fields.assistant_only or isinstance(document, Skipped):
        return document
    if any(message.role == "assistant" for message in document.messages or ()):
        return document
    return Skipped(document.line, Reason.NO_CONVERSATION, _roles(document))


def _roles(document: Document) -> str:
    roles = list(dict.fromkeys(message.role for message in document.messages or ()))
    if all(role in _KNOWN_ROLES for role in roles):
        return ""
    names = ", ".join(role[:40] for role in roles[:8])
    return f"its roles are {names}; name the assistant's with {option('assistant_role')}"


def _text_value(record: dict[str, Any], fields: Fields) -> tuple[Any, bool]:
    """(the text or a list of turns, whether there is one); `Skipped` in its place if the turns cannot be read.

    A conversation goes before a text beside it, which is the same in one piece.
    """
    if fields.text is not None:
        value, present = _dotted(record, fields.text)
        return as_turns(value), present
    conversations = [as_turns(record[name]) for name in CONVERSATION_FIELDS if name in record]
    for value in conversations:
        if isinstance(value, Skipped) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            return value, True
    order = (*CONVERSATION_FIELDS, "text") if fields.assistant_only else ("text", *CONVERSATION_FIELDS)
    return next(((record[name], True) for name in order if name in record), (None, False))


def _dotted(record: Any, name: str) -> tuple[Any, bool]:
    """(value, whether it is there) of a dotted field name; a key that itself holds the dots comes first."""
    if isinstance(record, dict):
        if name in record:
            return record[name], True
        head, _, rest = name.partition(".")
        if rest and head in record:
            return _dotted(record[head], rest)
    return None, False


def _source(record: dict[str, Any], shard: Shard, field: str | None) -> str:
    value, present = _dotted(record, field or DEFAULT_SOURCE_FIELD)
    if isinstance(value, (str, int)) and present and value != "":
        # A label goes into parquet, which holds UTF-8 only.
        return str(value).encode("utf-8", "replace").decode()
    return shard.source


def parse_json(line: bytes, number: int) -> Any:
    """The JSON value of a line, or `Skipped`.

    orjson is fast and strict. What it refuses is tried again with Python's reader, which takes NaN and lone surrogates
    (the text itself is then judged).
    """
    try:
        value = orjson.loads(line)
        bounded_json.check_depth(value, line)
        return value
    except bounded_json.TooDeep as error:
        return Skipped(number, Reason.BROKEN_JSON, str(error))
    except orjson.JSONDecodeError:
        pass
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return Skipped(number, Reason.INVALID_UTF8, _bad_byte(line, error))
    try:
        return bounded_json.loads(text)
    except ValueError as error:
        return Skipped(number, Reason.BROKEN_JSON, str(error).split(": line")[0])


def _bad_byte(data: bytes, error: UnicodeDecodeError) -> str:
    return f"byte 0x{data[error.start]:02x} at {error.start}"
