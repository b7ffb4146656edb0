"""`frspec doctor`: why a draft head accepts little."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.doctor.options import SMALLEST_GROUP, DoctorOptions
from frspec_cli.errors import UsageError
from frspec_cli.heads.options import yes_or_no
from frspec_cli.replay.options import parse_tree
from frspec_cli.tuning.options import AUTO

DEFAULTS = DoctorOptions()
_TREE = DEFAULTS.tree


def command(
    model: options.Model = options.DEFAULT_MODEL,
    draft: options.Draft = None,
    vocab: options.Vocab = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers",
            help="Answers that `frspec collect` recorded, or JSONL of prompts, which the target then answers first. "
            "Default: a dozen prompts.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Also write the findings here; with it, an interrupted run resumes."),
    ] = None,
    held_out: options.HeldOut = DEFAULTS.held_out,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Use the first N answers or prompts.")] = DEFAULTS.limit,
    tree: Annotated[
        str, typer.Option("--tree", metavar="DEPTH,BEAM,NODES", help="The draft tree.")
    ] = f"{_TREE.depth},{_TREE.beam},{_TREE.nodes}",
    max_new_tokens: options.ReplayedTokens = DEFAULTS.max_new_tokens,
    norm_output: options.NormOutput = None,
    seed: options.Seed = DEFAULTS.seed,
    restart: options.Restart = False,
    force: options.Force = False,
    device: options.Device = None,
    dtype: options.AutoDtype = AUTO,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Say why a draft head accepts little: its answers are replayed under every reading that could be wrong.

    Taps, norms, window, RoPE, order of inputs, vocabulary map, dtype: a wrong one costs acceptance and shows nowhere else. Then
    it compares the head with its target and its prompts, says what limits it, what to expect at best, and what to try next.
    """
    if (restart or force) and out is None:
        raise UsageError(f"--{'restart' if restart else 'force'} has no effect without --out.")
    if held_out and answers is None:
        raise UsageError("--held-out has no effect without --answers.")
    asked = DoctorOptions(
        tree=parse_tree(tree), limit=limit, max_new_tokens=max_new_tokens, held_out=held_out, seed=seed
    )
    normed = yes_or_no(norm_output)
    from frspec_cli.doctor.examine import examine
    from frspec_cli.models.target import load_target
    from frspec_cli.replay.suite import check_suite
    from frspec_cli.tuning.choose import fastest_dtype

    if out is not None:
        inputs = [model, draft, vocab, answers]
        out = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result", force=force)
    output = Output(as_json=as_json, quiet=quiet, out=out)
    if answers is not None:
        check_suite(answers, asked.replay)
    if dtype == AUTO:  # as a replay: whole answers at once, so many rows
        dtype = fastest_dtype(model, rows=16, device=device, say=output.say)
    with output.callbacks("replaying readings") as callbacks:
        result = examine(
            load_target(model, device=device, dtype=dtype),
            asked,
            draft=draft,
            vocab=None if vocab is None else str(vocab),
            suite=answers,
            norm_output=normed,
            out=out,
            restart=restart,
            force=force,
            callbacks=callbacks,
        )
    _show(result, output)
    shown = {name: value for name, value in result.items() if name not in ("environment", "inputs")}
    output.result(({} if out is None else {"out": str(out)}) | shown, "" if out is None else f"wrote {out}")


SAYS = {"better": "more", "perhaps": "maybe more", "worse": "less", "same": "the same", "unclear": "open"}
"""What a reading accepts, as the table says it; `open` is what the answers cannot tell."""
LIMITS = {
    "outside": "outside the subset",
    "beam": "below the beam",
    "rerank": "cut from the tree",
    "depth": "as deep as the tree",
    "end": "at the end of the text",
}
"""Why a cycle ended."""


def _show(result: dict[str, Any], output: Output) -> None:
    answers, options = result["answers"], result["options"]
    tree = "depth {}, beam {}, {} nodes".format(*options["tree"])
    output.table(
        f"{answers['answers']:,} answers, {answers['tokens']:,} tokens, {options['dtype']} on {options['device']}, {tree}; "
        "tokens accepted a cycle under each reading of the head's files, with 95% intervals:",
        ["reading", "accepted", "against its files'", "accepts"],
        [
            [
                row["name"],
                f"{row['acceptance_length']:.2f}",
                _times(row["times"]) if row["cause"] else "-",
                SAYS[row["says"]] if row["cause"] else "-",
            ]
            for row in result["readings"]
        ],
    )
    output.say(_verdict(result))
    output.table(
        "What to expect:",
        ["", "accepted", "against now"],
        [[row["what"], f"{row['acceptance_length']:.2f}", _times(row["times"])] for row in result["expect"]],
    )
    for way, found in result["prompts"].items():
        output.say(
            f"{_upper(way)}, the same prompts have {_interval(found['acceptance'])}: {_times(found['times'])} as much, with "
            f"{found['repeated_4grams']:.0%} repeated 4-grams against {found['usual_4grams']:.0%}."
        )
    for by, groups in result["groups"].items():
        _show_groups(by, groups, output)
    limits = ", ".join(f"{share:.0%} {LIMITS[name]}" for name, share in result["limits"].items() if share)
    output.say(f"Cycles end: {limits}.")
    output.say("Next:")
    for line in result["next"] or ["Nothing: what it accepts is what such a head accepts."]:
        output.say(f"- {line}")


def _show_groups(by: str, groups: dict[str, Any], output: Output) -> None:
    """The groups that are large enough to say something."""
    rows = [
        [name or "(none)", f"{each['answers']:,}", _interval(each["acceptance"])]
        for name, each in groups.items()
        if each["answers"] >= SMALLEST_GROUP
    ]
    if len(groups) > 1 and rows:
        output.table(f"By {by}, of {SMALLEST_GROUP} answers or more:", [by, "answers", "accepted"], rows)
    elif len(groups) > 1:
        output.say(f"Nothing is said by {by}: none has {SMALLEST_GROUP} answers.")


def _verdict(result: dict[str, Any]) -> str:
    length = f"{result['acceptance_length']:.2f}"
    if result["verdict"] == "target":
        return f"No reading drafts: the best accepts {length} tokens a cycle."
    if result["verdict"] == "reading":
        changes = " and ".join(change["what"] for change in result["changes"])
        return f"Its files are read wrongly: {changes} gives {length}, {_times(result['times'])} as much as they say."
    around = result["around"]
    unclear = [row for row in around if row["says"] in ("unclear", "perhaps")]
    line = (
        f"No other reading surely accepts more than its files' own {length}; {_count(around, 'worse')} surely accept less, "
        f"{_count(around, 'same')} the same"
    )
    if not unclear:
        return f"{line}."
    most, least = max(row["times"]["high"] for row in unclear), min(row["times"]["low"] for row in unclear)
    within = f"each accepts between {least:.2f} and {most:.2f} times as much"
    return f"{line}. {len(unclear)} the answers cannot tell from it: {within}."


def _count(rows: list[dict[str, Any]], says: str) -> int:
    return sum(row["says"] == says for row in rows)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _interval(found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    if found["low"] == found["high"]:
        return f"{found['value']:.2f}"
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _times(found: dict[str, float] | None) -> str:
    return "-" if found is None else f"{found['value']:.2f}x ({found['low']:.2f} to {found['high']:.2f})"
