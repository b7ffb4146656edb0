"""What is read from a corpus: documents, the messages of conversations, and skipped records with their reasons."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

DEFAULT_SOURCE_FIELD = "meta.redpajama_set_name"
CONVERSATION_FIELDS = ("conversations", "messages")


class Reason(StrEnum):
    """Why a record is skipped: the words under which it is counted in a table's metadata."""

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

    text: dotted name of the text (or conversation) field; None looks for `text`, then `conversations`, then `messages`.
    source: dotted name of the label; None looks for SlimPajama's.
    longest: bytes of text above which a record is skipped as too long.
    assistant_only: skip everything but conversations with an assistant turn.
    """

    text: str | None = None
    source: str | None = None
    longest: int = 16 << 20
    assistant_only: bool = False


class Message(NamedTuple):
    """One message of a conversation.

    ids: its recorded token ids (int32 [n]), end of turn included, or None.
    finished: whether the turn ended; False if the answer was cut off.
    """

    role: str
    content: str
    ids: np.ndarray | None = None
    finished: bool = True


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
