"""The `frspec` command: it registers the commands and is the one place that turns known errors into sentences.

Each command lives in a module of its own, parses, calls the library and shows the result; what is heavy (torch,
transformers, datasets) is imported inside the command's function, so that `--help` stays quick.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from frspec_cli import __version__
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


# In the order of the work: count, choose, draft, decode, measure.
app.command("count-freq")(count_freq.command)
app.command("merge")(merge.command)
app.command("build-vocab")(build_vocab.command)
app.command("coverage")(coverage.command)
app.command("export-vocab")(export_vocab.command)
app.command("import-vocab")(import_vocab.command)
app.command("inspect")(inspect.command)
app.command("collect")(collect.command)
app.command("train-draft")(train_draft.command)
app.command("export-draft")(export_draft.command)
app.command("generate")(generate.command)
app.command("verify")(verify.command)
app.command("bench")(bench.command)
app.command("replay")(replay.command)
app.command("profile")(profile.command)
app.command("demo")(demo.command)
app.command("fetch")(fetch.command)
app.command("env")(env.command)


def main() -> None:
    """Runs the command line; exit codes 0 fine, 1 a known failure, 2 usage, 3 a verification failed, 130 interrupted."""
    try:
        app()
    except FrspecError as error:
        _show(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) went away: not an error of ours, and nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _show(error: FrspecError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), as_flags(error.message)))
    if error.hint:
        console.print(Text(as_flags(error.hint)))
