"""What the user says about the chat template. No numpy and no jinja here: the command line reads it too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frspec_cli import bounded_json
from frspec_cli.errors import FrspecError, UsageError, option


@dataclass(frozen=True)
class TemplateOptions:
    """A chat template in place of the tokenizer's own, and values for the variables that it reads.

    source: Jinja; None for the tokenizer's own template.
    arguments: variable -> value, such as {"enable_thinking": False}.
    """

    source: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def apply(self, sources: Sequence[str]) -> tuple[str, ...]:
        """The templates to render, given the tokenizer's own.

        The arguments become assignments at the template's beginning.
        """
        used = sources if self.source is None else (self.source,)
        assignments = "".join(f"{{% set {name} = {_literal(value)} %}}" for name, value in self.arguments.items())
        # The empty expression keeps a first newline of the template, which Jinja would trim after a block.
        return tuple((assignments and assignments + "{{ '' }}") + source for source in used)


def template_options(file: Path | None, arguments: Sequence[str] = ()) -> TemplateOptions:
    """The options as they are typed: a file of Jinja, and `NAME=VALUE`s whose values are JSON or else strings."""
    source = None
    if file is not None:
        try:
            source = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FrspecError(f"{option('chat_template')} {file} cannot be read: {error}.") from None
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(
                f"{option('template_arg')} {argument} is not of the form NAME=VALUE, such as enable_thinking=false."
            )
        try:
            values[name] = bounded_json.loads(text)
        except ValueError:
            values[name] = text
    return TemplateOptions(source, values)


def _literal(value: Any) -> str:
    """A JSON value as Jinja spells it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
