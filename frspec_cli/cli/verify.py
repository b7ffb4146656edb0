"""`frspec verify`: is speculative decoding lossless with this model, this head and this subset?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli.cli import options
from frspec_cli.cli.sink import Sink
from frspec_cli.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from frspec_cli.bench.verify import Check
    from frspec_cli.decoding.session import Parts


def command(
    model: options.Model = options.DEFAULT_MODEL,
    draft: options.Draft = None,
    vocab: options.Vocab = None,
    k: options.K = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="JSONL of prompts. Default: a few built in.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many of --prompts.")] = None,
    method: Annotated[str, typer.Option("--method", help="eagle, frspec or lookup.")] = "frspec",
    depth: options.Depth = 5,
    beam: options.Beam = 4,
    nodes: options.Nodes = 16,
    max_new_tokens: options.MaxNewTokens = 64,
    stepwise: Annotated[
        int, typer.Option("--stepwise", min=1, help="So many prompts also step by step against plain decoding.")
    ] = 8,
    sampled: Annotated[int, typer.Option("--sampled", min=0, help="So many prompts at temperature 1 too.")] = 4,
    seed: options.Seed = 1,
    reference: Annotated[
        str,
        typer.Option("--reference", help="plain, or padded: plain decoding through the step that verifies a tree."),
    ] = "plain",
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Check that the output is plain decoding's, token by token, greedy and with a seed. Exit code 3 if not.

    A difference is explained only by a near tie: in float32 a top-2 margin below 0.001, and then float64 must agree; in
    bfloat16 at most 2 units in the last place of the top logit.
    """
    if reference not in ("plain", "padded"):
        raise UsageError(f"--reference {reference} is neither plain nor padded.")
    if method not in ("eagle", "frspec", "lookup"):
        raise UsageError(f"--method {method} is not one of eagle, frspec, lookup.")
    from frspec_cli.bench import demo
    from frspec_cli.bench.prompts import read_prompts
    from frspec_cli.bench.verify import Plan, report, verify
    from frspec_cli.decoding.sampling import Sampling
    from frspec_cli.decoding.tree import Shape

    sink = Sink(as_json=as_json, quiet=quiet)
    texts = [prompt.text for prompt in read_prompts(prompts, limit=limit)] if prompts else list(demo.PROMPTS)[:limit]
    load = _loader(model, draft, vocab, k, device, sink)
    ids = [load(dtype).target.prompt_ids(text) for text in texts]
    plan = Plan(
        method=method,  # type: ignore[arg-type]
        shape=Shape(depth=depth, beam=beam, nodes=nodes),
        max_new_tokens=max_new_tokens,
        stepwise=min(stepwise, len(ids)),
        sampled=min(sampled, len(ids)),
        sampling=Sampling(temperature=1.0, seed=seed),
        padded=reference == "padded",
    )
    with sink.progress() as progress:
        task = progress.add_task("verifying", total=len(ids) + plan.stepwise + plan.sampled)
        checks = verify(load, dtype, ids, plan, done=lambda: progress.advance(task))
    _show(checks, report(checks), sink)


def _loader(model: str, draft: str | None, vocab: Path | None, k: int | None, device: str | None, sink: Sink) -> Any:
    from functools import cache

    from frspec_cli.decoding.session import open_parts
    from frspec_cli.models.target import load_target

    @cache
    def load(dtype: str) -> Parts:
        target = load_target(model, device=device, dtype=dtype)
        return open_parts(target, draft=draft, vocab=None if vocab is None else str(vocab), k=k, warn=sink.warn)

    return load


def _show(checks: list[Check], found: dict[str, Any], sink: Sink) -> None:
    rows = [
        [
            check.name,
            check.prompts,
            check.identical,
            sum(difference.explained for difference in check.differences),
            sum(not difference.explained for difference in check.differences),
            f"{check.accepted:,}",
        ]
        for check in checks
    ]
    columns = ["check", "prompts", "identical", "near ties", "unexplained", "drafts accepted"]
    sink.table("", columns, rows)
    for check in checks:
        for each in check.differences:
            ulps = "" if each.ulps is None else f" ({each.ulps:.1f} units in the last place)"
            kind = "near tie" if each.explained else "DIFFERENCE"
            sink.say(
                f"{kind}: {each.check}, prompt {each.prompt}, token {each.position}, margin {each.margin:.3g}{ulps}"
            )
    if not any(check.accepted for check in checks):
        sink.warn("no draft was accepted, so this shows little: try another head, or more prompts.")
    sink.result(found, "lossless on these prompts" if found["passed"] else "not lossless")
    if not found["passed"]:
        raise VerificationError("an output differs from plain decoding's, and rounding does not explain it.")
