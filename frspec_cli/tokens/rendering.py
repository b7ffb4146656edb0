"""Conversations through a chat template, and where in the rendering an assistant's turn begins and ends.

A turn is rendered as the last one of the conversation so far: that is what the model was asked for, whatever the template
does to the turn later (Qwen3 drops the reasoning of earlier turns). It begins where the rendering with the turn departs
from the prompt for it, and ends with the token that ends turns. What the template writes there by itself, such as an empty
think block, was not said. A turn that cannot be told apart raises `TurnSkipped`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from frspec_cli import bounded_json
from frspec_cli.corpus.conversations import REASONING_FIELDS
from frspec_cli.corpus.documents import Message, Reason
from frspec_cli.errors import FrspecError
from frspec_cli.tokens.template import ChatTemplate

_OPEN = r"[<\[]\|?(?!/|end_)[\w:]{0,16}(?:think|reason)[\w:]{0,16}\|?[>\]]"
_CLOSE = r"[<\[]\|?(?:/|end_)[\w:]{0,16}(?:think|reason)[\w:]{0,16}\|?[>\]]"
_EMPTY_REASONING = re.compile(rf"\s{{0,8}}(?:{_OPEN}\s{{0,8}})?{_CLOSE}", re.IGNORECASE)
"""A block of reasoning without any, or its end alone if the prompt holds its beginning."""
_OPENED = re.compile(rf"{_OPEN}\s{{0,8}}$", re.IGNORECASE)
_CALL_NAME, _ARGUMENT = "probe_name", "probe_value"
_ARGUMENTS = {"probe_key": _ARGUMENT}
_PROBES = ("0", "~")
"""Two contents that begin differently: what their renderings share is the template's."""


