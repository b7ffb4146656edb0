"""The `frspec` command: it lists the commands and is the one place that turns known errors into sentences.

Each command is in a module of its own: it parses, calls the library and shows the result. What is heavy (torch,
transformers, datasets) is imported inside the command's function, so that `--help` stays quick.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info
from typer.models import CommandInfo

from frspec_cli import INTERRUPTED, __version__
from frspec_cli.errors import AlreadyThere, FrspecError, as_flags
from frspec_cli.resume import LEDGER, TRAINING, holds_work, run_folder

COMMANDS = {  # in the order of the work: count, choose, draft, decode, measure
    "count-freq": "Count how often each token occurs in a corpus, into a frequency table.",
    "merge": "Add up frequency tables of one tokenizer, such as the parts of count-freq --shard I/N.",
    "build-vocab": "Cut vocabulary subsets: the k most frequent tokens, forced ones first, ties by id.",
    "coverage": "Measure what subsets cover, by size, source and script, with 95 % intervals (jackknife over folds).",
    "export-vocab": "Write a subset for SGLang, FR-Spec, EAGLE-3, SpecForge, speculators and others.",
    "import-vocab": "Read a draft vocabulary of FR-Spec, SGLang, EAGLE-3, SpecForge, speculators or a plain list of ids.",
    "inspect": "Say what a file or folder is: any artifact of frspec or of other projects, recognised by what it holds.",
    "collect": "Let the target answer prompts: training data for a draft head, and the best corpus to count.",
    "import-answers": "Turn answers that vLLM or SGLang recorded into training data for a draft head.",
    "train-draft": "Train an EAGLE draft head on a target's own answers.",
    "export-draft": "Write a published or trained head for EAGLE's code, SGLang or speculators.",
    "generate": "Generate text: plain, with EAGLE-2, or with FR-Spec. The method changes the speed, not the text.",
    "verify": "Check that the output is plain decoding's, token by token, greedy and with a seed. Exit code 3 if not.",
    "bench": "Measure methods side by side: the same prompts, interleaved in one run, tokens counted one way.",
    "replay": "Show what is accepted, and why no more is, by the draft alone: any number of heads, subsets, sizes and trees.",
    "doctor": "Say why a draft head accepts little: its answers are replayed under every reading that could be wrong.",
    "tune": "Find the dtype, subset size and draft tree that this machine wants, or that one with other step costs would.",
    "profile": "Show where the time of one cycle goes, and how EAGLE-2's cycle compares with FR-Spec's at the same tree.",
    "report": "Write one self-contained page from results: what was found, pictures, tables and the commands.",
    "demo": "Plain decoding, EAGLE-2 and FR-Spec side by side on SmolLM2-135M, in float32.",
    "fetch": "Download an embedded model into the cache ($FRSPEC_CACHE), or list them.",
    "env": "Show versions, processor, devices and folders, for a bug report.",
}
"""Each command's name and the first line of its help; it is `command` of the module of that name."""


class LazyCommands(TyperGroup):
    """Imports a command's module when that command runs.

    Importing all of them would take a third of the time of `frspec --help`, which needs names and summaries only.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that the user typed, with its options."""
        name, summary, rest = super().resolve_command(ctx, args)
        if name is None or summary is None:
            return name, summary, rest
        callback = import_module(f"frspec_cli.cli.{name.replace('-', '_')}").command
        info = CommandInfo(name=name, callback=_wrapped(callback))
        return name, get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode="rich"), rest


def _wrapped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `~` expanded in each of its paths; of an output that is complete it says so."""

    @wraps(command)
    def run(**parameters: Any) -> None:
        parameters = {parameter: _at_home(value) for parameter, value in parameters.items()}
        try:
            command(**parameters)
        except AlreadyThere as done:
            from frspec_cli.cli.output import Output

            output = Output(as_json=parameters["as_json"], quiet=parameters["quiet"])
            line = as_flags(f"{done.message} {done.hint}")
            output.result({"out": str(parameters["out"]), "complete": True}, line)
        except KeyboardInterrupt:
            if "out" not in parameters:
                raise
            sys.stderr.write(f"interrupted: {_kept(parameters['out'])}\n")
            raise _Interrupted(INTERRUPTED) from None

    return run


class _Interrupted(SystemExit):
    """Ctrl-C, of which the user has been told what is kept."""


def _kept(out: Path | str | None) -> str:
    """What an interrupted command leaves, where, and how it is resumed."""
    if out is None:
        return "nothing is kept. Name a file with --out to be able to resume."
    for folder in (run_folder(out, LEDGER), run_folder(out, TRAINING)):
        if holds_work(folder):
            command = "frspec " + shlex.join(sys.argv[1:])
            how = "run the same command again" if "WORLD_SIZE" in os.environ else f"run: {command}"
            return f"what is done is kept in {folder}. To resume, {how}"
    return "nothing had been finished yet, so there is nothing to resume."


def _at_home(value: Any) -> Any:
    """A command's argument with `~` expanded if it is a path: no shell does so in `--out=~/file`."""
    if isinstance(value, list):
        return [_at_home(each) for each in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value


app = typer.Typer(
    name="frspec",
    cls=LazyCommands,
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
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        try:
            sys.stdout.flush()
        except OSError:  # would be tried again at the exit, with a traceback
            with contextlib.suppress(OSError):
                sys.stdout.close()
        where = f" ({error.filename})" if error.filename else ""
        _show(FrspecError(f"nothing more can be written{where}: {error.strerror}.", hint="Free space and try again."))
        sys.exit(FrspecError.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED and not isinstance(end, _Interrupted):
            # Typer turns Ctrl-C into this exit code, and says nothing. Text may be half-written on the terminal.
            sys.stderr.write("\n" * sys.stdout.isatty() + "interrupted\n")
        raise


def _show(error: FrspecError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), as_flags(error.message)))
    if error.hint:
        console.print(Text(as_flags(error.hint)))
