"""What a user is told when something is wrong.

Raise a `FrspecError` where the bad value is used: one plain sentence that says what is wrong and where, and a hint that
says what to do. `cli.app.main` is the only place that catches it. Anything else is a bug and keeps its traceback.

The library knows fields, not flags: a message names a parameter as `option("max_new_tokens")`, which a Python user reads as
`max_new_tokens` and a user of the command line as `--max-new-tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_OPEN, _CLOSE = "\ue000", "\ue001"  # private-use characters, which no message holds otherwise
_OPTION = re.compile(f"{_OPEN}(\\w+){_CLOSE}")


def option(name: str) -> str:
    """A parameter's name inside a message, spelled later for whoever reads it."""
    return f"{_OPEN}{name}{_CLOSE}"


def as_fields(text: str) -> str:
    """The text as Python users read it: `max_new_tokens`."""
    return _OPTION.sub(r"\1", text)


def as_flags(text: str) -> str:
    """The text as users of the command line read it: `--max-new-tokens`."""
    return _OPTION.sub(lambda match: "--" + match[1].replace("_", "-"), text)


class FrspecError(Exception):
    """A known failure: exit code 1, shown as one sentence (and a hint), never as a traceback.

    message, hint: as raised, options not yet spelled; `str(error)` spells them as fields.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(as_fields(message))
        self.message = message
        self.hint = hint


class ArtifactError(FrspecError):
    """A file that holds something other than what is written there: damaged, changed by hand, or foreign.

    file: as the user knows it.
    field: the place in it, such as `tokenizer.highest_id`.
    expected, found: in words; neither ends a sentence.
    """

    def __init__(self, file: Any, field: str, expected: str, *, found: str, hint: str = "") -> None:
        super().__init__(f"{file}: {field} is {found}; expected {expected}.", hint=hint)
        self.file = str(file)
        self.field = field


class UsageError(FrspecError):
    """Options that cannot be combined, or a value outside its range: exit code 2."""

    exit_code = 2


class AlreadyThere(FrspecError):
    """What was asked for is there, complete and made from the same inputs: exit code 0, and no error."""

    exit_code = 0


class VerificationError(FrspecError):
    """A check that frspec was asked to make did not hold: exit code 3."""

    exit_code = 3


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """`Did you mean x or y?` of the known names that look like what was typed; empty if none does."""
    import difflib

    names = {name.lower(): name for name in known}
    low = typed.lower()
    near = [name for name in names if len(low) > 1 and name.startswith(low)][:2]
    near = near or difflib.get_close_matches(low, names, n=2, cutoff=0.6)
    return f"Did you mean {' or '.join(names[name] for name in near)}?" if near else ""


def not_one_of(name: str, value: Any, known: Iterable[str]) -> UsageError:
    """The error to raise for a parameter's value that is none of the known ones."""
    choices = list(known)
    return UsageError(
        f"{option(name)} {value} is not one of {', '.join(choices)}.", hint=did_you_mean(str(value), choices)
    )
