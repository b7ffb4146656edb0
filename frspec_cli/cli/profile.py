"""`frspec profile`: where the time of a cycle goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.bench.options import ProfileOptions
from frspec_cli.cli import complete, options
from frspec_cli.cli.output import Output
from frspec_cli.decoding.options import METHODS

DEFAULTS = ProfileOptions()


def command(
    suite: options.Suite,
    out: options.ResultFile,
    model: options.Model = options.DEFAULT_MODEL,
    draft: Annotated[
        str | None,
        typer.Option(
            "--draft",
            help="Draft head: a folder or hub id, or random for an untrained one. Default: what ships for the model.",
        ),
    ] = None,
    norm_output: options.NormOutput = None,
    vocab: options.Vocab = None,
    methods: Annotated[
        list[str],
        options.several(
            "--methods",
            autocompletion=complete.methods,
            help=f"Any of {', '.join(METHODS)}, by commas or one at a time.",
        ),
    ] = list(DEFAULTS.methods),  # noqa: B006 (Typer never changes it)
    k: options.Ks = None,
    limit: options.Limit = None,
    depth: options.Depth = DEFAULTS.depth,
    beam: options.Beam = DEFAULTS.beam,
    nodes: options.Nodes = DEFAULTS.nodes,
    context_slots: options.ContextSlots = DEFAULTS.context_slots,
    max_new_tokens: options.MaxNewTokens = DEFAULTS.max_new_tokens,
    seed: options.Seed = DEFAULTS.seed,
    restart: options.Restart = False,
    force: options.Force = False,
    device: options.Device = None,
    dtype: options.Dtype = "bfloat16",
    compiled: options.Compile = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Show where the time of one cycle goes, and how EAGLE-2's cycle compares with FR-Spec's at the same tree.

    Cycles are timed as they are; their parts are timed in a second, instrumented pass. With --draft random, which needs no
    trained head, the times hold and nothing else does. A prompt that fails is left out, counted and named.
    """
    profile_options = ProfileOptions(
        methods=tuple(methods),
        ks=tuple(k or ()),
        depth=depth,
        beam=beam,
        nodes=nodes,
        context_slots=context_slots,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    from frspec_cli.answers.batched_decode import tokenize
    from frspec_cli.answers.prompts import read_prompts
    from frspec_cli.bench.load import load_bench_pipeline
    from frspec_cli.bench.profile import run_profile

    inputs: list[Path | str | None] = [suite, model, draft, vocab]
    out = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result", force=force)
    output = Output(as_json=as_json, quiet=quiet, out=out)
    prompts = read_prompts(suite, limit=limit)
    pipeline = load_bench_pipeline(
        profile_options,
        model=model,
        draft=draft,
        vocab=None if vocab is None else str(vocab),
        norm_output=norm_output,
        device=device,
        dtype=dtype,
        compiled=compiled,
        warn=output.warn,
    )
    with output.callbacks("profiling") as callbacks:
        tokenized = tokenize(pipeline.target, prompts)
        result = run_profile(
            pipeline, profile_options, tokenized, out=out, restart=restart, force=force, callbacks=callbacks
        )
    _show(result, len(prompts), output)
    output.result(
        {"out": str(out), "profile": result["profile"], "failures": result["failures"]},
        f"wrote {out}",
    )


def _show(result: dict[str, Any], prompts: int, output: Output) -> None:
    recorded, profile, failed = result["options"], result["profile"], len(result["failures"])
    rows = [
        [
            name,
            f"{figures['k']:,}" if figures["k"] else "-",
            f"{figures['cycles']:,}",
            _with_interval(figures["cycle_ms"]),
            _with_interval(figures["draft_ms"]),
            *(f"{figures['parts_ms'][part]['value']:.2f} ({share:.0%})" for part, share in figures["shares"].items()),
        ]
        for name, figures in profile["methods"].items()
    ]
    parts = next(iter(profile["methods"].values()))["shares"]
    output.table(
        f"median ms per cycle (95% CI): {prompts} prompts{f' ({failed} failed)' if failed else ''}, {recorded['dtype']} on "
        f"{recorded['device']}, tree of depth {recorded['depth']}, beam {recorded['beam']}, {recorded['nodes']} nodes; parts "
        "from a second, instrumented pass",
        ["method", "k", "cycles", "cycle", "draft part", *parts],
        rows,
    )
    for name, ratio in profile["ratios"].items():
        output.say(f"{name}: cycle {_with_interval(ratio['cycle'])}, draft {_with_interval(ratio['draft'])}")


def _with_interval(figures: dict[str, float]) -> str:
    return f"{figures['value']:.2f} ({figures['low']:.2f} to {figures['high']:.2f})"