class TurnSkipped(Exception):
    """An assistant turn that cannot be counted: its reason, and a detail that helps to find the cause."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class RenderedTurn(NamedTuple):
    """An assistant turn as text: what stands before it, and what the assistant said, the end of the turn included."""

    before: str
    said: str


class _CallForm(NamedTuple):
    """How a template takes tool calls.

    empty_content: the content of a turn that only calls a tool.
    strings, objects: whether it shows arguments that are a JSON string, an object.
    """

    empty_content: str | None
    strings: bool
    objects: bool

    def converted(self, call: dict[str, Any]) -> dict[str, Any]:
        """The call with its arguments in a form that the template shows: as they are, if it shows them so."""
        arguments = _function(call).get("arguments")
        if isinstance(arguments, str) and not self.strings:
            arguments = _as_object(arguments)
        elif not isinstance(arguments, str) and not self.objects:
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = _function(call) | {"arguments": arguments}
        return call | {"function": function} if call.get("function") else function


class Renderer:
    """Renders messages with one template."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        # A mention is an attribute or a key: the same word may be in the template's prose.
        self.reasoning_names = [name for name in REASONING_FIELDS if re.search(rf"[.'\"]{name}\b", template.source)]

    def prompt(self, messages: Sequence[Message]) -> str:
        """The prompt for the assistant's next turn. Raises `FrspecError` if the template refuses the messages."""
        return self._render(messages, generate=True)

    def turn(self, messages: Sequence[Message], index: int) -> RenderedTurn:
        """The assistant's turn `index`. Raises `TurnSkipped`."""
        message = messages[index]
        try:
            prompt = self.prompt(messages[:index])
            rendered = self._render(messages[: index + 1], generate=False)
        except FrspecError as error:
            raise TurnSkipped(Reason.REFUSED, f"turn {index + 1}: {_cause(error)}") from None
        start = len(prompt) if rendered.startswith(prompt) else self._departure(messages, index, prompt, rendered)
        if start is None:
            raise TurnSkipped(Reason.REWRITTEN, f"turn {index + 1}: the prompt for it is rendered differently with it")
        said = self._to_its_end(message, rendered[start:])
        opened = _OPENED.search(rendered, max(0, start - 64), start)  # the prompt's own beginning of the reasoning
        missing = _missing(message, rendered[opened.start() : start] if opened else "", said)
        if missing := missing or self._ignored(messages[: index + 1], rendered):
            raise TurnSkipped(Reason.REWRITTEN, f"turn {index + 1}: its {missing} is not in the rendering")
        inserted = self._not_said(message, said)
        return RenderedTurn(rendered[: start + inserted], said[inserted:])

    def _render(self, messages: Sequence[Message], *, generate: bool) -> str:
        return self.template.render([self.fields(message) for message in messages], generate=generate)

    def fields(self, message: Message) -> dict[str, Any]:
        """The message by the names that the template knows."""
        fields: dict[str, Any] = {"role": message.role, "content": message.content, **(message.extras or {})}
        if message.reasoning:
            fields |= dict.fromkeys(self.reasoning_names, message.reasoning)
        if message.tool_calls:
            form = self._call_form
            fields["content"] = message.content or form.empty_content
            fields["tool_calls"] = [form.converted(call) for call in message.tool_calls]
        return fields

    @cached_property
    def _call_form(self) -> _CallForm:
        """How this template takes tool calls, found by rendering one: families disagree."""
        for empty in (None, ""):
            shown = [self._shows_call(arguments, empty) for arguments in (json.dumps(_ARGUMENTS), _ARGUMENTS)]
            if any(shown):
                return _CallForm(empty, strings=shown[0], objects=shown[1])
        return _CallForm("", strings=True, objects=True)

    def _shows_call(self, arguments: Any, content: str | None) -> bool:
        call = {"id": "call12345", "type": "function", "function": {"name": _CALL_NAME, "arguments": arguments}}
        turn = {"role": "assistant", "content": content, "tool_calls": [call]}
        turns: list[dict[str, Any]] = [{"role": "user", "content": "0"}, turn]
        try:
            text = self.template.render(turns, generate=False)
        except FrspecError:
            return False
        # A string that is written as JSON once more has its quotes escaped.
        whole = arguments in text if isinstance(arguments, str) else f"'{_ARGUMENT}'" not in text
        return whole and _CALL_NAME in text and _ARGUMENT in text and not (content is None and "None" in text)

    def _ignored(self, messages: Sequence[Message], rendered: str) -> str:
        """The part of the last message that does not show in its rendering, found by changing it; "" if there is none.

        A short one may be in the rendering by chance.
        """
        last = messages[-1]
        changed = [("reasoning", last._replace(reasoning=last.reasoning + _PROBES[1]))] if last.reasoning else []
        if last.tool_calls and last.content.strip():
            changed.append(("content", last._replace(content=last.content + _PROBES[1])))
        for number, call in enumerate(last.tool_calls):
            function = _function(call) | {"name": _CALL_NAME}
            other = call | {"function": function} if call.get("function") else function
            calls = (*last.tool_calls[:number], other, *last.tool_calls[number + 1 :])
            changed.append((f"tool call {_function(call)['name']}", last._replace(tool_calls=calls)))
        for what, message in changed:
            try:
                if self._render([*messages[:-1], message], generate=False) == rendered:
                    return what
            except FrspecError:
                continue
        return ""

    def _not_said(self, message: Message, turn: str) -> int:
        """How many characters at the turn's beginning are an empty block of reasoning that the template inserted."""
        block = _EMPTY_REASONING.match(turn)
        if message.reasoning or block is None:
            return 0
        content = message.content.strip()
        usual = self._inserted
        if usual and turn.startswith(usual) and turn[len(usual) :].lstrip().startswith(content):
            return len(usual)
        if re.match(rf"(?:{_OPEN}|{_CLOSE})", content, re.IGNORECASE):
            return 0  # the assistant said it
        rest = turn[block.end() :]
        return block.end() + len(rest) - len(rest.lstrip())

    @cached_property
    def _inserted(self) -> str:
        """What the template writes before the content of a turn without reasoning, if that is an empty block of it."""
        question = [Message("user", _PROBES[0])]
        try:
            prompt = self.prompt(question)
            answers = [self._render([*question, Message("assistant", probe)], generate=False) for probe in _PROBES]
        except FrspecError:
            return ""
        head = answers[0][: _shared(answers)]
        inserted = head[_shared([head, prompt]) :]
        return inserted if _EMPTY_REASONING.match(inserted) else ""

    def _departure(self, messages: Sequence[Message], index: int, prompt: str, rendered: str) -> int | None:
        """Where the rendering with the turn departs from the prompt for it; None if that is inside an earlier turn.

        The content itself may begin like the rest of the prompt (a prompt that ends in `<think>`, an answer in `<table>`),
        so what is compared is also rendered with other contents.
        """
        try:
            history = self._render(messages[:index], generate=False)
            probes = [Message("assistant", probe) for probe in _PROBES]
            others = [self._render([*messages[:index], probe], generate=False) for probe in probes]
        except FrspecError:
            return None
        start = _shared([prompt, rendered, *others])
        return start if prompt.startswith(history) and start >= len(history) else None

    def _to_its_end(self, message: Message, turn: str) -> str:
        """The turn up to and including the token that ends it, which an unfinished one lacks."""
        if self.template.turn_end is None:
            return turn
        token = self.template.turn_end[0]
        after, complete = 0, True
        for _, text in _parts(message):
            form = next((form for form in _forms(text) if turn.find(form, after) >= 0), None)
            complete = complete and form is not None
            after = after if form is None else turn.find(form, after) + len(form)
        # What was said may itself hold the token: of a part that is written otherwise, the end is not known.
        end = turn.find(token, after) if complete else turn.rfind(token)
        said = turn[: end + len(token)] if end >= after else turn
        return said if message.finished else said.removesuffix(token)


