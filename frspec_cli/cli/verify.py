"""`frspec verify`: is speculative decoding lossless with this model, this head and this subset?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from frspec_cli.decoding.pipeline import Pipeline


def command(
    model: options.Model = options.DEFAULT_MODEL,
    draft: options.Draft = None,
    vocab: options.Vocab = None,
    k: options.K = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="JSONL of prompts. Default: a few built in.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="So many of --prompts, spread evenly over its categories.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The result to write, such as result.json; a stopped run goes on."),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what a stopped run had finished.")] = False,
    method: Annotated[str, typer.Option("--method", help="eagle, frspec or lookup.")] = "frspec",
    depth: options.Depth = 5,
    beam: options.Beam = 4,
    nodes: options.Nodes = 16,
    max_new_tokens: options.MaxNewTokens = 64,
    rescored: Annotated[
        int | None, typer.Option("--rescored", min=0, help="So many prompts by re-scoring in float32. Default: all.")
    ] = None,
    stepwise: Annotated[
        int, typer.Option("--stepwise", min=0, help="So many step by step against plain decoding (in float64: all).")
    ] = 8,
    sampled: Annotated[int, typer.Option("--sampled", min=0, help="So many at temperature 1 with --seed.")] = 4,
    seed: options.Seed = 1,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    compiled: options.Compile = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Check that the output is plain decoding's, token by token, greedy and with a seed. Exit code 3 if not.

    A difference is explained only by a near tie: in float32 a top-2 margin below 0.001, and then float64 must agree; in
    bfloat16 at most 2 units in the last place of the top logit. Below float32 all prompts are compared step by step, and
    the float32 checks follow. A prompt that does not fit into the model's context is left out, and named.
    """
    if method not in ("eagle", "frspec", "lookup"):
        raise UsageError(f"--method {method} is not one of eagle, frspec, lookup.")
    if restart and out is None:
        raise UsageError("--restart has no effect without --out.")
    from frspec_cli.answers.prompts import Prompt, read_prompts
    from frspec_cli.bench import demo
    from frspec_cli.decoding.sampling import Sampling
    from frspec_cli.decoding.tree import TreeConfig
    from frspec_cli.verification.rules import Plan
    from frspec_cli.verification.run import Listener, Verification, select_prompts

    output = Output(as_json=as_json, quiet=quiet)
    texts = [Prompt(text=text, id=str(number)) for number, text in enumerate(demo.PROMPTS, start=1)]
    load = _loader(model, draft, vocab, k, device, compiled, output)
    parts = load(dtype)
    asked = read_prompts(prompts) if prompts else texts
    questions, left_out = select_prompts(parts.target, asked, max_new_tokens=max_new_tokens, limit=limit)
    if left_out:
        named = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        output.warn(f"{len(left_out):,} prompts do not fit into the model's context and are left out: {named}.")
    plan = Plan(
        method=method,  # type: ignore[arg-type]
        shape=TreeConfig(depth=depth, beam=beam, nodes=nodes),
        max_new_tokens=max_new_tokens,
        rescored=rescored,
        stepwise=stepwise,
        sampled=sampled,
        sampling=Sampling(temperature=1.0, seed=seed),
    )
    chosen = {
        "model": model,
        "draft": parts.draft,
        "vocab": parts.vocab,
        "k": k,
        "method": method,
        "depth": depth,
        "beam": beam,
        "nodes": nodes,
        "max_new_tokens": max_new_tokens,
        "limit": limit,
        "rescored": rescored,
        "stepwise": stepwise,
        "sampled": sampled,
        "seed": seed,
        "dtype": dtype,
        "device": str(parts.target.device),
        "compiled": compiled,
    }
    run = Verification(load, dtype, questions, plan, chosen, tuple(left_out))
    with output.progress() as progress:
        task = progress.add_task("verifying", total=None)
        listener = Listener(
            say=output.say,
            begin=lambda count: progress.update(task, total=count),
            done=lambda: progress.advance(task),
        )
        found = run.run(out=out, restart=restart, listener=listener)
    _show(found, out, output)


def _loader(
    model: str, draft: str | None, vocab: Path | None, k: int | None, device: str | None, compiled: bool, output: Output
) -> Any:
    from functools import cache

    from frspec_cli.decoding.compiling import compiler_for
    from frspec_cli.decoding.pipeline import load_pipeline
    from frspec_cli.models.target import load_target

    @cache
    def load(dtype: str) -> Pipeline:
        target = load_target(model, device=device, dtype=dtype)
        compiler = compiler_for(target.device) if compiled else None
        named = None if vocab is None else str(vocab)
        return load_pipeline(target, draft=draft, vocab=named, k=k, compiler=compiler, warn=output.warn)

    return load


def _show(found: dict[str, Any], out: Path | None, output: Output) -> None:
    sampling = found["sampling"] or {"differences": []}
    differences = [*found["differences"], *sampling["differences"]]
    rows = []
    for check in found["checks"]:
        mine = [each for each in differences if each["check"] == check["name"]]
        explained = sum(each["explained"] for each in mine)
        for task, counts in [("all", check), *(check["tasks"].items() if len(check["tasks"]) > 1 else ())]:
            own = task == "all"
            rows.append(
                [
                    check["name"] if own else f"  {task or 'none'}",
                    counts["prompts"],
                    counts["identical"],
                    f"{counts['share']:.1%}",
                    explained if own else "",
                    len(mine) - explained if own else "",
                    f"{check['accepted']:,}" if own else "",
                ]
            )
    columns = ["check", "prompts", "identical", "share", "near ties", "unexplained", "drafts accepted"]
    output.table("", columns, rows)
    for each in differences:
        kind = "near tie" if each["explained"] else "DIFFERENCE"
        margin = "" if each["margin"] is None else f", margin {each['margin']:.3g}"
        ulps = "" if each["ulps"] is None else f" ({each['ulps']:.1f} units in the last place)"
        output.say(f"{kind}: {each['check']}, prompt {each['prompt']}, token {each['position']}{margin}{ulps}")
    if not any(check["accepted"] for check in found["checks"]):
        output.warn("no draft was accepted, so this shows little: try another head, or more prompts.")
    verdict = "lossless on these prompts" if found["passed"] else "not lossless"
    shown = {name: value for name, value in found.items() if name not in ("outcomes", "environment")}
    output.result(shown | {"out": None if out is None else str(out)}, verdict + (f": wrote {out}" if out else ""))
    if not found["passed"]:
        raise _failure(differences, found["options"]["dtype"])


def _failure(differences: list[dict[str, Any]], dtype: str) -> VerificationError:
    """In reduced precision what is beyond the rule may still be rounding, so the hint says how to know."""
    from frspec_cli.verification.rules import ULPS

    unexplained = [each for each in differences if not each["explained"]]
    what = f"{len(unexplained)} output{'s differ' if len(unexplained) > 1 else ' differs'} from plain decoding's"
    if all(each["check"] == f"greedy, {dtype}" for each in unexplained):
        return VerificationError(
            f"{what} by more than the {ULPS} units in the last place that the rule for reduced precision allows.",
            hint="Where --dtype float32 passes on the same prompts, it is the precision's own noise.",
        )
    return VerificationError(f"{what}, and rounding does not explain it.")
