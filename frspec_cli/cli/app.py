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
from frspec_cli.cli import help as pages
from frspec_cli.cli.command import Command, usage_error
from frspec_cli.cli.kinds import misplaced
from frspec_cli.errors import AlreadyThere, FrspecError, UsageError, as_flags, did_you_mean
from frspec_cli.resume import LEDGER, TRAINING, holds_work, run_folder

GROUPS = {  # in the order of the work
    "Count and cut": {
        "count-freq": "Count how often each token occurs in a corpus, into a frequency table.",
        "merge": "Add up frequency tables of one tokenizer, such as the parts of count-freq --shard I/N.",
        "build-vocab": "Cut vocabulary subsets: the k most frequent tokens, forced ones first, ties by id.",
        "coverage": "Measure what subsets cover, by size, source and script, with 95% intervals (jackknife over folds).",
        "export-vocab": "Write a subset for SGLang, FR-Spec, EAGLE-3, SpecForge, speculators and others.",
        "import-vocab": "Read a draft vocabulary of FR-Spec, SGLang, EAGLE-3, SpecForge, speculators or a plain list of ids.",
    },
    "Draft heads": {
        "collect": "Let the target answer prompts: training data for a draft head, and the best corpus to count.",
        "import-answers": "Turn answers that vLLM or SGLang recorded into training data for a draft head.",
        "train-draft": "Train an EAGLE draft head, or an MTP module, on a target's own answers.",
        "replay": "Show what is accepted, and why no more, by the draft alone: any number of heads, subsets, sizes and trees.",
        "doctor": "Say why a draft head accepts little: its answers are replayed under every reading that could be wrong.",
        "export-draft": "Write a published or trained head for EAGLE's code, SGLang or speculators.",
    },
    "Generate and measure": {
        "generate": "Generate text: plain, with EAGLE-2, or with FR-Spec. The method changes the speed, not the text.",
        "verify": "Check that the output is plain decoding's, token by token, greedy and with a seed. Exit code 3 if not.",
        "bench": "Measure methods side by side: the same prompts, interleaved in one run, tokens counted one way.",
        "profile": "Show where the time of one cycle goes, and how EAGLE-2's cycle compares with FR-Spec's at the same tree.",
        "tune": "Find the dtype, subset size and draft tree that this machine wants, or that one with other step costs would.",
        "report": "Write one self-contained page from results: what was found, pictures, tables and the commands.",
        "demo": "Show plain decoding, EAGLE-2 and FR-Spec side by side on SmolLM2-135M: speed, text, and where the time goes.",
    },
    "Files and models": {
        "inspect": "Say what a file or folder is: any artifact of frspec or of other projects, recognised by what it holds.",
        "fetch": "Download an embedded model into the cache ($FRSPEC_CACHE), or list them.",
        "env": "Show versions, processor, devices and folders, for a bug report.",
    },
}
"""The commands by what they are for: each one's name and the first line of its help; it is `command` of that module."""
BUSY = {
    "count-freq": "reading",
    "merge": "adding up",
    "build-vocab": "choosing",
    "coverage": "counting",
    "export-vocab": "writing",
    "import-vocab": "reading",
    "import-answers": "reading",
    "export-draft": "writing",
    "tune": "reading",
    "report": "drawing",
    "demo": "loading SmolLM2-135M and its draft head",
    "inspect": "reading",
    "fetch": "looking",
    "env": "looking",
}
"""What a command does first, as a terminal is told at once; the others load their model."""
COMMANDS = {name: summary for commands in GROUPS.values() for name, summary in commands.items()}


class LazyCommands(TyperGroup):
    """Imports a command's module when that command runs.

    Importing all of them would take a third of the time of `frspec --help`, which needs names and summaries only.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()}

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help: the commands in groups."""
        pages.write(formatter, ctx, pages.overview(self, ctx, GROUPS))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The command and what it is given; `help COMMAND` is its --help. Raises `UsageError`."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), color=ctx.color)
            raise typer.Exit(UsageError.exit_code)
        try:
            return super().parse_args(ctx, [*args[1:2], "--help"] if args[:1] == ["help"] else args)
        except typer.TyperException as error:
            raise usage_error(error, self, ctx) from error

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that the user typed, with its options. Raises `UsageError` for one that there is not."""
        name, rest = args[0], args[1:]
        if name not in COMMANDS:
            if ctx.resilient_parsing:
                return None, None, rest
            near = "frspec --version shows it." if name == "version" else did_you_mean(name, COMMANDS)
            raise UsageError(f"there is no command {name!r}.", hint=near or "See frspec --help.")
        callback = import_module(f"frspec_cli.cli.{name.replace('-', '_')}").command
        info = CommandInfo(name=name, cls=Command, callback=_wrapped(name, callback))
        return name, get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode=None), rest


def _wrapped(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """The command `name`, with `~` expanded in each path; it says so of an output that is complete or a misplaced input."""

    @wraps(command)
    def run(**parameters: Any) -> None:
        parameters = {parameter: _at_home(value) for parameter, value in parameters.items()}
        try:
            _begin(name, parameters)
            command(**parameters)
        except AlreadyThere as done:
            from frspec_cli.cli.output import Output

            output = Output(as_json=parameters["as_json"], quiet=parameters["quiet"])
            line = as_flags(f"{done.message} {done.hint}")
            output.result({"out": str(parameters["out"]), "complete": True}, line)
        except FrspecError as error:
            better = misplaced(name, parameters, error) if type(error) is FrspecError else None
            if better is None:
                raise
            raise better from error
        except KeyboardInterrupt:
            if "out" not in parameters:
                raise
            _rest()
            sys.stderr.write(f"interrupted: {_kept(parameters['out'])}\n")
            raise _Interrupted(INTERRUPTED) from None
        finally:
            _rest()

    return run


def _begin(name: str, parameters: dict[str, Any]) -> None:
    """Says what the command does first; under torchrun one of the processes does."""
    from frspec_cli.cli.output import Output

    if not (parameters["as_json"] or parameters.get("quiet") or os.environ.get("RANK", "0") != "0"):
        Output.begin(BUSY.get(name, "loading {model}").format(**parameters))


def _rest() -> None:
    """Stops the spinner of a command that has not shown anything yet."""
    if "frspec_cli.cli.output" in sys.modules:
        sys.modules["frspec_cli.cli.output"].Output.rest()


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
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
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
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line.

    Exit codes: 0 fine, 1 a known failure (or the reader of stdout went away), 2 usage, 3 a verification failed,
    130 interrupted.
    """
    try:
        app(prog_name="frspec")
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
    from rich.text import Text

    from frspec_cli.cli.layout import wrapped
    from frspec_cli.cli.output import console

    screen = console(sys.stderr)
    lines = [f"error: {as_flags(error.message)}", *([as_flags(error.hint)] if error.hint else [])]
    text = wrapped("\n".join(lines), screen.width) if screen.is_terminal else "\n".join(lines)
    screen.print(Text.assemble(("error:", "bold red"), text.removeprefix("error:")))
