"""The `frspec` command: it registers the commands and is the one place that turns known errors into sentences.

Each command is in a module of its own: it parses, calls the library and shows the result. What is heavy (torch,
transformers, datasets) is imported inside the command's function, so that `--help` stays quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli import INTERRUPTED, __version__
from frspec_cli.cli import (
    bench,
    build_vocab,
    collect,
    count_freq,
    coverage,
    demo,
    env,
    export_draft,
    export_vocab,
    fetch,
    generate,
    import_vocab,
    inspect,
    merge,
    profile,
    replay,
    train_draft,
    verify,
)
from frspec_cli.errors import FrspecError, as_flags

app = typer.Typer(
    name="frspec",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Frequency-ranked speculative sampling (FR-Spec, arXiv 2502.14856): count tokens, cut draft vocabularies, train "
        "EAGLE draft heads, generate, measure.\n\n"
        "The draft searches only the k most frequent tokens; the target verifies over its whole vocabulary, so the "
        "output is exactly the target's. Batch size 1, attention-only decoders."
    ),
)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"frspec {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


_COMMANDS: dict[str, Callable[..., None]] = {  # in the order of the work: count, choose, draft, decode, measure
    "count-freq": count_freq.command,
    "merge": merge.command,
    "build-vocab": build_vocab.command,
    "coverage": coverage.command,
    "export-vocab": export_vocab.command,
    "import-vocab": import_vocab.command,
    "inspect": inspect.command,
    "collect": collect.command,
    "train-draft": train_draft.command,
    "export-draft": export_draft.command,
    "generate": generate.command,
    "verify": verify.command,
    "bench": bench.command,
    "replay": replay.command,
    "profile": profile.command,
    "demo": demo.command,
    "fetch": fetch.command,
    "env": env.command,
}


def _at_home(value: Any) -> Any:
    """A command's argument with `~` expanded if it is a path: no shell does so in `--out=~/file`."""
    if isinstance(value, list):
        return [_at_home(each) for each in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value


def _register(name: str, command: Callable[..., None]) -> None:
    @app.command(name)
    @wraps(command)
    def run(**parameters: Any) -> None:
        command(**{parameter: _at_home(value) for parameter, value in parameters.items()})


for _name, _command in _COMMANDS.items():
    _register(_name, _command)


def main() -> None:
    """Runs the command line.

    Exit codes: 0 fine, 1 a known failure (or the reader of stdout went away), 2 usage, 3 a verification failed,
    130 interrupted.
    """
    try:
        app()
    except FrspecError as error:
        _show(error)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # Typer turns Ctrl-C into this exit code, and says nothing
            sys.stderr.write("interrupted\n")
        raise


def _show(error: FrspecError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), as_flags(error.message)))
    if error.hint:
        console.print(Text(as_flags(error.hint)))
