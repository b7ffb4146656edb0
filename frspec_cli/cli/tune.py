"""`frspec tune`: the dtype, the subset's size and the draft tree that a machine wants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.errors import UsageError
from frspec_cli.heads.options import MODULES
from frspec_cli.tuning.options import AUTO, COSTS_CONTEXT, MTP_BEAMS, MTP_NODES, TuneOptions

if TYPE_CHECKING:
    from frspec_cli.decoding.pipeline import Pipeline
    from frspec_cli.tuning.choose import Wanted
    from frspec_cli.tuning.costs import CostFile

DEFAULTS = TuneOptions()
_BEAMS = ",".join(map(str, DEFAULTS.beams))


def command(
    suite: Annotated[
        Path | None,
        typer.Argument(
            metavar="ANSWERS",
            help="Answers that `frspec collect` recorded, or JSONL of prompts, which the target then answers first.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The result, for --config of other commands; an interrupted run resumes."),
    ] = Path("tune.json"),
    costs: Annotated[
        str | None,
        typer.Option(
            "--costs",
            metavar="FILE",
            help="Measure nothing: answer for the machine whose step costs are in FILE, or in a shipped file of that name.",
        ),
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
    draft: options.Draft = None,
    vocab: options.Vocab = None,
    k: options.Ks = None,
    methods: Annotated[
        list[str],
        options.several("--methods", help="frspec, eagle or both."),
    ] = list(DEFAULTS.methods),  # noqa: B006 (Typer never changes it)
    beams: Annotated[
        list[int] | None,
        options.several(
            "--beams",
            parser=options.numbers("--beams"),
            help=f"Beams of the trees that are tried. Default: {_BEAMS}; for --draft mtp 1, chains.",
        ),
    ] = None,
    contexts: Annotated[
        list[int],
        options.several(
            "--contexts",
            parser=options.numbers("--contexts"),
            help="Lengths of text, in tokens, at which steps are measured.",
        ),
    ] = list(DEFAULTS.contexts),  # noqa: B006
    limit: Annotated[int, typer.Option("--limit", min=1, help="Replay the first N answers.")] = DEFAULTS.limit,
    held_out: options.HeldOut = DEFAULTS.held_out,
    max_new_tokens: options.MaxNewTokens = DEFAULTS.max_new_tokens,
    measured: Annotated[
        int, typer.Option("--measured", min=1, help="Measure the N best trees in the engine.")
    ] = DEFAULTS.measured,
    measured_prompts: Annotated[
        int, typer.Option("--measured-prompts", min=1, help="Measure them on the first N prompts.")
    ] = DEFAULTS.prompts,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Measure each step N times.")] = DEFAULTS.rounds,
    seed: options.Seed = DEFAULTS.seed,
    restart: options.Restart = False,
    device: options.Device = None,
    dtype: Annotated[
        list[str] | None,
        options.several("--dtype", help="Dtypes that are tried. Default: auto, what this device computes fast."),
    ] = None,
    compiled: options.Compile = False,
    verbose: options.Verbose = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the dtype, subset size and draft tree that this machine wants, or that one with other step costs would.

    Measures what steps cost, replays acceptance, predicts every tree, and measures the best few beside plain decoding.
    generate, bench and verify take the result with --config, and use the last one on this machine by themselves.

    With --costs it says whether the list (--vocab) gains or loses on this text there. That needs no engine, so --draft mtp
    may be the module of a model with linear attention.
    """
    if suite is None and costs is None:
        raise UsageError("give answers or prompts to tune on, or --costs FILE.")
    module = draft in MODULES
    tune_options = TuneOptions(
        dtypes=tuple(name for name in dtype or () if name != AUTO),
        ks=tuple(k or ()),
        methods=tuple(methods),
        beams=tuple(beams) if beams else MTP_BEAMS if module else DEFAULTS.beams,
        nodes=MTP_NODES if module and not beams else DEFAULTS.nodes,
        contexts=tuple(contexts),
        limit=limit,
        held_out=held_out,
        measured=measured,
        prompts=measured_prompts,
        max_new_tokens=max_new_tokens,
        rounds=rounds,
        seed=seed,
    )
    from frspec_cli.tuning.choose import Wanted
    from frspec_cli.tuning.costs import find_costs, read_costs

    file = None if costs is None else find_costs(costs)
    inputs = [suite, model, None if module else draft, vocab, file]
    out = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result")
    output = Output(as_json=as_json, quiet=quiet, out=out)
    elsewhere = None if file is None else read_costs(file)
    wanted = Wanted(
        model, draft=draft, vocab=None if vocab is None else str(vocab), k=max(k) if k else None, device=device,
        compiled=compiled,
    )  # fmt: skip
    if suite is None:
        assert elsewhere is not None
        result = _from_file(elsewhere, tune_options, out)
    else:
        result = _run(wanted, tune_options, elsewhere, suite, out, restart, output)
    _show(result, output, verbose=verbose)
    if result["lists"] is not None:
        _show_lists(result["lists"], output)
    shown = {"ways": result["ways"], "lists": result["lists"]}
    output.result({"out": str(out), **shown}, f"wrote {out}")


