"""Conversations in all the shapes in which data sets hold them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from frspec_cli.corpus.documents import Document, Fields, Skipped
from frspec_cli.corpus.records import record_document
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import pieces
from frspec_cli.errors import option

SHARD = Shard("here", ("here",), "jsonl")
TURNS = [{"role": "user", "content": "hens?"}, {"role": "assistant", "content": "the fox"}]


def _read(record: dict[str, Any], **fields: Any) -> list[tuple[str, str]] | str:
    """(role, content) of each message, the text, or the reason and detail of what is skipped."""
    item = record_document(record, 1, SHARD, Fields(**fields))
    if isinstance(item, Skipped):
        assert item.line == 1
        return f"{item.reason}: {item.detail}"
    assert isinstance(item, Document)
    return item.text if item.messages is None else [(message.role, message.content) for message in item.messages]


@pytest.mark.parametrize("assistant_only", [False, True])
@pytest.mark.parametrize(
    "record",
    [
        {"messages": TURNS},
        {"conversations": json.dumps(TURNS)},
        {"conversations": "\n " + json.dumps(TURNS, indent=1)},
        {"messages": {"role": ["user", "assistant"], "content": ["hens?", "the fox"]}},
        {"text": "user: hens? assistant: the fox", "messages": TURNS},
        {"text": None, "messages": TURNS},
        {"conversations": None, "messages": TURNS},
        {"conversations": {"from": ["human", "gpt"], "value": ["hens?", "the fox"]}},
    ],
)
def test_a_conversation_is_found_in_its_shape(record: dict[str, Any], assistant_only: bool) -> None:
    assert _read(record, assistant_only=assistant_only) == [("user", "hens?"), ("assistant", "the fox")]


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        ({"text": json.dumps(TURNS)}, json.dumps(TURNS)),
        ({"text": "a", "messages": []}, "a"),
        ({"conversations": "the fox"}, "the fox"),
        ({"conversations": '[{"a": 1}]'}, '[{"a": 1}]'),
        ({"conversations": str(TURNS)}, "bad conversation: a string of turns that is not valid JSON"),
        ({"messages": {"role": ["user"], "content": []}}, "bad conversation: its columns have different lengths"),
        ({"messages": [TURNS[0], {"role": "assistant", "reasoning": 3}]},
         "bad conversation: turn 2 has a reasoning of type int, expected a string"),
        ({"messages": [TURNS[0], {"role": "assistant", "tool_calls": "f()"}]},
         "bad conversation: turn 2 has tool_calls that are not a list of objects"),
        ({"messages": [TURNS[0], {"role": "assistant", "tool_calls": [{"function": {}}]}]},
         "bad conversation: turn 2 has a tool call without a name"),
    ],
)  # fmt: skip
def test_what_is_not_a_conversation_stays_text_or_is_skipped(record: dict[str, Any], outcome: str) -> None:
    assert _read(record) == outcome


def test_reasoning_and_tool_calls_are_kept_and_make_a_document() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    turns = [TURNS[0], {"role": "assistant", "content": None, "thinking": "a hen", "tool_calls": [call]}]
    item = record_document({"messages": turns}, 1, SHARD, Fields())
    assert isinstance(item, Document)
    assert item.data == b'hens?a henf{"x": 1}'
    assert item.messages is not None
    assert (item.messages[1].reasoning, item.messages[1].tool_calls) == ("a hen", (call,))


def test_a_role_of_the_users_is_the_assistant() -> None:
    turns = [TURNS[0], TURNS[1] | {"role": "laguna_s"}]
    assert _read({"messages": turns}, assistant_only=True) == (
        f"no assistant turn: its roles are user, laguna_s; name the assistant's with {option('assistant_role')}"
    )
    assert _read({"messages": turns}, assistant_only=True, assistant_role="laguna_s") == [
        ("user", "hens?"),
        ("assistant", "the fox"),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_texts_between_separators(size: int) -> None:
    data = b"one<|>two two<|><|>x" + b"y" * 20 + b"<|>three<|>\n"
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert list(pieces(chunks, b"<|>", longest=10)) == [b"one", b"two two", b"", None, b"three"]
