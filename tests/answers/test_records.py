"""Recorded answers are read as they were written; a record that is not one is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard

from frspec_cli.answers.records import read_answers
from frspec_cli.errors import FrspecError

ANSWER = {"prompt_token_ids": [1], "response_token_ids": [1, 2], "finish": "stop"}


def _write(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(ANSWER | record) + "\n" for record in records))
    return path


def test_answers_keep_what_the_records_say(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "answers.jsonl",
        {"id": "a", "source": "qa"},
        {"response_token_ids": [7]},  # a single token: nothing for a draft to learn
        {"prompt_token_ids": [4, 5], "response_token_ids": [6, 7, 8], "finish": "length", "temperature": 0.7},
    )
    first, last = read_answers(path, vocab_size=97)
    assert (first.ids.tolist(), first.prompt_length, first.finished, first.greedy) == ([1, 1, 2], 1, True, True)
    assert (last.ids.tolist(), last.prompt_length, last.finished, last.greedy) == ([4, 5, 6, 7, 8], 2, False, False)
    assert [(answer.id, answer.source) for answer in (first, last)] == [("a", "qa"), ("3", "")]
    assert [answer.id for answer in read_answers(path, vocab_size=97, limit=1)] == ["a"]


@pytest.mark.parametrize("missing", [{}, {"id": None}, {"id": ""}])
def test_an_answer_without_an_id_goes_by_its_line(tmp_path: Path, missing: dict) -> None:
    path = _write(tmp_path / "answers.jsonl", {"id": 17}, missing, missing)
    assert [answer.id for answer in read_answers(path, vocab_size=97)] == ["17", "2", "3"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not valid JSON"),
        ('{"prompt_token_ids": [1], "response_token_ids": [1, 2]}', "no field 'finish'"),
        ('{"prompt_token_ids": [1], "response_token_ids": [1, 97], "finish": "stop"}', "token id 97"),
        ('{"prompt_token_ids": [1], "response_token_ids": [1, 2], "finish": "eos"}', "finish is 'eos'"),
        ('{"prompt_token_ids": [1], "response_token_ids": [1, 2.5], "finish": "stop"}', "is not a list of integers"),
        ('{"prompt_token_ids": [1], "response_token_ids": [1, -2], "finish": "stop"}', "holds a negative id"),
        ("[1, 2]", "is not a JSON object"),
        ('{"prompt_token_ids": [], "response_token_ids": [1, 2], "finish": "stop"}', "prompt_token_ids is empty"),
    ],
)
def test_a_broken_answer_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prompt_token_ids": [1], "response_token_ids": [1, 2], "finish": "stop"}\n' + line + "\n")
    with pytest.raises(FrspecError, match=f"answers.jsonl, line 2.*{message}"):
        read_answers(path, vocab_size=97)


def test_missing_and_broken_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FrspecError, match="there is no file"):
        read_answers(tmp_path / "none.jsonl", vocab_size=97)
    broken = tmp_path / "broken.jsonl.zst"
    line = b'{"prompt_token_ids": [1], "response_token_ids": [1, 2], "finish": "stop"}\n'
    for content in (b"no zstandard at all", zstandard.ZstdCompressor().compress(line * 9000)[:-7]):
        broken.write_bytes(content)
        with pytest.raises(FrspecError, match="is broken"):
            read_answers(broken, vocab_size=97)
