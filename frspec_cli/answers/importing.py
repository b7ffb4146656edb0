"""Answers that a serving engine recorded, as the answers that draft heads are trained on.

Read is OpenAI's batch output, as vLLM and SGLang write it: a line is {"custom_id", "response": {"body": {"choices"}}}, or a
body alone. Token ids are taken where the engine recorded them (vLLM's `return_token_ids`: `prompt_token_ids`, `token_ids`);
else the texts are put through the chat template, which gives the model's ids but where decoding and encoding is not the
identity. The questions are in the batch's input, by `custom_id`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frspec_cli import storage
from frspec_cli.corpus.conversations import BadRecord, as_turns, parse_answer, parse_messages, to_turn
from frspec_cli.corpus.documents import Message
from frspec_cli.corpus.jsonl import at, read_jsonl
from frspec_cli.errors import FrspecError, option
from frspec_cli.tokens.chat import ChatEncoder, chat_encoder
from frspec_cli.tokens.rendering import TurnSkipped
from frspec_cli.tokens.template_options import TemplateOptions
from frspec_cli.tokens.tokenizer import load_tokenizer

_FINISHED = {"stop": "stop", "tool_calls": "stop", "length": "length"}


@dataclass
class ImportedAnswers:
    """What was written, and what was not.

    answers, tokens: written.
    recorded: answers whose token ids the engine recorded.
    skipped: (file and line, why) of each answer that could not be used.
    """

    answers: int = 0
    tokens: int = 0
    recorded: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def import_answers(
    file: Path,
    out: Path,
    *,
    tokenizer: str,
    requests: Path | None = None,
    template: TemplateOptions | None = None,
) -> ImportedAnswers:
    """Writes the answers in `file` to `out`, in the form that `frspec collect` writes.

    tokenizer: the target's.
    requests: the batch's input, which holds the questions; None if the output holds the prompts' token ids.
    Raises `FrspecError` if no answer can be used.
    """
    encoder = chat_encoder(str(load_tokenizer(tokenizer).path), assistant_only=True, template=template)
    questions = {} if requests is None else dict(_questions(requests))
    imported, lines = ImportedAnswers(), []
    for number, record in read_jsonl(file):
        try:
            body = _body(record)
            custom_id = str(record.get("custom_id") or record.get("id") or number)
            question = questions.get(custom_id)
            for choice in _choices(body):
                answer = _record(encoder, choice, body, question)
                index = f":{choice['index']}" if len(body["choices"]) > 1 and "index" in choice else ""
                parsed = parse_answer(answer)
                encoder.check_ids(parsed.prompt_ids)
                encoder.check_ids(parsed.response_ids)
                lines.append(json.dumps({"id": custom_id + index, **answer}, ensure_ascii=False) + "\n")
                imported.answers += 1
                imported.tokens += len(parsed.response_ids)
                imported.recorded += "token_ids" in choice
        except BadRecord as error:
            imported.skipped.append((at(file, number), str(error)))
    if not lines:
        first = "{}: {}".format(*imported.skipped[0]) if imported.skipped else f"{file} is empty"
        raise FrspecError(f"{file} holds no answers that can be used; {first}.")
    storage.write_text(out, "".join(lines))
    return imported


def _questions(requests: Path) -> Iterator[tuple[str, Any]]:
    """(custom_id, body) of each request."""
    for number, record in read_jsonl(requests):
        if not isinstance(record, dict) or not isinstance(record.get("body"), dict):
            raise FrspecError(f"{at(requests, number)} is not a request: it has no body.")
        yield str(record.get("custom_id") or number), record["body"]


def _body(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise BadRecord("it is not a JSON object")
    if record.get("error"):
        raise BadRecord(f"the engine reported an error: {json.dumps(record['error'])[:200]}")
    response = record.get("response", {"body": record})
    body = response.get("body") if isinstance(response, dict) else None
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list) or not body["choices"]:
        raise BadRecord("it has no response with choices")
    return body


def _choices(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for choice in body["choices"]:
        if not isinstance(choice, dict):
            raise BadRecord("a choice is not an object")
        yield choice


def _record(
    encoder: ChatEncoder, choice: dict[str, Any], body: dict[str, Any], question: dict[str, Any] | None
) -> dict[str, Any]:
    """The answer as `frspec collect` writes it, but its id."""
    finish = _FINISHED.get(choice.get("finish_reason") or "")
    if finish is None:
        raise BadRecord(f"its finish_reason is {choice.get('finish_reason')!r}, expected stop, tool_calls or length")
    asked = _asked(question)
    [said] = parse_messages([choice.get("message") or {"role": "assistant", "content": choice.get("text")}])
    said = said._replace(finished=finish == "stop")
    prompt_ids = choice.get("prompt_token_ids", body.get("prompt_token_ids"))
    response_ids = choice.get("token_ids")
    if prompt_ids is None or response_ids is None:
        if not asked:
            raise BadRecord(f"its prompt is not known: name the batch's input with {option('requests')}")
        if "message" not in choice:
            raise BadRecord("a completion without token ids cannot be told from its prompt")
        try:
            before, answer = encoder.answer_ids([*asked, said])
        except TurnSkipped as skipped:
            raise BadRecord(f"{skipped.reason}: {skipped.detail}") from None
        prompt_ids = before if prompt_ids is None else prompt_ids
        response_ids = answer if response_ids is None else response_ids
    return {
        "conversations": [to_turn(message) for message in (*asked, said)],
        "prompt_token_ids": prompt_ids,
        "response_token_ids": response_ids,
        "finish": finish,
        **({"temperature": question["temperature"]} if question and question.get("temperature") else {}),
    }


def _asked(question: dict[str, Any] | None) -> list[Message]:
    if question is None:
        return []
    turns = as_turns(question.get("messages"))
    if isinstance(turns, list):
        return parse_messages(turns)
    prompt = question.get("prompt")
    return [Message("user", prompt)] if isinstance(prompt, str) else []
