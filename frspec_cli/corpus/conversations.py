"""Records that are conversations: `{"role", "content"}` or ShareGPT's `{"from", "value"}`, and recorded answers.

A recorded answer names the token ids that the model really made (`response_token_ids`): they are counted as they are,
since to decode and encode again is not the identity. `finish: "length"` says that the answer was cut: no turn ends there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from frspec_cli.corpus.documents import (
    BAD_CONVERSATION,
    EMPTY,
    INVALID_UTF8,
    TOO_LONG,
    Document,
    Message,
    Skipped,
)

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
}


def of_conversation(
    record: dict[str, Any], turns: list[Any], line: int, source: str, longest: int
) -> Document | Skipped:
    """A document from a record whose text field holds a list of turns."""
    messages: list[Message] = []
    for turn in turns:
        message = _message(turn)
        if message is None:
            return Skipped(line, BAD_CONVERSATION, f"turn {len(messages) + 1} has no role and text")
        messages.append(message)
    try:
        messages = _with_recorded(record, messages)
        data = "".join(message.content for message in messages).encode()
    except UnicodeEncodeError:
        return Skipped(line, INVALID_UTF8, "a lone surrogate")
    except (TypeError, ValueError, OverflowError) as error:
        return Skipped(line, BAD_CONVERSATION, f"response_token_ids: {error}")
    if len(data) > longest:
        return Skipped(line, TOO_LONG, f"{len(data):,} bytes")
    if not data and all(message.ids is None for message in messages):
        return Skipped(line, EMPTY)
    return Document(line, source, "", data, tuple(messages))


def _message(turn: Any) -> Message | None:
    if not isinstance(turn, dict):
        return None
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):  # parts: text and pictures
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(text for text in texts if isinstance(text, str))
    if content is None:  # a turn that only calls a tool
        content = ""
    if not isinstance(role, str) or not isinstance(content, str):
        return None
    return Message(_ROLES.get(role, role), content)


def _with_recorded(record: dict[str, Any], messages: list[Message]) -> list[Message]:
    """The last assistant turn with its recorded ids and whether it was finished."""
    ids = record.get("response_token_ids")
    finished = record.get("finish") != "length"
    if not messages or messages[-1].role != "assistant":
        return messages
    last = messages[-1]._replace(finished=finished)
    if ids is not None:
        if not isinstance(ids, list) or not all(type(index) is int for index in ids):
            raise TypeError("not a list of integers")
        array = np.asarray(ids, dtype=np.int32)
        if len(array) and array.min() < 0:
            raise ValueError("a negative id")
        last = last._replace(ids=array)
    return [*messages[:-1], last]
