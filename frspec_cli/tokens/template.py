"""A tokenizer's chat template, and the token that ends a turn."""

from __future__ import annotations

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

    def render(self, messages: Sequence[dict[str, Any]], *, generate: bool) -> str:
        """The conversation as text. Raises `FrspecError` if the template refuses the messages.

        generate: add the prompt for the assistant's next turn.
        """
        from frspec_cli.models.chat_rendering import render

        variables = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        return render(self.source, messages, generate=generate, variables=variables)


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
    """The first added token after an assistant's text. Raises `OverBudget`: that template would stall at every turn."""
    from frspec_cli.models.chat_rendering import OverBudget

    try:
        text = template.render([_turn("user", "hello"), _turn("assistant", _PROBE)], generate=False)
    except OverBudget:
        raise
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
