"""Chat templates, rendered as transformers does (sandboxed Jinja), and the token that ends a turn."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from frspec_cli.errors import FrspecError
from frspec_cli.tokens.tokenizer import LoadedTokenizer, token_text

_PROBE = "frspec probes here"


@dataclass(frozen=True)
class ChatTemplate:
    """A template and what it refers to.

    source: Jinja.
    turn_end: (token, id) that ends an assistant turn, or None.
    """

    source: str
    bos_token: str = ""
    eos_token: str = ""
    turn_end: tuple[str, int] | None = None

    def render(self, messages: Sequence[dict[str, str]], *, generate: bool) -> str:
        """The conversation as text. Raises `FrspecError` if the template refuses the messages.

        generate: add the prompt for the assistant's next turn.
        """
        import jinja2

        variables = {"bos_token": self.bos_token, "eos_token": self.eos_token, "tools": None, "documents": None}
        try:
            return _compiled(self.source).render(messages=list(messages), add_generation_prompt=generate, **variables)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise FrspecError(f"the chat template refuses a conversation: {error}.") from None


def chat_template(tokenizer: LoadedTokenizer) -> ChatTemplate | None:
    """The tokenizer's chat template, its turn end found by rendering a probe; None if it has no template."""
    if not tokenizer.chat_templates:
        return None
    config = tokenizer.beside("tokenizer_config.json")
    bos, eos = (token_text(config.get(name)) for name in ("bos_token", "eos_token"))
    template = ChatTemplate(tokenizer.chat_templates[0], bos, eos)
    return replace(template, turn_end=_turn_end(template, tokenizer))


def end_of_turn(tokenizer: LoadedTokenizer) -> int | None:
    """The id that ends an assistant turn: the template's, else the end of sequence; None if there is neither."""
    template = chat_template(tokenizer)
    if template is not None and template.turn_end is not None:
        return template.turn_end[1]
    eos = token_text(tokenizer.beside("tokenizer_config.json").get("eos_token"))
    return tokenizer.id_of(eos) if eos else next(iter(tokenizer.eos_ids), None)


def _turn_end(template: ChatTemplate, tokenizer: LoadedTokenizer) -> tuple[str, int] | None:
    """The first added token after an assistant's text."""
    try:
        text = template.render([_turn("user", "hello"), _turn("assistant", _PROBE)], generate=False)
    except FrspecError:
        return None
    added = {token: index for index, token in tokenizer.added.items() if token.strip()}
    if _PROBE not in text or not added:
        return None
    names = "|".join(re.escape(name) for name in sorted(added, key=len, reverse=True))
    match = re.search(names, text.split(_PROBE)[-1])
    return (match[0], added[match[0]]) if match else None


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@functools.lru_cache(maxsize=4)
def _compiled(source: str) -> Any:
    return _environment().from_string(source)


def _environment() -> Any:
    """Jinja as chat templates expect it: blocks trimmed, loop controls, and a way to refuse."""
    import datetime

    import jinja2.exceptions
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, **options)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment
