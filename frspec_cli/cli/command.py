"""What all commands have in common: their help, old names of options, and usage errors in the one style of `errors`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand

from frspec_cli.cli import help as pages
from frspec_cli.cli.examples import EXAMPLES
from frspec_cli.errors import UsageError, did_you_mean

OLD_NAMES = {
    "--prompts": ("--suite",),
    "--methods": ("--method",),
    "--method": ("--methods",),
    "--to": ("--format",),
    "--tokenizer": ("-t", "--model", "-m"),
    "--model": ("-m",),
    "--answers": ("--prompts",),
    "--measured-prompts": ("--prompts",),
}
"""Option -> names that it had, or has elsewhere. They are accepted and not shown, where nothing else has them."""


class Command(TyperCommand):
    """A command with our help and our errors."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        taken = {name for parameter in self.params for name in parameter.opts}
        for parameter in self.params:
            if parameter.param_type_name == "option":
                others = [old for name in parameter.opts for old in OLD_NAMES.get(name, ())]
                old = tuple(name for name in others if name not in taken)
                parameter.old_names = old  # type: ignore[attr-defined]
                parameter.opts = [*parameter.opts, *old]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        pages.write(formatter, ctx, pages.page(self, ctx, EXAMPLES.get(self.name or "", ())))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What was typed, as values. Raises `UsageError`."""
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            raise usage_error(error, self, ctx) from error


def usage_error(error: typer.TyperException, command: Any, context: typer.Context) -> UsageError:
    """Typer's complaint in our words: the value is shown, and what to type instead."""
    more = f"See {context.command_path} --help."
    parameter, name = getattr(error, "param", None), getattr(error, "option_name", None)
    if parameter is not None and hasattr(error, "param_type"):
        return UsageError(f"{_name(parameter)} is missing.", hint=_example(command) or more)
    if parameter is not None:
        return UsageError(_bad_value(error, parameter), hint=more)
    if name is not None and hasattr(error, "possibilities"):
        names = [each for known in command.params for each in _visible(known)]
        return UsageError(f"there is no option {name}.", hint=did_you_mean(name, names) or more)
    if name is not None:
        needs = "needs a value" if "requires" in error.message else "is a switch and takes no value"
        return UsageError(f"{name} {needs}.", hint=more)
    if "extra argument" in error.message:
        return _too_many(error.message.partition("(s) (")[2].removesuffix(")"), command, more)
    return UsageError(error.message[:1].lower() + error.message[1:], hint=more)


def _too_many(extra: str, command: Any, more: str) -> UsageError:
    if command.name == "generate":
        return UsageError(f"the prompt is one argument, and {extra} is another.", hint="Put the prompt in quotes.")
    return UsageError(f"{extra} is one argument too many.", hint=more)


def _visible(parameter: Any) -> Iterable[str]:
    old = getattr(parameter, "old_names", ())
    return [] if getattr(parameter, "hidden", False) else [name for name in parameter.opts if name not in old]


def _name(parameter: Any) -> str:
    """The parameter as a sentence names it."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper()).removesuffix("...").strip("[]")
    return next(name for name in parameter.opts if name.startswith("--"))


def _example(command: Any) -> str:
    examples = EXAMPLES.get(command.name, ())
    return f"For example: {examples[0]}" if examples else ""


def _bad_value(error: Any, parameter: Any) -> str:
    """`--limit 5x is not a whole number above 0.`"""
    found: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    value = f" {found[0]['input']}" if found else ""
    kind = str(parameter.type_descriptor.annotation)
    if "int" not in kind and "float" not in kind:
        return f"{_name(parameter)}{value}: {error.message[:1].lower()}{error.message[1:]}."
    number = "whole number" if "int" in kind else "number"
    low, high = (getattr(parameter, name, None) for name in ("min", "max"))
    limits = f" of at least {low:,}" if low is not None and high is None else ""
    limits = f" from {low:,} to {high:,}" if low is not None and high is not None else limits
    return f"{_name(parameter)}{value} is not a {number}{limits}."
