"""`frspec replay`: acceptance by the draft alone, over recorded answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.heads.options import MODULES, MTP_PRENORM, yes_or_no
from frspec_cli.replay.options import (
    GROUPINGS,
    METHODS,
    MTP_TREE,
    SMALLEST_ON_CURVE,
    ReplayOptions,
    parse_tree,
)
from frspec_cli.tuning.options import AUTO

DEFAULTS = ReplayOptions()
_TREE = DEFAULTS.trees[0]


def command(
    suite: Annotated[
        Path,
        typer.Argument(
            metavar="ANSWERS",
            help="Answers that `frspec collect` recorded, or JSONL of prompts, which the target then answers first.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The result to write, such as replay.json; an interrupted run resumes.")
    ],
    model: options.Model = options.DEFAULT_MODEL,
    draft: Annotated[
        list[str] | None,
        typer.Option(
            "--draft",
            help=f"Draft head: a folder, a hub id, or mtp for the model's own module ({MTP_PRENORM}: it reads the state before "
            "the final norm); may be given several times. Default: what ships for the model.",
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
        list[str],
        options.several("--methods", help=f"Any of {', '.join(METHODS)}, by commas or one at a time."),
    ] = list(DEFAULTS.methods),  # noqa: B006 (Typer never changes it)
    k: options.Ks = None,
    curve: Annotated[
        bool,
        typer.Option(
            "--curve", help=f"Replay every subset at its own size and its halves, down to {SMALLEST_ON_CURVE} tokens."
        ),
    ] = DEFAULTS.curve,
    context_slots: Annotated[
        list[int] | None,
        typer.Option(
            "--context-slots",
            min=0,
            help="Spare draft rows for tokens of the text that are not in the subset; may be given several times.",
        ),
    ] = None,
    tree: Annotated[
        list[str] | None,
        typer.Option(
            "--tree",
            metavar="DEPTH,BEAM,NODES",
            help=f"A draft tree; may be given several times. Default: {_TREE.depth},{_TREE.beam},{_TREE.nodes}; "
            f"for --draft mtp {MTP_TREE.depth},{MTP_TREE.beam},{MTP_TREE.nodes}, a chain.",
        ),
    ] = None,
    held_out: options.HeldOut = DEFAULTS.held_out,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use the first N answers or prompts.")
    ] = DEFAULTS.limit,
    max_new_tokens: options.ReplayedTokens = DEFAULTS.max_new_tokens,
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos",
            help="Also replay what comes after the end of sequence, apart: prompts are answered past it.",
        ),
    ] = DEFAULTS.ignore_eos,
    by: Annotated[
        list[str] | None,
        options.several("--by", help=f"Show the figures by {', '.join(GROUPINGS)}. Default: task."),
    ] = None,
    seed: options.Seed = DEFAULTS.seed,
    restart: options.Restart = False,
    force: options.Force = False,
    device: options.Device = None,
    dtype: options.AutoDtype = AUTO,
    verbose: options.Verbose = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what is accepted, and why no more, by the draft alone: any number of heads, subsets, sizes and trees.

    The target reads each answer once, whatever is replayed over it; nothing is timed. For every cycle the result says why
    it ended: the target's token was outside the subset, below the beam, cut by the rerank, or deeper than the tree.

    `kept` is the acceptance length over that of the full vocabulary with the same head and tree, with a 95% interval that
    draws answers for both together. Answers end at their end of sequence.
    """
    usual = (MTP_TREE,) if draft and set(draft) <= set(MODULES) else DEFAULTS.trees
    replay_options = ReplayOptions(
        methods=tuple(methods),
        ks=tuple(k or ()),
        curve=curve,
        context_slots=tuple(context_slots or DEFAULTS.context_slots),
        trees=tuple(map(parse_tree, tree)) if tree else usual,
        max_new_tokens=max_new_tokens,
        held_out=held_out,
        limit=limit,
        ignore_eos=ignore_eos,
        by=tuple(by or DEFAULTS.by),
        seed=seed,
    )
    normed = yes_or_no(norm_output)
    from frspec_cli.models.target import load_target
    from frspec_cli.replay.arms import load_pipelines
    from frspec_cli.replay.suite import check_suite
    from frspec_cli.replay.sweep import run_replay
    from frspec_cli.tuning.choose import fastest_dtype

    inputs: list[Path | str | None] = [
        suite,
        model,
        *(each for each in draft or [] if each not in MODULES),
        *(vocab or []),
    ]
    out = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result", force=force)
    output = Output(as_json=as_json, quiet=quiet, out=out)
    check_suite(suite, replay_options)
    if dtype == AUTO:  # a replay reads whole answers at once: many rows
        dtype = fastest_dtype(model, rows=16, device=device, say=output.say)
    pipelines = load_pipelines(
        load_target(model, device=device, dtype=dtype, hybrid=True),
        replay_options,
        drafts=draft or (),
        vocabs=[str(path) for path in vocab or ()],
        norm_output=normed,
        warn=output.warn,
    )
    with output.callbacks("replaying") as callbacks:
        result = run_replay(
            pipelines, replay_options, suite, out=out, restart=restart, force=force, callbacks=callbacks
        )
    _show(result, replay_options, output, verbose=verbose or output.piped)
    shown = {"answers": result["answers"], "summary": result["summary"], "failures": result["failures"]}
    output.result({"out": str(out), **shown}, f"wrote {out}")


