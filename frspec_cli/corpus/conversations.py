"""The one parser of conversations and of recorded answers.

A conversation is a list of `{"role", "content"}` or of ShareGPT's `{"from", "value"}`; an assistant's turn may have
`reasoning_content` (or `reasoning`, `thinking`) and `tool_calls`. A recorded answer names the token
ids that the model emitted (`response_token_ids`): they are used as they are, since decoding and encoding again is not
the identity. `finish: "length"` says that the answer was cut off, so no turn ends there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frspec_cli import bounded_json
from frspec_cli.corpus.documents import CONVERSATION_FIELDS, Document, Fields, Message, Reason, Skipped
from frspec_cli.corpus.jsonl import at, read_jsonl
from frspec_cli.errors import FrspecError

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
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
_EXTRAS = ("name", "tool_call_id")
_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")


class BadRecord(ValueError):
    """A record that is not what it should be; the message says what is wrong with it."""


@dataclass(frozen=True, eq=False)
class RecordedAnswer:
    """One answer of a model, as `frspec collect` writes it.

    id: the record's own id, or None.
    prompt_ids, response_ids: int32 [n].
    finished: whether the model ended the answer itself.
    greedy: whether it was decoded without sampling.
    text: the assistant's last message, or None if the record holds no conversation.
    source: the record's label, "" if it has none.
    language: the record's own, "" if it names none.
    """

    id: str | None
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    finished: bool
    greedy: bool
    text: str | None
    source: str
    language: str = ""


def parse_answer(record: Any) -> RecordedAnswer:
    """The recorded answer in a JSON object. Raises `BadRecord`."""
    if not isinstance(record, dict):
        raise BadRecord("it is not a JSON object")
    for name in ("prompt_token_ids", "response_token_ids", "finish"):
        if name not in record:
            raise BadRecord(f"it has no field {name!r}")
    finish = record["finish"]
    if finish not in ("stop", "length"):
        raise BadRecord(f'finish is {finish!r}, expected "stop" or "length"')
    turns = next((record[name] for name in CONVERSATION_FIELDS if record.get(name)), ())
    assistant = [message for message in parse_messages(turns) if message.role == "assistant"]
    return RecordedAnswer(
        id=parse_id(record.get("id")),
        prompt_ids=_token_ids(record, "prompt_token_ids"),
        response_ids=_token_ids(record, "response_token_ids"),
        finished=finish == "stop",
        greedy=not record.get("temperature"),
        text=assistant[-1].content if assistant else None,
        source=str(record.get("source") or ""),
        language=str(record.get("language") or ""),
    )


def read_answer_records(path: Path | str) -> Iterator[tuple[int, RecordedAnswer]]:
    """(line number, answer) of every record in a file of JSON lines. Raises `FrspecError`, naming the line."""
    for number, record in read_jsonl(path):
        try:
            yield number, parse_answer(record)
        except BadRecord as error:
            raise FrspecError(
                f"{at(path, number)} is not a recorded answer: {error}.", hint="`frspec collect` writes them."
            ) from None


def parse_id(value: Any) -> str | None:
    """A record's own id as a string; None if it is missing, null or empty. Raises `BadRecord` for other types."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRecord(f"its id is a {type(value).__name__}, expected a string or a number")
    return str(value)


def parse_messages(turns: Any, assistant_role: str | None = None) -> list[Message]:
    """The messages of a conversation, roles by their usual names. Raises `BadRecord`.

    assistant_role: a further name of the assistant's role.
    """
    if not isinstance(turns, list | tuple):
        raise BadRecord(f"the conversation is a {type(turns).__name__}, expected a list")
    messages = []
    for number, turn in enumerate(turns, start=1):
        try:
            message = _message(turn)
        except BadRecord as error:
            raise BadRecord(f"turn {number} {error}") from None
        messages.append(message._replace(role="assistant") if message.role == assistant_role else message)
    return messages


