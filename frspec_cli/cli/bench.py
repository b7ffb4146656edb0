"""`frspec bench`: methods measured side by side on a suite of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.answers.repetition import MOST
from frspec_cli.bench.options import BASELINES, BenchOptions
from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.decoding.options import METHODS
from frspec_cli.errors import UsageError

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
        typer.Option(
            "--methods",
            metavar="NAME",
            parser=options.names,
            callback=options.flat,
            help=f"Any of {', '.join((*METHODS, *BASELINES))}, by commas or one at a time.",
        ),
    ] = list(DEFAULTS.methods),  # noqa: B006 (Typer never changes it)
    k: options.Ks = None,
    limit: options.Limit = None,
    depth: options.Depth = DEFAULTS.depth,
    beam: options.Beam = DEFAULTS.beam,
    nodes: options.Nodes = DEFAULTS.nodes,
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
    dtype: options.Dtype = "bfloat16",
    compiled: options.Compile = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    replay: Annotated[bool, typer.Option("--replay", hidden=True, is_eager=True, callback=_moved)] = False,
    profile: Annotated[bool, typer.Option("--profile", hidden=True, is_eager=True, callback=_moved)] = False,
) -> None:
    """Measure methods side by side: the same prompts, interleaved in one run, tokens counted one way.

    Speed-up is the ratio of total tokens to total time against plain decoding (the faster of ours and transformers', if
    both run), with a 95 % interval by paired bootstrap over prompts and runs. The first method is measured once more each
    time: its ratio to itself shows what the machine makes of no difference. A prompt that fails is left out, counted and
    named. With a temperature, run R draws with seed + R, the same for every method of ours.
    """
    bench_options = BenchOptions(
        methods=tuple(methods),
        ks=tuple(k or ()),
        depth=depth,
        beam=beam,
        nodes=nodes,
        context_slots=context_slots,
        max_new_tokens=max_new_tokens,
        ignore_eos=ignore_eos,
        runs=runs,
        temperature=temperature,
        seed=seed,
    )
    from frspec_cli.answers.batched_decode import tokenize
    from frspec_cli.answers.prompts import read_prompts
    from frspec_cli.bench.load import load_bench_pipeline
    from frspec_cli.bench.suite import run_suite

    inputs: list[Path | str | None] = [suite, model, draft, vocab]
    out = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result", force=force)
    output = Output(as_json=as_json, quiet=quiet, out=out)
    prompts = read_prompts(suite, limit=limit)
    pipeline = load_bench_pipeline(
        bench_options,
        model=model,
        draft=draft,
        vocab=None if vocab is None else str(vocab),
        norm_output=norm_output,
        device=device,
        dtype=dtype,
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
            callbacks=callbacks,
        )
    _show(result, len(prompts), output)
    output.result(
        {"out": str(out), **{name: result[name] for name in ("summary", "failures", "null", "repetition")}},
        f"wrote {out}",
    )


def _show(result: dict[str, Any], prompts: int, output: Output) -> None:
    rows = []
    for name, figures in result["summary"].items():
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
    output.table(
        f"{prompts} prompts{f' ({failed} failed)' if failed else ''}, {recorded['runs']} runs, up to "
        f"{recorded['max_new_tokens']} new tokens, temperature {recorded['temperature']:g}, {repeated:.0%} repeated 4-grams, "
        f"{recorded['dtype']} on {recorded['device']}, tree of depth {recorded['depth']}, beam {recorded['beam']}, "
        f"{recorded['nodes']} nodes",
        [
            *("method", "k", "tokens/s", "speed-up (95 %)", "decode tokens/s", "decode speed-up (95 %)"),
            *("acceptance", "draft", "verify", "equal ids"),
        ],
        rows,
    )
    output.say(f"{null['arm']} against itself: {_times(null['ratio'])}")
    if not null["contains_one"]:
        output.warn(
            "that interval does not contain 1: the machine was not quiet, and differences of that size mean nothing."
        )
    if repeated > MOST:
        output.warn(
            f"the texts repeat {repeated:.0%} of their 4-grams: what repeats is easy to draft, so this is no headline."
        )


def _times(ratio: dict[str, float] | None) -> str:
    return f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "-"
