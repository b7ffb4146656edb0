"""Prompt files: JSONL with `{"prompt"}`, suites as they are published (Spec-Bench's `{"turns"}`, of which the first is used,
HumanEval's `{"task_id", "prompt", "entry_point"}`, GSM8K's `{"question"}`), conversations whose last question is to be
answered (`{"messages"}`, `{"conversations"}`), or texts to be continued."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frspec_cli.corpus.conversations import BadRecord, as_turns, parse_id, parse_messages
from frspec_cli.corpus.documents import CONVERSATION_FIELDS, Message, Skipped
from frspec_cli.corpus.jsonl import at, read_jsonl
from frspec_cli.errors import FrspecError, UsageError, option
from frspec_cli.tokens.rendering import Renderer
from frspec_cli.tokens.template import ChatTemplate

if TYPE_CHECKING:
    from frspec_cli.models.target import Target


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    id: the record's own `question_id`, `task_id` or `id`, else its line number. Unique in its file: it seeds sampling.
    category: the record's own `category` or `source`; else the suite's name if its form tells it, or "".
    plain: a text to be continued as it is, never put into a chat template.
    messages: the conversation that is to be continued, `text` its last message's; () for a single question.
    """

    text: str
    id: str
    category: str = ""
    plain: bool = False
    messages: tuple[Message, ...] = ()


def read_prompts(
    path: Path | str, *, limit: int | None = None, texts: bool = False, all_turns: bool = False
) -> list[Prompt]:
    """The prompts of a .jsonl file (plain, .gz or .zst), in file order; blank lines are ignored.

    limit: use the first N prompts.
    texts: also take records with `text` alone, as plain prompts.
    all_turns: of a conversation, each turn of the assistant's is a prompt (its id is the record's with `:1`, `:2`...), not
        the last alone.
    Raises `FrspecError` if the file is missing, broken or empty, a line is not a prompt, or two prompts share an id.
    """
    if not Path(path).exists():
        raise FrspecError(
            f"there is no file {path}.", hint='A line of such a file is {"prompt": "Why is the sky blue?"}.'
        )
    prompts: list[Prompt] = []
    line_of: dict[str, int] = {}
    found = (
        (number, prompt)
        for number, record in read_jsonl(path)
        for prompt in _prompts(record, number, where=at(path, number), texts=texts, all_turns=all_turns)
    )
    for number, prompt in islice(found, limit):
        first = line_of.setdefault(prompt.id, number)
        if first != number:
            raise FrspecError(
                f"{path}, lines {first:,} and {number:,}: two prompts have the id {prompt.id!r}.",
                hint="Make the ids differ, or leave them out: a prompt without an id is named by its line number.",
            )
        prompts.append(prompt)
    if not prompts:
        raise FrspecError(f"{path} holds no prompts.")
    return prompts


def prompt_ids(target: Target, prompt: Prompt, *, raw: bool = False) -> list[int]:
    """The ids that the target is given: a question or a conversation through its chat template, `raw` as plain text.

    Raises `FrspecError` if there is no template for a conversation, or the template refuses it.
    """
    if not prompt.messages:
        return target.prompt_ids(prompt.text, raw=raw or prompt.plain)
    if raw:
        raise UsageError(f"prompt {prompt.id} is a conversation, which {option('raw')} cannot render as text.")
    if not target.is_chat:
        raise FrspecError(f"prompt {prompt.id} is a conversation, and {target.name} has no chat template.")
    renderer = Renderer(ChatTemplate(target.processor.get_chat_template()))
    try:
        return target.chat_ids([renderer.fields(message) for message in prompt.messages])
    except FrspecError as error:
        raise FrspecError(f"prompt {prompt.id}: {error.message}", hint=error.hint) from None


def _prompts(record: Any, number: int, *, where: str, texts: bool, all_turns: bool) -> list[Prompt]:
    """The prompts of one record: one, or with `all_turns` one for each turn of the assistant's."""
    text, plain = None, False
    conversations: list[tuple[Message, ...]] = [()]
    if isinstance(record, dict):
        turns = record.get("turns")
        text = turns[0] if isinstance(turns, list) and turns else record.get("prompt")
        if not isinstance(text, str):
            conversations = _conversations(record, where=where, all_turns=all_turns)
            text = conversations[0][-1].content if conversations[0] else text
        text = record.get("question") if text is None else text
        if text is None and texts:
            text, plain = record.get("text"), True
    if not isinstance(text, str) or not (text or conversations[0]):
        forms = ['{"prompt": "..."}', '{"turns": ["...", ...]}', '{"question": "..."}', '{"messages": [...]}']
        forms += ['{"text": "..."}'] * texts
        known = f"{', '.join(forms[:-1])} or {forms[-1]}"
        raise FrspecError(f"{where} is not a prompt.", hint=f"A line is {known}.")
    try:
        own_id = next(filter(None, (parse_id(record.get(name)) for name in ("question_id", "task_id", "id"))), None)
    except BadRecord as error:
        raise FrspecError(f"{where} is not a prompt: {error}.") from None
    category, own_id = str(record.get("category") or record.get("source") or _suite(record)), own_id or str(number)
    if len(conversations) == 1:
        return [Prompt(text, own_id, category, plain, conversations[0])]
    return [
        Prompt(messages[-1].content, f"{own_id}:{turn}", category, messages=messages)
        for turn, messages in enumerate(conversations, start=1)
    ]


def _suite(record: dict[str, Any]) -> str:
    """The suite whose form a record has; "" for any other."""
    if {"task_id", "prompt", "entry_point"} <= record.keys():
        return "humaneval"
    return "gsm8k" if {"question", "answer"} <= record.keys() and "####" in str(record["answer"]) else ""


def _conversations(record: dict[str, Any], *, where: str, all_turns: bool) -> list[tuple[Message, ...]]:
    """The beginnings of the record's conversation that are to be continued; [()] if it has none."""
    values = [as_turns(record[name]) for name in ("prompt", *CONVERSATION_FIELDS) if record.get(name)]
    if not values:
        return [()]
    try:
        if isinstance(values[0], Skipped):
            raise BadRecord(values[0].detail)
        messages = parse_messages(values[0])
    except BadRecord as error:
        raise FrspecError(f"{where} is not a prompt: {error}.") from None
    ends = [
        end
        for end in range(1, len(messages) + 1)
        if messages[end - 1].role not in ("assistant", "system")
        and (end == len(messages) or messages[end].role == "assistant")
    ]
    if not ends:
        raise FrspecError(f"{where} is not a prompt: no turn of the conversation is to be answered.")
    return [tuple(messages[:end]) for end in (ends if all_turns else ends[-1:])]
