"""Conversations: the messages' text and the ends of turns, never the template's own words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frspec_cli.corpus.documents import Document, Fields, Message, Skipped
from frspec_cli.corpus.records import record_document
from frspec_cli.corpus.shards import Shard
from frspec_cli.errors import FrspecError
from frspec_cli.tokens.chat import chat_encoder
from frspec_cli.tokens.encoder import ReferenceEncoder
from frspec_cli.tokens.template import chat_template, end_of_turn
from frspec_cli.tokens.tokenizer import load_tokenizer
from tests.counting.corpora import TEMPLATE, byte_level

SHARD = Shard("here", ("here",), "jsonl")
TURNS = [("user", "count the hens"), ("assistant", "the fox"), ("user", "more"), ("assistant", "\nover the dog ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level(tmp_path_factory.mktemp("chat"))


def _ids(folder: Path, messages: list[Message], *, assistant_only: bool = False) -> list[int]:
    tokenizer = load_tokenizer(str(folder))
    encoder = chat_encoder(str(tokenizer.path), assistant_only=assistant_only)
    document = Document(1, "here", "", b"", tuple(messages))
    return encoder.encode([document], ReferenceEncoder(tokenizer))[0].ids.tolist()


def _messages(turns: list[tuple[str, str]] = TURNS) -> list[Message]:
    return [Message(role, content) for role, content in turns]


def _plain(folder: Path, text: str) -> list[int]:
    return load_tokenizer(str(folder)).encode_batch([text])[0].tolist()


def test_the_turn_end_is_the_token_after_the_answer(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    template = chat_template(tokenizer)
    assert template is not None
    assert template.turn_end == ("<|end|>", 0)
    assert end_of_turn(tokenizer) == 0


def test_contents_and_turn_ends_are_counted(folder: Path) -> None:
    expected = [token for role, text in TURNS for token in _plain(folder, text) + [0] * (role == "assistant")]
    assert _ids(folder, _messages()) == expected


def test_assistant_only_is_what_the_assistant_said(folder: Path) -> None:
    expected = [token for role, text in TURNS if role == "assistant" for token in [*_plain(folder, text), 0]]
    assert _ids(folder, _messages(), assistant_only=True) == expected


def test_recorded_ids_are_used_as_they_are(folder: Path) -> None:
    messages = [*_messages(TURNS[:1]), Message("assistant", "the fox", np.array([7, 8, 0], np.int32))]
    assert _ids(folder, messages, assistant_only=True) == [7, 8, 0]
    assert _ids(folder, messages) == [*_plain(folder, TURNS[0][1]), 7, 8, 0]
    with pytest.raises(FrspecError, match="recorded token id 99999 is past the tokenizer's last one"):
        _ids(folder, [Message("assistant", "x", np.array([99999], np.int32))])


@pytest.mark.parametrize("assistant_only", [False, True])
def test_a_cut_answer_ends_no_turn(folder: Path, assistant_only: bool) -> None:
    record = {"conversations": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "the"}]}
    for finish, ends in (("stop", [0]), ("length", [])):
        document = record_document(record | {"finish": finish}, 1, SHARD, Fields())
        assert isinstance(document, Document)
        ids = _ids(folder, list(document.messages or ()), assistant_only=assistant_only)
        assert ids == [*([] if assistant_only else _plain(folder, "hi")), *_plain(folder, "the"), *ends]


def test_a_template_that_rewrites_earlier_turns_counts_each_as_it_was_said(tmp_path: Path) -> None:
    folder = byte_level(tmp_path)
    rewriting = TEMPLATE.replace(
        "message['content']", "(message['content'] if loop.last or message['role'] == 'user' else '...')"
    )
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": rewriting}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    expected = [token for role, text in TURNS if role == "assistant" for token in [*_plain(folder, text), 0]]
    assert _ids(folder, _messages(), assistant_only=True) == expected


def test_without_a_template_contents_and_the_end_of_sequence_count(tmp_path: Path) -> None:
    folder = byte_level(tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    assert _ids(folder, _messages(TURNS[:2]), assistant_only=True) == [*_plain(folder, "the fox"), 0]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"conversations": [{"role": "user", "content": "hi"}, {"role": "assistant"}]}, None),
        ({"conversations": [{"from": "human", "value": "hi"}]}, "no assistant turn"),
        ({"conversations": [{"role": 3, "content": "hi"}]}, "bad conversation"),
        ({"conversations": [{"role": "assistant", "content": "x"}], "response_token_ids": ["a"]}, "bad conversation"),
        ({"conversations": [{"role": "assistant", "content": "x"}], "response_token_ids": [-1]}, "bad conversation"),
        (
            {"conversations": [{"role": "assistant", "content": "x"}], "response_token_ids": [1 << 40]},
            "bad conversation",
        ),
        ({"conversations": [{"role": "assistant", "content": "\ud800"}]}, "invalid UTF-8"),
        ({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]}, None),
        ({"text": "plain"}, "no assistant turn"),
    ],
)
def test_records_of_all_shapes(record: dict, reason: str | None) -> None:
    document = record_document(record, 1, SHARD, Fields(assistant_only=True))
    assert (document.reason if isinstance(document, Skipped) else None) == reason


def test_a_template_file_is_read_as_utf8_whatever_the_locale(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text("\u00fcber {{ messages }}", encoding="utf-8")
    code = (
        "import sys; from frspec_cli.tokens.tokenizer import load_tokenizer; "
        "sys.stdout.buffer.write(load_tokenizer(sys.argv[1]).chat_templates[0].encode())"
    )
    # The warning is raised wherever a text is read in the locale's encoding.
    flags = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    run = subprocess.run([sys.executable, *flags, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert (run.returncode, run.stdout.decode()) == (0, "\u00fcber {{ messages }}"), run.stderr.decode()
