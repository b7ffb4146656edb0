"""`--dtype auto`, `--tree auto` and `--config`: the choice for a command, and what it says about it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from frspec_cli.cli.output import Output
from frspec_cli.tuning.options import AUTO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from frspec_cli.tuning.choose import Choice, Wanted


def chosen(wanted: Wanted, output: Output) -> Choice:
    """The choice, told on stderr where it is not what a user would expect."""
    from frspec_cli.tuning.choose import choose

    choice = choose(wanted, say=output.say, warn=output.warn)
    if choice.method == "ar" and wanted.method is None:
        output.say(f"{choice.why}; --method frspec or --tree DEPTH,BEAM,NODES drafts all the same")
    elif choice.slower:
        output.say(
            f"plain decoding would be faster here: {choice.plain:.1f} tokens/s against {choice.rate:.1f} ({choice.why})"
        )
    return choice


def chosen_by_method(wanted: Wanted, methods: Sequence[str], output: Output) -> dict[str, Choice]:
    """A choice for each method that is measured, all in one dtype: the one in which the best of those that draft is fastest.

    Without a method that drafts, the dtype is plain decoding's, under `ar`.
    """
    from frspec_cli.tuning.choose import choose

    drafting = [method for method in methods if method in ("frspec", "eagle")] or ["ar"]

    def ask(dtype: str) -> dict[str, Choice]:
        asked = replace(wanted, dtype=dtype)
        return {method: choose(replace(asked, method=method), say=output.say, warn=output.warn) for method in drafting}

    choices = ask(wanted.dtype)
    best = max(choices.values(), key=lambda choice: choice.rate or 0.0)
    if wanted.dtype == AUTO and any(choice.dtype != best.dtype for choice in choices.values()):
        choices = ask(best.dtype)
    if best.slower and best.plain is not None and best.rate is not None:
        output.say(
            f"plain decoding is faster than any tree here: {best.plain:.1f} tokens/s against {best.rate:.1f} ({best.why})"
        )
    return choices
