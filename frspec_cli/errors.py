"""What a user is told when something is wrong.

Raise a `FrspecError` where the bad value is used: one plain sentence that says what is wrong and where, and a hint that
says what to do. `cli.app.main` is the only place that catches it. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class FrspecError(Exception):
    """A known failure: exit code 1, shown as one sentence (and a hint), never as a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FrspecError):
    """Options that cannot be combined, or a value outside its range: exit code 2."""

    exit_code = 2


class VerificationError(FrspecError):
    """A check that frspec was asked to make did not hold: exit code 3."""

    exit_code = 3