def to_turn(message: Message) -> dict[str, Any]:
    """The message as it is written into records."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content, **(message.extras or {})}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = list(message.tool_calls)
    return turn


def as_turns(value: Any) -> Any:
    """The list of turns in a value: itself, JSON in a string, or columns of one list a field (as `datasets` has them).

    Anything else is returned as it is; `Skipped` (its line is 0) if these are turns that cannot be read.
    """
    if isinstance(value, str) and _LIST_OF_OBJECTS.match(value):
        try:
            turns = bounded_json.loads(value)
        except ValueError:
            looks_alike = re.search(r"[\"'](role|from)[\"']\s*:", value[:200])
            return (
                Skipped(0, Reason.BAD_CONVERSATION, "a string of turns that is not valid JSON")
                if looks_alike
                else value
            )
        is_turn = isinstance(turns, list) and isinstance(turns[0], dict) and turns[0].keys() & {"role", "from"}
        return turns if is_turn else value
    if isinstance(value, dict) and value.keys() & {"role", "from"} and all(isinstance(v, list) for v in value.values()):
        if len({len(column) for column in value.values()}) > 1:
            return Skipped(0, Reason.BAD_CONVERSATION, "its columns have different lengths")
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    return value


def conversation_document(
    record: dict[str, Any], turns: list[Any], line: int, source: str, fields: Fields
) -> Document | Skipped:
    """A document from a record whose text field holds a list of turns."""
    try:
        messages = _with_recorded_ids(record, parse_messages(turns, fields.assistant_role))
        data = "".join(text for message in messages for text in message.texts()).encode()
    except UnicodeEncodeError:
        return Skipped(line, Reason.INVALID_UTF8, "a lone surrogate")
    except BadRecord as error:
        return Skipped(line, Reason.BAD_CONVERSATION, str(error))
    if len(data) > fields.longest:
        return Skipped(line, Reason.TOO_LONG, f"{len(data):,} bytes")
    if not data and all(message.ids is None for message in messages):
        return Skipped(line, Reason.EMPTY)
    return Document(line, source, "", data, tuple(messages))


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise BadRecord("has no role and text")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):  # parts: text and pictures
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(text for text in texts if isinstance(text, str))
    if content is None:  # a turn that only calls a tool
        content = ""
    if not isinstance(role, str) or not isinstance(content, str):
        raise BadRecord("has no role and text")
    extras = {name: turn[name] for name in _EXTRAS if isinstance(turn.get(name), str)}
    return Message(
        _ROLES.get(role, role),
        content,
        reasoning=_reasoning(turn),
        tool_calls=_tool_calls(turn.get("tool_calls")),
        extras=extras or None,
    )


def _reasoning(turn: dict[str, Any]) -> str:
    values = {name: turn[name] for name in REASONING_FIELDS if turn.get(name)}
    for name, value in values.items():
        if not isinstance(value, str):
            raise BadRecord(f"has a {name} of type {type(value).__name__}, expected a string")
    return next((value for value in values.values() if value.strip()), "")


def _tool_calls(calls: Any) -> tuple[dict[str, Any], ...]:
    if not calls:
        return ()
    if not isinstance(calls, list | tuple) or not all(isinstance(call, dict) for call in calls):
        raise BadRecord("has tool_calls that are not a list of objects")
    for call in calls:
        function = call.get("function") or call
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRecord("has a tool call without a name")
    return tuple(calls)


def _with_recorded_ids(record: dict[str, Any], messages: list[Message]) -> list[Message]:
    """The messages, the last assistant turn with its recorded ids and whether it was finished."""
    if not messages or messages[-1].role != "assistant":
        return messages
    last = messages[-1]._replace(finished=record.get("finish") != "length")
    if record.get("response_token_ids") is not None:
        last = last._replace(ids=_token_ids(record, "response_token_ids"))
    return [*messages[:-1], last]


def _token_ids(record: dict[str, Any], field: str) -> np.ndarray:
    """int32 [n]: the ids in a field. Raises `BadRecord`."""
    ids = record[field]
    if not isinstance(ids, list) or not all(type(index) is int for index in ids):
        raise BadRecord(f"{field} is not a list of integers")
    try:
        array = np.asarray(ids, dtype=np.int32)
    except OverflowError:
        raise BadRecord(f"{field} holds a number that is too large for a token id") from None
    if len(array) and array.min() < 0:
        raise BadRecord(f"{field} holds a negative id")
    return array