def _show(result: dict[str, Any], options: ReplayOptions, output: Output, *, verbose: bool) -> None:
    summary = result["summary"]
    twice = any(name.startswith("frspec@") for name in summary)  # the first of several sizes is `frspec` too
    arms = {name: figures for name, figures in summary.items() if not (name == "frspec" and twice)}
    _show_arms(result, arms, output)
    if verbose:
        _show_depths(arms, output)
    else:
        output.say("--verbose shows the depths that were accepted, and acceptance by task.")
    for by in options.by if verbose or options.by != DEFAULTS.by else ():
        _show_groups(by, arms, output)
    for name, each in arms.items():
        if rest := each["after_eos"]:
            output.say(
                f"{name}: the {rest['tokens']:,} tokens after the end of sequence, apart: acceptance "
                f"{_interval(rest['interval'])}; with them all answers would have {_interval(rest['with_it'])}."
            )


REASONS = {
    "outside": "not in subset",
    "beam": "below beam",
    "rerank": "pruned",
    "depth": "tree too shallow",
    "end": "end of text",
}
"""Why a cycle ended, as the table is headed."""


def _show_arms(result: dict[str, Any], arms: dict[str, Any], output: Output) -> None:
    answers, recorded = result["answers"], result["options"]
    rows = [
        [name, f"{each['k']:,}", f"{each['cycles']:,}", _interval(each["interval"]), _percent(each["kept"])]
        + [f"{share:.1%}" for share in each["miss_shares"].values()]
        for name, each in arms.items()
    ]
    trees = "; ".join("depth {}, beam {}, {} nodes".format(*tree) for tree in recorded["trees"])
    failed = f" ({len(result['failures'])} failed)" if result["failures"] else ""
    output.table(
        f"{answers['answers']:,} answers{failed}, {answers['tokens']:,} tokens, {answers['repeated_4grams']:.0%} repeated "
        f"4-grams, {recorded['dtype']} on {recorded['device']}, {trees}; why drafts stopped:",
        [
            "method",
            "k",
            "cycles",
            "acceptance (95% CI)",
            "kept (95% CI)",
            *(REASONS.get(each, each) for each in next(iter(arms.values()))["misses"]),
        ],
        rows,
    )


def _show_depths(arms: dict[str, Any], output: Output) -> None:
    deepest = max(len(each["depths"]) for each in arms.values())
    rows = []
    for name, each in arms.items():
        cells = [f"{row['share']:.0%} ({row['conditional'] or 0:.0%})" for row in each["depths"]]
        rows.append([name, *cells, *[""] * (deepest - len(cells))])
    columns = ["", *(f"depth {depth}" for depth in range(1, deepest + 1))]
    output.table("cycles that accepted to each depth (and of those that were right so far)", columns, rows)


def _show_groups(by: str, arms: dict[str, Any], output: Output) -> None:
    from frspec_cli.replay.summary import GROUP_NAMES

    groups = {name: each[GROUP_NAMES[by]] for name, each in arms.items()}
    first = next(iter(groups.values()))
    if len(first) < 2 and by == "task":
        return
    rows = [
        [
            name or "-",
            f"{figures['answers']:,}",
            f"{figures['prompt_tokens']:,.0f}",
            f"{figures['repeated_4grams']:.0%}",
            *(_group_cell(each.get(name)) for each in groups.values()),
        ]
        for name, figures in first.items()
    ]
    output.table(f"acceptance by {by}", ["", "answers", "prompt tokens", "repeated 4-grams", *arms], rows)


def _group_cell(figures: dict[str, Any] | None) -> str:
    """The acceptance length; of a subset, with what it keeps of the full vocabulary's."""
    if figures is None or figures["interval"] is None:
        return "-"
    if figures["kept"] is None:
        return _interval(figures["interval"])
    return f"{figures['acceptance_length']:.2f}, {_percent(figures['kept'])}"


def _interval(interval: dict[str, float] | None) -> str:
    return "-" if interval is None else f"{interval['value']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"


def _percent(interval: dict[str, float] | None) -> str:
    return "-" if interval is None else f"{interval['value']:.1%} ({interval['low']:.1%} to {interval['high']:.1%})"
