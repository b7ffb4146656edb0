"""Options that several commands share: one name, one meaning, one default each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli.cli import complete
from frspec_cli.decoding.sampling import LARGEST_SEED, TEMPERATURES
from frspec_cli.errors import UsageError
from frspec_cli.models.shipped import DEFAULT_MODEL
from frspec_cli.replay.options import PROMPT_NEW_TOKENS


def names(text: str) -> list[str]:
    """The names in an option that takes several, by commas or given again and again."""
    return [name.strip() for name in text.split(",") if name.strip()]


def sizes(text: str) -> list[int]:
    """Whole numbers above 0, likewise; 32k is 32,768. Raises `UsageError` for anything else."""
    return [_size(number) for number in names(str(text))]


def numbers(option: str) -> Callable[[str], list[int]]:
    """Like `sizes`, for another option."""
    return lambda text: [_size(number, option) for number in names(str(text))]


def _size(text: str, option: str = "--k") -> int:
    digits = text.lower().removesuffix("k")
    if not digits.isdecimal() or int(digits) < 1:
        raise UsageError(f"{option} {text} is not a whole number above 0.")
    return int(digits) * (1024 if digits != text.lower() else 1)


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        autocompletion=complete.models,
        help="Folder, .gguf, short name (frspec fetch lists these) or owner/name on the hub.",
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        "--draft",
        autocompletion=complete.heads,
        help="Draft head: a folder, a hub id, or mtp for the model's own module. Default: what ships for the model.",
    ),
]
NormOutput = Annotated[
    str | None,
    typer.Option(
        "--norm-output",
        metavar="YES|NO",
        help="Whether an EAGLE-3 head's normed output is fed back (EAGLE-3.1). Default: what its config says.",
    ),
]
Vocab = Annotated[
    Path | None,
    typer.Option(
        "--vocab", autocompletion=complete.subsets, help="Vocabulary subset. Default: what ships for the model."
    ),
]
K = Annotated[
    int | None,
    typer.Option("--k", metavar="N", parser=_size, help="Use the subset's first N tokens; 32k is 32,768."),
]


def flat(values: Sequence[Sequence[Any]] | None) -> list[Any] | None:
    """All values of an option that was given several times."""
    return None if values is None else [value for each in values for value in each]


def several(*flags: str, help: str, parser: Callable[[str], list[Any]] = names, **others: Any) -> Any:
    """An option that takes several values, by commas or given again and again."""
    metavar = "NAME" if parser is names else "N"
    return typer.Option(*flags, help=help, parser=parser, callback=flat, **({"metavar": metavar} | others))


Ks = Annotated[list[int] | None, several("--k", parser=sizes, help="Subset sizes: --k 4096,8192 or --k 4096 --k 8192.")]
Suite = Annotated[
    Path,
    typer.Option(
        "--prompts",
        help='JSONL of {"prompt"}, or as published: Spec-Bench (first turns), HumanEval, GSM8K ({"question"}).',
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use the first N prompts.")]
HeldOut = Annotated[
    bool,
    typer.Option("--held-out", help="Use only the answers that `frspec train-draft` never trains on (every 32nd)."),
]
ReplayedTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        "-n",
        min=1,
        help=f"Begin no cycle after N tokens of an answer. Default: all; for prompts {PROMPT_NEW_TOKENS}.",
    ),
]
ResultFile = Annotated[
    Path, typer.Option("--out", "-o", help="The result to write, such as result.json; an interrupted run resumes.")
]
Depth = Annotated[int, typer.Option("--depth", min=1, help="Draft levels: forward passes of the draft per cycle.")]
Beam = Annotated[int, typer.Option("--beam", min=1, help="Candidates kept at each level.")]
Nodes = Annotated[int, typer.Option("--nodes", min=2, help="Rows that the target verifies per cycle, root included.")]
Tree = Annotated[
    str,
    typer.Option(
        "--tree",
        metavar="auto|DEPTH,BEAM,NODES",
        help="Draft tree. auto: what this machine and this head want, and plain decoding where no tree pays.",
    ),
]
AutoDepth = Annotated[
    int | None,
    typer.Option("--depth", min=1, help="Draft levels: forward passes of the draft per cycle. Default: by --tree."),
]
AutoBeam = Annotated[
    int | None, typer.Option("--beam", min=1, help="Candidates kept at each level. Default: by --tree.")
]
AutoNodes = Annotated[
    int | None,
    typer.Option("--nodes", min=2, help="Rows that the target verifies per cycle, root included. Default: by --tree."),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="What frspec tune wrote: its dtype, size and tree, but for those given beside it.",
    ),
]
ContextSlots = Annotated[
    int,
    typer.Option("--context-slots", min=0, help="Spare draft rows for tokens of the text that are not in the subset."),
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Maximum new tokens.")]
Temperature = Annotated[
    float, typer.Option("--temperature", help=f"0 is greedy; else {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}.")
]
TopP = Annotated[
    float,
    typer.Option("--top-p", help="Nucleus sampling: keep the most likely tokens whose probabilities sum to this."),
]
Raw = Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is, without the chat template.")]
ChatTemplate = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Jinja in place of the tokenizer's chat template.")
]
TemplateArg = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="A value for the chat template, such as enable_thinking=false; may be given several times.",
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:0. Default: CUDA if available.")]
Dtype = Annotated[
    str, typer.Option("--dtype", autocompletion=complete.dtypes, help="bfloat16, float16, float32 or float64.")
]
AutoDtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        autocompletion=complete.dtypes,
        help="bfloat16, float16, float32, float64, or auto: what this device computes fast.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Fixes every random choice.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the target's and the draft's steps: slow to start, then faster.")
]
Restart = Annotated[
    bool,
    typer.Option("--restart", help="Start over: discard saved progress, and make a complete output anew."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace what is at --out, though other inputs or another command made it.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show every table, row and column; a pipe always gets them all.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and no progress bars.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors on stderr.")]

__all__ = [
    "DEFAULT_MODEL",
    "LARGEST_SEED",
    "AsJson",
    "AutoBeam",
    "AutoDepth",
    "AutoDtype",
    "AutoNodes",
    "Beam",
    "ChatTemplate",
    "Compile",
    "Config",
    "ContextSlots",
    "Depth",
    "Device",
    "Draft",
    "Dtype",
    "Force",
    "K",
    "Ks",
    "Limit",
    "MaxNewTokens",
    "Model",
    "Nodes",
    "NormOutput",
    "Quiet",
    "Raw",
    "Restart",
    "ResultFile",
    "Seed",
    "Suite",
    "Temperature",
    "TemplateArg",
    "TopP",
    "Tree",
    "Verbose",
    "Vocab",
]
