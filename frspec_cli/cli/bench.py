"""`frspec bench`: methods measured side by side on a suite of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.cli import options, profile, replay
from frspec_cli.cli.output import Output
from frspec_cli.errors import UsageError


def command(
    suite: Annotated[
        Path, typer.Option("--suite", help='JSONL of {"prompt"} or Spec-Bench\'s {"turns"} (first turn).')
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The result to write, such as result.json.")],
    model: options.Model = options.DEFAULT_MODEL,
    draft: replay.Drafts = None,
    vocab: options.Vocab = None,
    methods: Annotated[
        str, typer.Option("--methods", help="Of ar, eagle, frspec, lookup, transformers; with commas between them.")
    ] = "ar,eagle,frspec",
    k: Annotated[
        list[int] | None, typer.Option("--k", min=1, help="Subset size for frspec; may be given several times.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many prompts.")] = None,
    depth: options.Depth = 5,
    beam: options.Beam = 4,
    nodes: options.Nodes = 16,
    context_slots: options.ContextSlots = 0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", "-n", min=1, help="Default: 64; of recorded answers that are replayed, all."),
    ] = None,
    stop_at_eos: Annotated[
        bool, typer.Option("--stop-at-eos", help="Let texts end by themselves (then the work is not equal).")
    ] = False,
    seed: options.Seed = 0,
    profiled: profile.Profile = False,
    replayed: replay.Replay = False,
    tree: replay.Trees = None,
    held_out: replay.HeldOut = False,
    device: options.Device = None,
    dtype: options.Dtype = "bfloat16",
    compiled: options.Compile = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure methods side by side: the same prompts, interleaved in one run, tokens counted one way.

    Speed-up is the ratio of total tokens to total time against plain decoding (the faster of ours and transformers', if
    both run), with a 95 % interval by paired bootstrap over prompts.
    With --profile: where the time of one cycle goes, and how EAGLE-2's compares with FR-Spec's at the same tree.
    With --replay nothing is timed: what is accepted, and why no more, by the draft alone.
    """
    inputs = [suite, model, vocab, *(draft or [])]
    out = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result")
    output = Output(as_json=as_json, quiet=quiet, out=out)
    if replayed:
        others = {"--context-slots": context_slots > 0, "--profile": profiled, "--compile": compiled}
        for name, asked_for in others.items():
            if asked_for:
                raise UsageError(f"{name} does not go with --replay.")
        replay.command(
            suite,
            out,
            model=model,
            drafts=draft,
            vocab=vocab,
            methods=methods,
            ks=k,
            trees=tree,
            shape=(depth, beam, nodes),
            limit=limit,
            max_new_tokens=max_new_tokens,
            ignore_eos=not stop_at_eos,
            held_out=held_out,
            seed=seed,
            device=device,
            dtype=dtype,
            output=output,
        )
        return
    for given, words in ((tree, "--tree goes"), (held_out, "--held-out goes"), ((draft or [])[1:], "several heads go")):
        if given:
            raise UsageError(f"{words} with --replay only.")
    from frspec_cli import storage
    from frspec_cli.answers.prompts import read_prompts
    from frspec_cli.bench.suite import Bench, BenchOptions
    from frspec_cli.bench.untrained import NAME, with_untrained_head
    from frspec_cli.decoding.compiling import compiler_for
    from frspec_cli.decoding.pipeline import load_pipeline
    from frspec_cli.models.shipped import DEFAULT_K
    from frspec_cli.models.target import load_target

    asked = BenchOptions(
        methods=tuple(name.strip() for name in methods.split(",")),
        ks=tuple(k or ()),
        depth=depth,
        beam=beam,
        nodes=nodes,
        context_slots=context_slots,
        max_new_tokens=max_new_tokens or 64,
        ignore_eos=not stop_at_eos,
        seed=seed,
    )
    prompts = read_prompts(suite, limit=limit)
    target = load_target(model, device=device, dtype=dtype)
    named = None if vocab is None else str(vocab)
    head = draft[0] if draft else None
    untrained = head == NAME
    parts = load_pipeline(
        target,
        draft=None if untrained else head,
        vocab=named,
        k=max(asked.ks, default=None),
        compiler=compiler_for(target.device) if compiled else None,
        warn=output.warn,
    )
    if untrained:
        if not profiled:
            raise UsageError(
                f"--draft {NAME} is an untrained head, whose texts say nothing: it goes with --profile only."
            )
        parts = with_untrained_head(parts, k=max(asked.ks, default=DEFAULT_K), seed=seed)
    bench = Bench(parts, asked)
    if profiled:
        profile.command(bench, prompts, out, output)
        return
    with output.progress() as progress:
        task = progress.add_task("measuring", total=len(prompts) * len(bench.arms()))
        result = bench.run(prompts, done=lambda: progress.advance(task))
    storage.write_json(out, result)
    _show(result, len(prompts), output)
    output.result({"out": str(out), "summary": result["summary"]}, f"wrote {out}")


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
    chosen = result["options"]
    output.table(
        f"{prompts} prompts, {chosen['max_new_tokens']} new tokens, {chosen['dtype']} on {chosen['device']}, tree of depth "
        f"{chosen['depth']}, beam {chosen['beam']}, {chosen['nodes']} nodes",
        ["method", "k", "tokens/s", "speed-up (95 %)", "acceptance", "draft", "verify", "equal ids"],
        rows,
    )
