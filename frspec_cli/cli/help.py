"""What `--help` shows: options in groups by what they are about, wrapped at words at any width, an example at the end.

It is plain text: nothing is framed or cut, and neither rich nor a command's heavy imports are needed for it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

import typer

_WIDEST, _NARROWEST, _STACKED = 100, 30, 70
_LEFT = 29
"""Columns of names; under `_STACKED` columns in all, what they mean stands below them."""

WHAT, HOW, OUTPUT = "What is read", "How", "Output"
_WHAT = {
    *(
        "model",
        "draft",
        "vocab",
        "prompts",
        "answers",
        "tokenizer",
        "on",
        "features",
        "init",
        "costs",
        "local",
        "config",
    ),
    *("requests", "counts", "chat_template", "template_arg", "limit", "held_out", "read_as"),
}
_OUTPUT = {"out", "to", "formats", "restart", "force", "plot", "width", "markdown", "latex", "csv", "title", "show"} | {
    *("verbose", "as_json", "quiet", "help"),
}


def page(command: Any, context: typer.Context, examples: Iterable[str]) -> str:
    """The help of one command: what it does, its options in groups, and commands to copy."""
    width = _width()
    parts = [_usage(command, context, width), _paragraphs(command.help or "", width)]
    for title, parameters in _groups(command.get_params(context)).items():
        rows = [(_names(each), _meaning(each)) for each in parameters]
        parts.append(f"{heading(title)}\n{columns(rows, width)}")
    if lines := "\n".join(shell_lines(example, width - 2) for example in examples):
        parts.append(f"{heading('Example')}\n{textwrap.indent(lines, '  ')}")
    return "\n\n".join(part for part in parts if part)


def overview(command: Any, context: typer.Context, groups: dict[str, dict[str, str]]) -> str:
    """The help of `frspec` itself: the commands in the order of the work."""
    width = _width()
    parts = [_usage(command, context, width), _paragraphs(command.help or "", width)]
    left = max(len(name) for commands in groups.values() for name in commands) + 4
    for title, commands in groups.items():
        parts.append(f"{heading(title)}\n{columns(list(commands.items()), width, left)}")
    rows = [(_names(each), _meaning(each)) for each in _shown(command.get_params(context))]
    parts.append(f"{heading('Options')}\n{columns(rows, width)}")
    parts.append(textwrap.fill("frspec COMMAND --help shows a command's options and an example.", width))
    return "\n\n".join(parts)


def _width() -> int:
    return max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns) - 1)


def heading(text: str) -> str:
    return typer.style(f"{text}:", bold=True)


def colour() -> bool | None:
    """Whether help keeps its colours: True or False if the environment says so, None for what the stream is."""
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def columns(rows: Iterable[tuple[str, str]], width: int, left: int = _LEFT) -> str:
    """Names and what they mean, side by side if there is room, else below each other."""
    lines = []
    for name, meaning in rows:
        if width < _STACKED - 1:
            lines += [f"  {name}", *textwrap.wrap(meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6)]
            continue
        said = textwrap.wrap(meaning, width - left, break_long_words=False, break_on_hyphens=False) or [""]
        if len(name) + 2 > left - 1:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name:<{left - 2}}{said.pop(0)}".rstrip())
        lines += [" " * left + line for line in said]
    return "\n".join(lines)


def shell_lines(command: str, width: int) -> str:
    """A command, broken between options where it is too long, as a shell reads it."""
    lines, current = [], ""
    for word in _options_with_values(command):
        if current and len(current) + len(word) + 3 > width:
            lines.append(current + " \\")
            current = "    " + word
        else:
            current = f"{current} {word}" if current else word
    return "\n".join([*lines, current])


def _options_with_values(command: str) -> list[str]:
    """The words of a command, an option together with its value."""
    words: list[str] = []
    for word in shlex.split(command):
        quoted = word if word.isascii() and not set(word) & set(" '\"*<>|&;$") else shlex.quote(word)
        if words and words[-1].startswith("-") and " " not in words[-1] and not word.startswith("-"):
            words[-1] += f" {quoted}"
        else:
            words.append(quoted)
    return words


def _usage(command: Any, context: typer.Context, width: int) -> str:
    arguments = [each for each in _shown(command.params) if _is_argument(each)]
    pieces = [_metavar(each) if each.required else f"[{_metavar(each).strip('[]')}]" for each in arguments]
    tail = ["COMMAND"] if hasattr(command, "commands") else []
    words = " ".join([context.command_path, *tail, "[OPTIONS]", *pieces])
    return textwrap.fill(f"Usage: {words}", width, subsequent_indent=" " * 7, break_on_hyphens=False)


def _paragraphs(text: str, width: int) -> str:
    filled = [
        textwrap.fill(" ".join(paragraph.split()), width, initial_indent="  ", subsequent_indent="  ",
                      break_long_words=False, break_on_hyphens=False)
        for paragraph in text.split("\n\n")
    ]  # fmt: skip
    return "\n\n".join(filled)


def _shown(parameters: Iterable[Any]) -> list[Any]:
    return [each for each in parameters if not getattr(each, "hidden", False)]


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _groups(parameters: Iterable[Any]) -> dict[str, list[Any]]:
    """Title -> parameters: what is read first, output last."""
    groups: dict[str, list[Any]] = {WHAT: []}
    for each in _shown(parameters):
        groups.setdefault(_group(each), []).append(each)
    groups[OUTPUT] = groups.pop(OUTPUT, [])
    return {title: members for title, members in groups.items() if members}


def _group(parameter: Any) -> str:
    if title := getattr(parameter, "rich_help_panel", None):
        return str(title)
    if _is_argument(parameter) or parameter.name in _WHAT:
        return WHAT
    return OUTPUT if parameter.name in _OUTPUT else HOW


def _names(parameter: Any) -> str:
    """The parameter as it is typed, such as `-o, --out FILE`."""
    metavar = _metavar(parameter)
    if _is_argument(parameter):
        return metavar
    names = [name for name in parameter.opts if name not in getattr(parameter, "old_names", ())]
    names.sort(key=len)
    return ", ".join(names) + (f" {metavar}" if metavar else "")


def _metavar(parameter: Any) -> str:
    """The placeholder of a value; nothing for a flag."""
    if parameter.metavar:
        return str(parameter.metavar)
    kind = parameter.type_descriptor
    if getattr(parameter, "is_flag", False):
        return ""
    if kind.is_path or "Path" in str(kind.annotation):
        return "FILE"
    if "int" in str(kind.annotation):
        return "N"
    return "X" if "float" in str(kind.annotation) else parameter.name.split("_")[-1].upper()


def _meaning(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split())
    if parameter.required and not _is_argument(parameter):
        return f"{text} (required)"
    default = parameter.default
    if default in (None, False, "", [], ()) or callable(default) or not parameter.show_default or "Default:" in text:
        return text
    if isinstance(default, bool):
        return text
    shown = ",".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
    return f"{text} [default: {shown}]"


def write(formatter: Any, context: typer.Context, text: str) -> None:
    """Hands the text to Typer, which prints it; in colours as the environment wishes."""
    context.color = colour()
    formatter.write(text)
