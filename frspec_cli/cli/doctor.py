"""`frspec doctor`: why a draft head accepts little."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.errors import as_flags
from frspec_cli.heads.options import yes_or_no
from frspec_cli.replay.options import DoctorOptions, parse_tree

DEFAULTS = DoctorOptions()
_TREE = DEFAULTS.tree


def command(
    model: options.Model = options.DEFAULT_MODEL,
    draft: options.Draft = None,
    vocab: options.Vocab = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers", help="Answers that `frspec collect` recorded, or JSONL of prompts. Default: a dozen prompts."
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Use the first N answers or prompts.")] = DEFAULTS.limit,
    tree: Annotated[
        str, typer.Option("--tree", metavar="DEPTH,BEAM,NODES", help="The draft tree.")
    ] = f"{_TREE.depth},{_TREE.beam},{_TREE.nodes}",
    max_new_tokens: options.MaxNewTokens = DEFAULTS.max_new_tokens,
    norm_output: options.NormOutput = None,
    seed: options.Seed = DEFAULTS.seed,
    device: options.Device = None,
    dtype: options.Dtype = "bfloat16",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Say why a draft head accepts little: its answers are replayed under every reading that could be wrong.

    Taps, norms, window, rotary base, order of inputs, vocabulary map: a wrong one costs acceptance and shows nowhere else. Then
    it says what limits the head as it should be read, what a wider tree or another subset would give, and what to try next.
    """
    doctor_options = DoctorOptions(tree=parse_tree(tree), limit=limit, max_new_tokens=max_new_tokens, seed=seed)
    normed = yes_or_no(norm_output)
    from frspec_cli.models.target import load_target
    from frspec_cli.replay.examine import examine

    output = Output(as_json=as_json, quiet=quiet)
    with output.callbacks("replaying readings") as callbacks:
        result = examine(
            load_target(model, device=device, dtype=dtype),
            doctor_options,
            draft=draft,
            vocab=None if vocab is None else str(vocab),
            suite=answers,
            norm_output=normed,
            warn=output.warn,
            callbacks=callbacks,
        )
    _show(result, output)
    output.result(result | {"next": [as_flags(line) for line in result["next"]]}, _verdict(result))


def _show(result: dict[str, Any], output: Output) -> None:
    answers = result["answers"]
    rows = [[row["what"], f"{row['acceptance_length']:.2f}", _times(row["times"])] for row in result["readings"]]
    output.table(
        f"{answers['answers']:,} answers, {answers['tokens']:,} tokens; acceptance under each reading",
        ["reading", "acceptance", "against the files' own (95% CI)"],
        rows,
    )
    limits = ", ".join(f"{share:.0%} {name}" for name, share in result["limits"].items())
    output.say(f"why drafts stopped, with the files read as they should be: {limits}")
    for line in result["next"]:
        output.say(f"- {line}")


def _verdict(result: dict[str, Any]) -> str:
    if result["verdict"] == "target":
        return f"No reading drafts: the best accepts {result['acceptance_length']:.2f} tokens a cycle."
    if result["verdict"] == "own":
        return f"Its files are read rightly: no other reading surely accepts more than its {result['acceptance_length']:.2f}."
    changes = " and ".join(change["what"] for change in result["changes"])
    return f"Its files are read wrongly: {changes} gives {result['acceptance_length']:.2f}, {_times(result['times'])} as much."


def _times(found: dict[str, float] | None) -> str:
    return "-" if found is None else f"{found['value']:.2f}x ({found['low']:.2f} to {found['high']:.2f})"