def _missing(message: Message, opened: str, said: str) -> str:
    """What of the message is not in its rendering, white space aside; "" if all is.

    opened: the beginning of a block of reasoning at the end of the prompt, or "".
    A content with reasoning inside, which templates take apart, must be all of the turn.
    """
    squeezed: list[str] = []
    parts = _parts(message)
    for what, text in parts:
        thoughts = what == "content" and re.search(_CLOSE, text, re.IGNORECASE)
        elsewhere = thoughts and said.count(text) < sum(other.count(text) for _, other in parts)
        if text in said and not elsewhere and not (thoughts and _OPENED.search(said[: said.find(text)])):
            continue
        squeezed = squeezed or [_squeezed(said), _squeezed(opened + said)]
        forms = [_squeezed(form) for form in _forms(text)]
        if thoughts and not any(turn.startswith(forms[0]) for turn in squeezed):
            return what
        if not thoughts and not any(form in squeezed[1] for form in forms):
            return what
    return ""


def _parts(message: Message) -> list[tuple[str, str]]:
    """(its name, a text) of all that the message says, in the order in which templates write it."""
    parts = [("reasoning", message.reasoning.strip()), ("content", message.content.strip())]
    for call in message.tool_calls:
        name = _function(call)["name"]
        leaves = _leaves(_as_object(_function(call).get("arguments")))
        parts += [(f"tool call {name}", text.strip()) for text in (name, *leaves)]
    return parts


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _forms(text: str) -> tuple[str, str, str]:
    """The text as it is, and as it is written inside a JSON string."""
    return text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]


def _shared(texts: Sequence[str]) -> int:
    """How many characters the texts begin with alike."""
    first, last = min(texts), max(texts)
    return next((index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def _leaves(value: Any) -> Iterator[str]:
    """The strings in a tool call's arguments."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)


def _function(call: dict[str, Any]) -> dict[str, Any]:
    return call.get("function") or call


def _as_object(arguments: Any) -> Any:
    try:
        return bounded_json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _cause(error: FrspecError) -> str:
    return error.message.split("refuses a conversation: ")[-1].removesuffix(".")
