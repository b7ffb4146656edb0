"""`frspec bench`: methods measured side by side on a suite of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.answers.repetition import MOST
from frspec_cli.bench.options import BASELINES, BenchOptions
from frspec_cli.cli import complete, options
from frspec_cli.cli.auto import chosen_by_method
from frspec_cli.cli.output import Output
from frspec_cli.decoding.options import METHODS, TreeConfig, refuse_unused
from frspec_cli.errors import UsageError
from frspec_cli.tuning.options import AUTO, TreeChoice

if TYPE_CHECKING:
    from frspec_cli.tuning.choose import Choice

DEFAULTS = BenchOptions()


def _moved(context: typer.Context, parameter: typer.CallbackParam, value: bool) -> None:
    if value:
        raise UsageError(
            f"--{parameter.name} is now a command of its own.", hint=f"See frspec {parameter.name} --help."
        )


def command(
    suite: options.Suite,
    out: options.ResultFile,
    model: options.Model = options.DEFAULT_MODEL,
    draft: options.Draft = None,
    norm_output: options.NormOutput = None,
    vocab: options.Vocab = None,
    methods: Annotated[
        list[str],
        options.several(
            "--methods",
            autocompletion=complete.methods,
            help=f"Any of {', '.join((*METHODS, *BASELINES))}, by commas or one at a time.",
        ),
    ] = list(DEFAULTS.methods),  # noqa: B006 (Typer never changes it)
    k: options.Ks = None,
    limit: options.Limit = None,
    tree: options.Tree = AUTO,
    depth: options.AutoDepth = None,
    beam: options.AutoBeam = None,
    nodes: options.AutoNodes = None,
    context_slots: options.ContextSlots = DEFAULTS.context_slots,
    max_new_tokens: options.MaxNewTokens = DEFAULTS.max_new_tokens,
    ignore_eos: Annotated[
        bool,
        typer.Option("--ignore-eos", help="Decode past the end of sequence, so that every text has as many tokens."),
    ] = DEFAULTS.ignore_eos,
    runs: Annotated[
        int, typer.Option("--runs", min=1, help="Measure every prompt with every method N times, interleaved.")
    ] = DEFAULTS.runs,
    temperature: options.Temperature = DEFAULTS.temperature,
    seed: options.Seed = DEFAULTS.seed,
    restart: options.Restart = False,
    force: options.Force = False,
    device: options.Device = None,
    dtype: options.AutoDtype = AUTO,
    compiled: options.Compile = False,
    config: options.Config = None,
    verbose: options.Verbose = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    replay: Annotated[bool, typer.Option("--replay", hidden=True, is_eager=True, callback=_moved)] = False,
    profile: Annotated[bool, typer.Option("--profile", hidden=True, is_eager=True, callback=_moved)] = False,
) -> None:
    """Measure methods side by side: the same prompts, interleaved in one run, tokens counted one way.

    Speed-up is the ratio of total tokens to total time against plain decoding (the faster of ours and transformers', if
    both run), with a 95% interval by paired bootstrap over prompts and runs. The first method is measured once more each
    time: its ratio to itself shows what the machine makes of no difference. A prompt that fails is left out, counted and
    named. With a temperature, run R draws with seed + R, the same for every method of ours.
    """
    sizes = TreeChoice.of(tree, depth=depth, beam=beam, nodes=nodes)
    bench_options = BenchOptions(
        methods=tuple(methods),
        ks=tuple(k or ()),
        context_slots=context_slots,
        max_new_tokens=max_new_tokens,
        ignore_eos=ignore_eos,
        runs=runs,
        temperature=temperature,
        seed=seed,
    )
    from frspec_cli.answers.batched_decode import tokenize
    from frspec_cli.answers.prompts import read_prompts
    from frspec_cli.bench.load import load_bench_pipeline, refuse_untrained
    from frspec_cli.bench.suite import run_suite
    from frspec_cli.tuning.choose import Wanted

    inputs: list[Path | str | None] = [suite, model, draft, vocab]
    out = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result", force=force)
    output = Output(as_json=as_json, quiet=quiet, out=out)
    prompts = read_prompts(suite, limit=limit)
    subset = None if vocab is None else str(vocab)
    refuse_unused(bench_options.methods, draft=draft, vocab=subset, norm_output=norm_output)
    refuse_untrained(bench_options, draft)
    wanted = Wanted(
        model, dtype=dtype, tree=sizes, draft=draft, vocab=subset, k=k[0] if k else None, device=device, compiled=compiled,
        config=config,
    )  # fmt: skip
    choices = chosen_by_method(wanted, bench_options.methods, output)
    bench_options = _with(bench_options, choices, sizes)
    pipeline = load_bench_pipeline(
        bench_options,
        model=model,
        draft=draft,
        vocab=subset,
        norm_output=norm_output,
        device=device,
        dtype=next(iter(choices.values())).dtype,
        compiled=compiled,
        warn=output.warn,
    )
    with output.callbacks("measuring") as callbacks:
        tokenized = tokenize(pipeline.target, prompts)
        result = run_suite(
            pipeline,
            bench_options,
            tokenized,
            out=out,
            suite=suite.name,
            restart=restart,
            force=force,
            choices={method: choice.as_json() for method, choice in choices.items()},
            callbacks=callbacks,
        )
    _show(result, len(prompts), output, verbose=verbose)
    output.result(
        {"out": str(out), **{name: result[name] for name in ("summary", "failures", "null", "repetition")}},
        f"wrote {out}",
    )


def _with(bench_options: BenchOptions, choices: Mapping[str, Choice], sizes: TreeChoice) -> BenchOptions:
    """The options with the tree of the first choice, the trees of others that differ, and the subset's size if one was
    chosen. Lookup, which no tune is about, keeps a tree of its own."""
    first = next(iter(choices.values())).tree
    own = {method: choice.tree for method, choice in choices.items()}
    if "lookup" in bench_options.methods:
        own["lookup"] = sizes.over(TreeConfig())
    trees = {method: f"{tree.depth},{tree.beam},{tree.nodes}" for method, tree in own.items() if tree != first}
    k = choices["frspec"].k if "frspec" in choices else None
    ks = bench_options.ks or ((k,) if k else ())
    return replace(bench_options, depth=first.depth, beam=first.beam, nodes=first.nodes, own_trees=trees, ks=ks)


_BRIEF = ("method", "k", "tokens/s", "speed-up (95% CI)", "acceptance", "equal ids")


def _show(result: dict[str, Any], prompts: int, output: Output, *, verbose: bool) -> None:
    rows, summary = [], result["summary"]
    twice = any(name.startswith("frspec@") for name in summary)  # the first of several sizes is `frspec` too
    for name, figures in summary.items():
        if name == "frspec" and twice:
            continue
        seconds, identical = figures["seconds"], figures["identical"]
        rows.append(
            [
                name,
                f"{figures['k']:,}" if figures["k"] else "-",
                f"{figures['tokens_per_second']:.1f}",
                _times(figures["speedup"]),
                f"{figures['decode_tokens_per_second']:.1f}",
                _times(figures["decode_speedup"]),
                f"{figures['acceptance_length']:.2f}",
                f"{seconds['draft'] / seconds['total']:.0%}",
                f"{seconds['verify'] / seconds['total']:.0%}",
                f"{identical['equal']}/{identical['prompts']}" if identical else "-",
            ]
        )
    recorded, failed = result["options"], len(result["failures"])
    repeated, null = result["repetition"]["all"], result["null"]
    others = "".join(f", {method} {tree}" for method, tree in recorded["own_trees"].items())
    output.table(
        f"{prompts} prompts{f' ({failed} failed)' if failed else ''}, {recorded['runs']} runs, up to "
        f"{recorded['max_new_tokens']} new tokens, temperature {recorded['temperature']:g}, {repeated:.0%} repeated 4-grams, "
        f"{recorded['dtype']} on {recorded['device']}, tree of depth {recorded['depth']}, beam {recorded['beam']}, "
        f"{recorded['nodes']} nodes{others}",
        [
            *("method", "k", "tokens/s", "speed-up (95% CI)", "decode tokens/s", "decode speed-up (95% CI)"),
            *("acceptance", "draft", "verify", "equal ids"),
        ],
        rows,
        brief=None if verbose else _BRIEF,
    )
    output.say(f"{null['arm']} against itself: {_times(null['ratio'])}")
    if not null["contains_one"]:
        output.warn(
            "that interval does not contain 1: the machine was not quiet, and differences of that size mean nothing."
        )
    if repeated > MOST:
        output.warn(
            f"the texts repeat {repeated:.0%} of their 4-grams: what repeats is easy to draft, so do not quote it as the "
            "headline."
        )


def _times(ratio: dict[str, float] | None) -> str:
    return f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "-"
