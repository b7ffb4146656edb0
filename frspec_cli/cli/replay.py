"""What `frspec bench --replay` adds: its options, and the tables that show a replay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli.cli.output import Output
from frspec_cli.errors import FrspecError, UsageError

if TYPE_CHECKING:
    from frspec_cli.answers.records import Answer
    from frspec_cli.decoding.tree import TreeConfig
    from frspec_cli.models.target import Target

_PANEL = "Replay"
Replay = Annotated[
    bool,
    typer.Option(
        "--replay",
        rich_help_panel=_PANEL,
        help="Acceptance only, by the draft alone: --suite may then also be answers that `frspec collect` recorded.",
    ),
]
Trees = Annotated[
    list[str] | None,
    typer.Option(
        "--tree",
        metavar="DEPTH,BEAM,NODES",
        rich_help_panel=_PANEL,
        help="With --replay: a tree, such as 5,4,16; may be given several times, in place of --depth, --beam, --nodes.",
    ),
]
Drafts = Annotated[
    list[str] | None,
    typer.Option(
        "--draft", help="Draft head: a folder or hub id. Default: what ships for the model. Several with --replay."
    ),
]
HeldOut = Annotated[
    bool,
    typer.Option(
        "--held-out",
        rich_help_panel=_PANEL,
        help="Of recorded answers only those that `frspec train-draft` never trains on (every 32nd).",
    ),
]


def command(
    suite: Path,
    out: Path,
    *,
    model: str,
    drafts: list[str] | None,
    vocab: Path | None,
    methods: str,
    ks: list[int] | None,
    trees: list[str] | None,
    shape: tuple[int, int, int],
    limit: int | None,
    max_new_tokens: int | None,
    ignore_eos: bool,
    held_out: bool,
    seed: int,
    device: str | None,
    dtype: str,
    output: Output,
) -> None:
    """Replays, writes the result, shows it. shape: depth, beam and nodes where there is no `trees`."""
    from frspec_cli import storage
    from frspec_cli.decoding.pipeline import load_pipeline
    from frspec_cli.models.target import load_target
    from frspec_cli.replay.sweep import ReplayBench, ReplayOptions

    named = tuple(name for name in (each.strip() for each in methods.split(",")) if name != "ar")
    shapes = tuple(_shape(text) for text in trees or [",".join(map(str, shape))])
    recorded = _is_recorded(suite)
    if held_out and not recorded:
        raise UsageError("--held-out is of recorded answers; these are prompts.")
    options = ReplayOptions(
        methods=named,
        ks=tuple(ks or ()),
        shapes=shapes,
        max_new_tokens=max_new_tokens if recorded else max_new_tokens or 64,
        seed=seed,
    )
    target = load_target(model, device=device, dtype=dtype)
    largest = max(options.ks, default=None)
    heads: list[str | None] = [*drafts] if drafts else [None]
    parts = [
        load_pipeline(target, draft=draft, vocab=None if vocab is None else str(vocab), k=largest, warn=output.warn)
        for draft in heads
    ]
    bench = ReplayBench(parts, options)
    deepest = max(each.depth for each in shapes)
    if recorded:
        answers = _recorded(suite, target.rows, limit, held_out=held_out)
    else:
        # As far as the last cycle may look.
        answers = _made(target, suite, limit, (options.max_new_tokens or 0) + deepest + 1, ignore_eos, output)
    with output.progress() as progress:
        task = progress.add_task("replaying", total=len(answers))
        result = bench.run(answers, done=lambda count: progress.advance(task, count))
    result["options"] |= {"suite": suite.name, "recorded": recorded, "held_out": held_out}
    storage.write_json(out, result)
    _show(result, output)
    shown = {"answers": result["answers"], "summary": result["summary"]}
    output.result({"out": str(out), **shown}, f"wrote {out}")


def _shape(text: str) -> TreeConfig:
    from frspec_cli.decoding.tree import TreeConfig

    try:
        depth, beam, nodes = map(int, text.split(","))
        return TreeConfig(depth=depth, beam=beam, nodes=nodes)
    except ValueError:
        raise UsageError(
            f"--tree {text} is no tree.", hint="Give depth, beam and nodes (at least 1,1,2), such as 5,4,16."
        ) from None


def _is_recorded(suite: Path) -> bool:
    from frspec_cli.subsets.eval_table import holds_answers

    if not suite.is_file():
        raise FrspecError(f"there is no file {suite}.")
    return holds_answers(str(suite))


def _recorded(suite: Path, vocab_size: int, limit: int | None, *, held_out: bool) -> list[Answer]:
    from frspec_cli.answers.records import read_answers, split

    if not held_out:
        return read_answers(suite, vocab_size=vocab_size, limit=limit)
    _, kept = split(read_answers(suite, vocab_size=vocab_size))
    if not kept:
        raise FrspecError(f"{suite} holds too few answers: none would be held out.", hint="Leave out --held-out.")
    return kept[:limit]


def _made(target: Target, suite: Path, limit: int | None, count: int, ignore_eos: bool, output: Output) -> list[Answer]:
    """The target's own answers to prompts, `count` tokens each (fewer where it ends by itself and may)."""
    from frspec_cli.answers.batched_decode import answer_prompts
    from frspec_cli.answers.prompts import read_prompts

    prompts = read_prompts(suite, limit=limit)
    with output.progress() as progress:
        task = progress.add_task("answering", total=len(prompts))
        made = answer_prompts(
            target,
            prompts,
            max_new_tokens=count,
            ignore_eos=ignore_eos,
            done=lambda number: progress.advance(task, number),
        )
    if not made:
        raise FrspecError(f"the target answers every prompt of {suite} with a single token: nothing is drafted there.")
    return made


def _show(result: dict[str, Any], output: Output) -> None:
    answers, chosen, summary = result["answers"], result["options"], result["summary"]
    arms = {name: each for name, each in summary.items() if not (name == "frspec" and _stands_twice(summary))}
    rows = [
        [name, f"{each['k']:,}", f"{each['cycles']:,}", _length(each["interval"]), _length(each["first_32"])]
        + [f"{share:.1%}" for share in each["miss_shares"].values()]
        for name, each in arms.items()
    ]
    trees = "; ".join("depth {}, beam {}, {} nodes".format(*tree) for tree in chosen["trees"])
    output.table(
        f"{answers['answers']:,} answers, {answers['tokens']:,} tokens, {answers['repeated_4grams']:.0%} repeated 4-grams, "
        f"{chosen['dtype']} on {chosen['device']}, {trees}; why cycles ended:",
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


def _stands_twice(summary: dict[str, Any]) -> bool:
    return any(name.startswith("frspec@") for name in summary)


def _length(interval: dict[str, float] | None) -> str:
    return "-" if interval is None else f"{interval['value']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"
