"""What is read from a corpus: documents, the messages of conversations, and skipped records with their reasons."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

DEFAULT_SOURCE_FIELD = "meta.redpajama_set_name"
CONVERSATION_FIELDS = ("conversations", "messages")


class Reason(StrEnum):
    """Why a record is skipped: the words under which it is counted in a table's metadata."""

    BROKEN_JSON = "broken JSON"
    BROKEN_CSV = "broken CSV"
    RAGGED = "another number of fields"
    MISSING = "missing field"
    NULL = "null"
    NOT_A_STRING = "not a string"
    INVALID_UTF8 = "invalid UTF-8"
    TOO_LONG = "too long"
    EMPTY = "empty"
    BAD_CONVERSATION = "bad conversation"
    NO_CONVERSATION = "no assistant turn"
    REFUSED = "refused by the chat template"
    REWRITTEN = "rewritten by the chat template"


@dataclass(frozen=True)
class Fields:
    """Where a record keeps what is counted.

    text: dotted name of the text (or conversation) field; None looks for `text`, then `conversations`, then `messages`.
    source: dotted name of the label; None looks for SlimPajama's.
    longest: bytes of text above which a record is skipped as too long.
    assistant_only: skip everything but conversations with an assistant turn.
    assistant_role: a role, such as a model's name, that means the assistant; None for the usual ones alone.
    split_on: the string between documents in a file of plain text; None if a file is one document.
    """

    text: str | None = None
    source: str | None = None
    longest: int = 16 << 20
    assistant_only: bool = False
    assistant_role: str | None = None
    split_on: str | None = None


class Message(NamedTuple):
    """One message of a conversation.

    ids: its recorded token ids (int32 [n]), end of turn included, or None.
    finished: whether the turn ended; False if the answer was cut off.
    reasoning: what the assistant wrote before its content, "" if nothing.
    tool_calls: as OpenAI writes them ({"function": {"name", "arguments"}}, or the inner object alone).
    extras: other fields that templates read (`name`, `tool_call_id`), or None.
    """

    role: str
    content: str
    ids: np.ndarray | None = None
    finished: bool = True
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    extras: dict[str, str] | None = None

    def texts(self) -> list[str]:
        """All that was written in this message, without a template's words: reasoning, content, tool calls."""
        calls = [text for call in self.tool_calls for text in call_texts(call)]
        return [*([self.reasoning] if self.reasoning else []), self.content, *calls]


def call_texts(call: dict[str, Any]) -> list[str]:
    """A tool call's name and its arguments as text; empty ones are left out."""
    function = call.get("function") or call
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return [text for text in (function.get("name"), arguments) if isinstance(text, str) and text]


class Document(NamedTuple):
    """What is counted as one unit.

    line: its number in the shard, from 1.
    data: the text in UTF-8, from which its size and fold are taken.
    messages: the conversation, or None for plain text; with messages, `text` is empty.
    """

    line: int
    source: str
    text: str
    data: bytes
    messages: tuple[Message, ...] | None = None


class Skipped(NamedTuple):
    """A record that is not counted.

    line: its number in the shard, from 1.
    detail: what helps to find the cause.
    file: its name if the record is a whole file, else "".
    """

    line: int
    reason: Reason
    detail: str = ""
    file: str = ""
