"""`frspec replay`: acceptance by the draft alone, over recorded answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.heads.options import yes_or_no
from frspec_cli.replay.options import METHODS, PROMPT_NEW_TOKENS, ReplayOptions, parse_tree

DEFAULTS = ReplayOptions()
_TREE = DEFAULTS.trees[0]


def command(
    suite: Annotated[
        Path,
        typer.Argument(
            metavar="ANSWERS_OR_PROMPTS",
            help="Answers that `frspec collect` recorded, or JSONL of prompts, which the target then answers first.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The result to write, such as replay.json; a stopped run resumes.")
    ],
    model: options.Model = options.DEFAULT_MODEL,
    draft: Annotated[
        list[str] | None,
        typer.Option(
            "--draft",
            help="Draft head: a folder or hub id; may be given several times. Default: what ships for the model.",
        ),
    ] = None,
    norm_output: options.NormOutput = None,
    vocab: Annotated[
        list[Path] | None,
        typer.Option(
            "--vocab", help="Vocabulary subset; may be given several times. Default: what ships for the model."
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option("--methods", help=f"Any of {', '.join(METHODS)}, separated by commas.")
    ] = ",".join(DEFAULTS.methods),
    k: options.Ks = None,
    tree: Annotated[
        list[str] | None,
        typer.Option(
            "--tree",
            metavar="DEPTH,BEAM,NODES",
            help=f"A draft tree; may be given several times. Default: {_TREE.depth},{_TREE.beam},{_TREE.nodes}.",
        ),
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Use only the answers that `frspec train-draft` never trains on (every 32nd)."),
    ] = DEFAULTS.held_out,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use the first N answers or prompts.")
    ] = DEFAULTS.limit,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            "-n",
            min=1,
            help=f"Begin no cycle after N tokens of an answer. Default: all; for prompts {PROMPT_NEW_TOKENS}.",
        ),
    ] = DEFAULTS.max_new_tokens,
    stop_at_eos: Annotated[
        bool, typer.Option("--stop-at-eos", help="Let the answers to prompts end at the end of sequence.")
    ] = not DEFAULTS.ignore_eos,
    seed: options.Seed = DEFAULTS.seed,
    restart: options.Restart = False,
    device: options.Device = None,
    dtype: options.Dtype = "bfloat16",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what is accepted, and why no more is, by the draft alone: any number of heads, subsets, sizes and trees.

    The target reads each answer once, whatever is replayed over it; nothing is timed. For every cycle the result says why
    it ended: the target's token was outside the subset, below the beam, cut by the rerank, or deeper than the tree.
    """
    replay_options = ReplayOptions(
        methods=tuple(name.strip() for name in methods.split(",")),
        ks=tuple(k or ()),
        trees=tuple(map(parse_tree, tree)) if tree else DEFAULTS.trees,
        max_new_tokens=max_new_tokens,
        held_out=held_out,
        limit=limit,
        ignore_eos=not stop_at_eos,
        seed=seed,
    )
    normed = yes_or_no(norm_output)
    from frspec_cli.models.target import load_target
    from frspec_cli.replay.suite import check_suite
    from frspec_cli.replay.sweep import load_pipelines, run_replay

    inputs: list[Path | str | None] = [suite, model, *(draft or []), *(vocab or [])]
    out = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result")
    output = Output(as_json=as_json, quiet=quiet, out=out)
    check_suite(suite, replay_options)
    pipelines = load_pipelines(
        load_target(model, device=device, dtype=dtype),
        replay_options,
        drafts=draft or (),
        vocabs=[str(path) for path in vocab or ()],
        norm_output=normed,
        warn=output.warn,
    )
    with output.callbacks("replaying") as callbacks:
        result = run_replay(pipelines, replay_options, suite, out=out, restart=restart, callbacks=callbacks)
    _show(result, output)
    shown = {"answers": result["answers"], "summary": result["summary"], "failures": result["failures"]}
    output.result({"out": str(out), **shown}, f"wrote {out}")


def _show(result: dict[str, Any], output: Output) -> None:
    answers, recorded, summary = result["answers"], result["options"], result["summary"]
    twice = any(name.startswith("frspec@") for name in summary)  # the first of several sizes is `frspec` too
    arms = {name: figures for name, figures in summary.items() if not (name == "frspec" and twice)}
    rows = [
        [name, f"{each['k']:,}", f"{each['cycles']:,}", _length(each["interval"]), _length(each["first_32"])]
        + [f"{share:.1%}" for share in each["miss_shares"].values()]
        for name, each in arms.items()
    ]
    trees = "; ".join("depth {}, beam {}, {} nodes".format(*tree) for tree in recorded["trees"])
    failed = f" ({len(result['failures'])} failed)" if result["failures"] else ""
    output.table(
        f"{answers['answers']:,} answers{failed}, {answers['tokens']:,} tokens, {answers['repeated_4grams']:.0%} repeated "
        f"4-grams, {recorded['dtype']} on {recorded['device']}, {trees}; why cycles ended:",
        ["method", "k", "cycles", "acceptance (95 %)", "first 32 tokens", *next(iter(arms.values()))["misses"]],
        rows,
    )
    categories = next(iter(arms.values()))["categories"]
    if len(categories) < 2:
        return
    rows = [
        [
            name or "-",
            f"{each['answers']:,}",
            f"{each['prompt_tokens']:,.0f}",
            f"{each['repeated_4grams']:.0%}",
            *(_length(arm["categories"][name]["interval"]) for arm in arms.values()),
        ]
        for name, each in categories.items()
    ]
    output.table("acceptance by category", ["", "answers", "prompt tokens", "repeated 4-grams", *arms], rows)


def _length(interval: dict[str, float] | None) -> str:
    return "-" if interval is None else f"{interval['value']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"
