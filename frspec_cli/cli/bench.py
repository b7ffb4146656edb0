"""`frspec bench`: methods measured side by side on a suite of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.bench.options import BASELINE, BenchOptions
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
        str, typer.Option("--methods", help=f"Any of {', '.join((*METHODS, BASELINE))}, separated by commas.")
    ] = ",".join(DEFAULTS.methods),
    k: options.Ks = None,
    limit: options.Limit = None,
    depth: options.Depth = DEFAULTS.depth,
    beam: options.Beam = DEFAULTS.beam,
    nodes: options.Nodes = DEFAULTS.nodes,
    context_slots: options.ContextSlots = DEFAULTS.context_slots,
    max_new_tokens: options.MaxNewTokens = DEFAULTS.max_new_tokens,
    stop_at_eos: Annotated[
        bool, typer.Option("--stop-at-eos", help="Let texts end at the end of sequence (then the work is not equal).")
    ] = not DEFAULTS.ignore_eos,
    seed: options.Seed = DEFAULTS.seed,
    restart: options.Restart = False,
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
    both run), with a 95 % interval by paired bootstrap over prompts. A prompt that fails is left out, counted and named.
    """
    bench_options = BenchOptions(
        methods=tuple(name.strip() for name in methods.split(",")),
        ks=tuple(k or ()),
        depth=depth,
        beam=beam,
        nodes=nodes,
        context_slots=context_slots,
        max_new_tokens=max_new_tokens,
        ignore_eos=not stop_at_eos,
        seed=seed,
    )
    from frspec_cli.answers.batched_decode import tokenize
    from frspec_cli.answers.prompts import read_prompts
    from frspec_cli.bench.load import load_bench_pipeline
    from frspec_cli.bench.suite import run_suite

    inputs: list[Path | str | None] = [suite, model, draft, vocab]
    out = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result")
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
        result = run_suite(pipeline, bench_options, tokenized, out=out, restart=restart, callbacks=callbacks)
    _show(result, len(prompts), output)
    output.result(
        {"out": str(out), "summary": result["summary"], "failures": result["failures"]},
        f"wrote {out}",
    )


def _show(result: dict[str, Any], prompts: int, output: Output) -> None:
    rows = []
    for name, figures in result["summary"].items():
        seconds, ratio, identical = figures["seconds"], figures["speedup"], figures["identical"]
        rows.append(
            [
                name,
                f"{figures['k']:,}" if figures["k"] else "-",
                f"{figures['tokens_per_second']:.1f}",
                f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "-",
                f"{figures['acceptance_length']:.2f}",
                f"{seconds['draft'] / seconds['total']:.0%}",
                f"{seconds['verify'] / seconds['total']:.0%}",
                f"{identical['equal']}/{identical['prompts']}" if identical else "-",
            ]
        )
    recorded, failed = result["options"], len(result["failures"])
    output.table(
        f"{prompts} prompts{f' ({failed} failed)' if failed else ''}, {recorded['max_new_tokens']} new tokens, "
        f"{recorded['dtype']} on {recorded['device']}, tree of depth {recorded['depth']}, beam {recorded['beam']}, "
        f"{recorded['nodes']} nodes",
        ["method", "k", "tokens/s", "speed-up (95 %)", "acceptance", "draft", "verify", "equal ids"],
        rows,
    )
