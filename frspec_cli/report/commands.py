"""The command that made a result, as far as its record says."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from frspec_cli.errors import as_flags, option
from frspec_cli.report.results import Result

_NAMES = {"ks": "k", "trees": "tree", "drafts": "draft", "vocabs": "vocab", "compiled": "compile"}
_LEFT_OUT = {"recorded", "suite", "own_trees"}  # no option of that name, or written otherwise here


def command_of(result: Result) -> str:
    """One line for the shell; what the record does not hold (`out`, paths of files since moved) is the reader's."""
    if recorded_command := result.record.get("command"):
        return str(recorded_command)
    if result.kind == "coverage":
        rows = result.record["rows"]
        subsets, texts = (list(dict.fromkeys(row[name] for row in rows)) for name in ("subset", "on"))
        words = [*subsets, *(word for text in texts for word in (option("on"), text))]
        return _line("coverage", words)
    recorded: dict[str, Any] = result.record["options"]
    if result.kind == "tune":
        return _line("tune", _tune_words(recorded))
    suite = str(recorded.get("suite") or "SUITE")
    words = [suite] if result.kind == "replay" else [option("prompts"), suite]
    skipped = _LEFT_OUT | ({"vocab"} if "vocabs" in recorded else set())
    if result.kind == "profile":
        skipped |= {"ignore_eos", "runs", "temperature"}
    for name, value in recorded.items():
        if name not in skipped:
            words += _words(_NAMES.get(name, name), value)
    return _line(result.kind, words)


def _tune_words(recorded: dict[str, Any]) -> list[str]:
    named = ("model", "draft", "vocab", "limit", "held_out", "max_new_tokens", "seed")
    words = ["ANSWERS"] if "answers" in recorded else []
    words += [] if recorded.get("measured_here") else [option("costs"), "COSTS"]
    if words == ["ANSWERS"] or "ANSWERS" in words:
        words += [word for name in named for word in _words(name, recorded.get(name))]
    return words


def environment_of(result: Result) -> dict[str, str]:
    """The machine and versions of a result in words; {} if it does not say."""
    environment = result.record.get("environment", {})
    return {name: _spelled(value) for name, value in environment.items() if value is not None and name != "cache"}


def _spelled(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _words(name: str, value: Any) -> Iterator[str]:
    """An option and its value; nothing for one that was not given."""
    if value is None or value is False or value == [] or value == "":
        return
    if value is True:
        yield option(name)
    elif name == "methods":
        yield from (option(name), ",".join(value))
    elif isinstance(value, list):
        for each in value:
            if each is not None:
                yield from (option(name), ",".join(map(str, each)) if isinstance(each, list) else str(each))
    else:
        yield from (option(name), str(value))


def _line(command: str, words: list[str]) -> str:
    quoted = [word if word.startswith(option("")[0]) else shlex.quote(word) for word in words]
    return as_flags(" ".join(["frspec", command, *quoted]))