def _run(
    wanted: Wanted,
    tune_options: TuneOptions,
    elsewhere: CostFile | None,
    suite: Path,
    out: Path,
    restart: bool,
    output: Output,
) -> dict[str, Any]:
    from frspec_cli.decoding.pipeline import load_pipeline
    from frspec_cli.models.target import load_target, resolve_device
    from frspec_cli.tuning.choose import about, probe_of
    from frspec_cli.tuning.run import Tune, keep

    def load(dtype: str) -> Pipeline:
        target = load_target(wanted.model, device=wanted.device, dtype=dtype, hybrid=elsewhere is not None)
        return load_pipeline(
            target, draft=wanted.draft, vocab=wanted.vocab, k=wanted.k, compiled=wanted.compiled, warn=output.warn
        )

    output.busy(f"loading {wanted.model}")
    probe = probe_of(wanted.model, str(resolve_device(wanted.device)), say=output.say)
    with output.callbacks("tuning") as callbacks:
        tune = Tune(load, tune_options, about(wanted), probe, elsewhere, callbacks)
        result = tune.run(suite, out=out, restart=restart)
    if elsewhere is None:
        keep(result)
    return result


def _from_file(elsewhere: CostFile, tune_options: TuneOptions, out: Path) -> dict[str, Any]:
    """The answer from costs and the acceptance that goes with them: no model is read."""
    from frspec_cli.tuning.run import from_costs

    return from_costs(elsewhere, tune_options, context=COSTS_CONTEXT, out=out)


_BRIEF = (
    "method",
    "dtype",
    "k",
    "tree",
    "predicted tokens/s",
    "to plain",
    "measured",
    "speed-up (95% CI), with the prompt",
)


def _show(result: dict[str, Any], output: Output, *, verbose: bool) -> None:
    ways = result["ways"]
    plain = max((way["predicted"] for way in ways if way["depth"] is None), default=None)
    rows = []
    for way in ways:
        measured = way["measured"]
        tree = "-" if way["depth"] is None else f"{way['depth']},{way['beam']},{way['nodes']}"
        rows.append(
            [
                way["method"],
                way["dtype"],
                f"{way['k']:,}" if way["k"] else "-",
                tree,
                f"{way['acceptance_length']:.2f}",
                f"{way['step_ms']:.1f}",
                f"{way['predicted']:.1f}",
                f"{way['predicted'] / plain:.2f}x" if plain else "-",
                *(_measured(measured, way["predicted"]) if measured else ("-", "-", "-")),
            ]
        )
    output.table(
        f"behind {result['context']} tokens of text; the tree is depth, beam, nodes",
        [
            *("method", "dtype", "k", "tree", "acceptance", "ms per cycle", "predicted tokens/s", "to plain"),
            *("measured", "measured / predicted", "speed-up (95% CI), with the prompt"),
        ],
        rows,
        left=4,
        brief=None if verbose else _BRIEF,
    )


def _show_lists(lists: dict[str, Any], output: Output) -> None:
    """Which list pays for chains of each length, and the sentence for the whole."""
    sizes = sorted({way["k"] for chain in lists["chains"] for way in chain["ways"]}, reverse=True)
    rows = []
    for chain in lists["chains"]:
        by_k = {way["k"]: f"{way['predicted']:.1f} ({way['acceptance_length']:.2f})" for way in chain["ways"]}
        rows.append([str(chain["steps"]), *(by_k.get(k, "-") for k in sizes), f"{chain['k']:,}"])
    if rows:
        columns = ["steps", *(f"k {k:,}" for k in sizes), "the k that pays"]
        output.table("chains: predicted tokens/s (acceptance length) by draft steps", columns, rows)
    output.say(lists["sentence"])


def _measured(measured: dict[str, Any], predicted: float) -> tuple[str, str, str]:
    ratio, rate = measured["speedup"], measured["decode_tokens_per_second"]
    return (
        f"{rate:.1f}",
        f"{rate / predicted:.2f}",
        f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})",
    )
