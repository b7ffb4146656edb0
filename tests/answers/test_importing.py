"""Answers that vLLM and SGLang recorded become training data: their ids where recorded, else the chat template's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from frspec_cli.answers.importing import import_answers
from frspec_cli.answers.records import read_answers
from frspec_cli.errors import FrspecError, option
from frspec_cli.tokens.tokenizer import load_tokenizer
from tests.counting.corpora import byte_level, write_jsonl

QUESTION = {"role": "user", "content": "hens?"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level(tmp_path_factory.mktemp("model"))


def _request(custom_id: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def _response(custom_id: str, choice: dict[str, Any], **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "response": {"status_code": 200, "body": {"choices": [choice], **body}}}


def _choice(text: str, finish: str = "stop", **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"index": 0, "message": message, "finish_reason": finish, **fields}


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_texts_go_through_the_template_and_recorded_ids_stay(tmp_path: Path, tokenizer: Path) -> None:
    requests = write_jsonl(
        tmp_path / "in.jsonl",
        [
            _request("a", messages=[QUESTION]),
            _request("b", messages=[QUESTION], temperature=0.7),
            _request("c", messages=[]),
        ],
    )
    output = write_jsonl(
        tmp_path / "out.jsonl",
        [
            _response("b", _choice("the fox", "length")),
            _response("a", _choice("the fox", token_ids=[7, 8, 0]), prompt_token_ids=[5, 6]),
            _response("a2", _choice("the fox")),
            {"custom_id": "d", "response": None, "error": {"message": "too long"}},
            _response("e", _choice("the fox", "content_filter")),
        ],
    )
    out = tmp_path / "answers.jsonl"
    imported = import_answers(output, out, tokenizer=str(tokenizer), requests=requests)
    assert (imported.answers, imported.recorded) == (2, 1)
    assert imported.skipped == [
        (f"{output}, line 3", f"its prompt is not known: name the batch's input with {option('requests')}"),
        (f"{output}, line 4", 'the engine reported an error: {"message": "too long"}'),
        (f"{output}, line 5", "its finish_reason is 'content_filter', expected stop, tool_calls or length"),
    ]
    first, second = _records(out)
    loaded = load_tokenizer(str(tokenizer))
    loaded.backend.encode_special_tokens = False
    prompt, answer = (
        ids.tolist() for ids in loaded.encode_batch(["<|turn|>user\nhens?<|end|>\n<|turn|>assistant\n", "the fox"])
    )
    assert first == {
        "id": "b",
        "conversations": [QUESTION, {"role": "assistant", "content": "the fox"}],
        "prompt_token_ids": prompt,
        "response_token_ids": answer,
        "finish": "length",
        "temperature": 0.7,
    }
    assert (second["id"], second["prompt_token_ids"], second["response_token_ids"]) == ("a", [5, 6], [7, 8, 0])
    assert [read.finished for read in read_answers(out, vocab_size=400)] == [False, True]


def test_an_id_of_another_tokenizer_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    output = write_jsonl(
        tmp_path / "out.jsonl", [_response("a", _choice("x", token_ids=[99999]), prompt_token_ids=[5])]
    )
    with pytest.raises(FrspecError, match="token id 99999 is past the tokenizer's last one"):
        import_answers(output, tmp_path / "answers.jsonl", tokenizer=str(tokenizer))


def test_a_file_without_answers_is_refused(tmp_path: Path, tokenizer: Path, cli) -> None:
    output = write_jsonl(tmp_path / "out.jsonl", [{"prompt": "x"}])
    code, _, err = cli("import-answers", output, "--model", tokenizer, "-o", tmp_path / "answers.jsonl")
    assert code == 1
    assert "holds no answers that can be used" in " ".join(err.split())
    assert not (tmp_path / "answers.jsonl").exists()
