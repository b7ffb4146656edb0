"""`frspec verify`: is speculative decoding lossless with this model, this head and this subset?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.cli import complete, options
from frspec_cli.cli.auto import chosen
from frspec_cli.cli.output import Output
from frspec_cli.decoding.options import refuse_unused
from frspec_cli.errors import AlreadyThere, UsageError, VerificationError
from frspec_cli.heads.options import yes_or_no
from frspec_cli.tuning.options import AUTO, TreeChoice
from frspec_cli.verification.options import METHODS, VerifyOptions

if TYPE_CHECKING:
    from frspec_cli.decoding.pipeline import Pipeline

DEFAULTS = VerifyOptions()


def command(
    model: options.Model = DEFAULTS.model,
    draft: options.Draft = None,
    norm_output: options.NormOutput = None,
    vocab: options.Vocab = None,
    k: options.K = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="JSONL of prompts. Default: a few built in.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Use N of --prompts, spread evenly over their categories."),
    ] = DEFAULTS.limit,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The result to write, such as result.json; an interrupted run resumes."),
    ] = None,
    restart: options.Restart = False,
    force: options.Force = False,
    method: Annotated[
        str, typer.Option("--method", autocompletion=complete.methods, help=f"One of {', '.join(METHODS)}.")
    ] = DEFAULTS.method,
    tree: options.Tree = AUTO,
    depth: options.AutoDepth = None,
    beam: options.AutoBeam = None,
    nodes: options.AutoNodes = None,
    max_new_tokens: options.MaxNewTokens = DEFAULTS.max_new_tokens,
    rescored: Annotated[
        int | None,
        typer.Option("--rescored", min=0, help="Number of prompts to check by re-scoring in float32. Default: all."),
    ] = DEFAULTS.rescored,
    stock: Annotated[
        int | None,
        typer.Option(
            "--stock", min=0, help="Number of prompts to re-score by transformers alone, in a process of its own."
        ),
    ] = DEFAULTS.stock,
    stepwise: Annotated[
        int | None,
        typer.Option(
            "--stepwise", min=0, help="Number of prompts to compare with plain decoding step by step (in float64: all)."
        ),
    ] = DEFAULTS.stepwise,
    sampled: Annotated[
        int | None,
        typer.Option("--sampled", min=0, help="Number of prompts to compare at temperature 1 with --seed."),
    ] = DEFAULTS.sampled,
    seed: options.Seed = DEFAULTS.seed,
    device: options.Device = None,
    dtype: options.AutoDtype = DEFAULTS.dtype,
    float32: Annotated[
        str,
        typer.Option("--float32", help="skip leaves the float32 checks out, for a model that does not fit in float32."),
    ] = DEFAULTS.float32,
    compiled: options.Compile = False,
    config: options.Config = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Check that the output is plain decoding's, token by token, greedy and with a seed. Exit code 3 if not.

    A difference is explained only by a near tie: in float32 a top-2 margin below 0.001, and then float64 must agree; in
    bfloat16 at most twice what one row's logits are measured to differ from many rows' here. Below float32 all prompts are
    compared step by step, and the float32 checks follow. Some texts are scored by transformers alone. A prompt that does
    not fit into the model's context is left out, and named.
    """
    if (restart or force) and out is None:
        raise UsageError(f"--{'restart' if restart else 'force'} has no effect without --out.")
    sizes = TreeChoice.of(tree, depth=depth, beam=beam, nodes=nodes)
    asked = VerifyOptions(
        model=model,
        draft=draft,
        vocab=None if vocab is None else str(vocab),
        k=k,
        method=method,  # type: ignore[arg-type]
        max_new_tokens=max_new_tokens,
        limit=limit,
        rescored=rescored,
        stock=stock,
        stepwise=stepwise,
        sampled=sampled,
        seed=seed,
        dtype=dtype,
        float32=float32,
        device=device,
        compiled=compiled,
    )
    refuse_unused([method], norm_output=norm_output)
    normed = yes_or_no(norm_output)
    from frspec_cli.answers.prompts import Prompt, read_prompts
    from frspec_cli.bench.demo import PROMPTS
    from frspec_cli.tuning.choose import Wanted
    from frspec_cli.verification.run import verify

    if out is not None:
        inputs = [model, draft, vocab, prompts]
        out = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result", force=force)
    output = Output(as_json=as_json, quiet=quiet, out=out)
    choice = chosen(
        Wanted(
            model, method=method, dtype=dtype, tree=sizes, draft=draft, vocab=asked.vocab, k=k, device=device,
            compiled=compiled, config=config,
        ),
        output,
    )  # fmt: skip
    sized = choice.tree
    verify_options = replace(
        asked, dtype=choice.dtype, k=choice.k, depth=sized.depth, beam=sized.beam, nodes=sized.nodes
    )
    built_in = [Prompt(text=text, id=str(number)) for number, text in enumerate(PROMPTS, start=1)]
    prompt_list = read_prompts(prompts) if prompts else built_in
    load = _loader(verify_options, normed, output)
    with output.callbacks("verifying") as callbacks:
        try:
            result = verify(
                load,
                prompt_list,
                verify_options,
                out=out,
                restart=restart,
                force=force,
                choice=choice.as_json(),
                callbacks=callbacks,
            )
        except AlreadyThere as done:
            _check_passed(out, done)
            raise
    _show(result, out, output)


def _check_passed(out: Path | None, done: AlreadyThere) -> None:
    """Raises `VerificationError` if the verification that is there already did not pass."""
    from frspec_cli.schema import read_object

    if out is not None and not read_object(out).get("passed"):
        raise VerificationError(f"{done.message.removesuffix('.')}, and it did not pass.", hint=done.hint)


def _loader(verify_options: VerifyOptions, norm_output: bool | None, output: Output) -> Callable[[str], Pipeline]:
    from frspec_cli.decoding.pipeline import load_pipeline
    from frspec_cli.models.target import load_target

    def load(dtype: str) -> Pipeline:
        return load_pipeline(
            load_target(verify_options.model, device=verify_options.device, dtype=dtype),
            draft=verify_options.draft,
            vocab=verify_options.vocab,
            k=verify_options.k,
            norm_output=norm_output,
            compiled=verify_options.compiled,
            drafts=verify_options.method != "lookup",
            warn=output.warn,
        )

    return load


def _show(result: dict[str, Any], out: Path | None, output: Output) -> None:
    sampling = result["sampling"] or {"differences": []}
    differences = [*result["differences"], *sampling["differences"]]
    rows = []
    for check in result["checks"]:
        in_check = [each for each in differences if each["check"] == check["name"]]
        explained = sum(each["explained"] for each in in_check)
        accepted = f"{check['accepted']:,}"
        rows.append([check["name"], *_counts(check), explained, len(in_check) - explained, accepted])
        if len(check["tasks"]) > 1:
            rows += [[f"  {task}", *_counts(counts), "", "", ""] for task, counts in check["tasks"].items()]
    columns = ["check", "prompts", "identical", "share", "near ties", "unexplained", "drafts accepted"]
    output.table("", columns, rows)
    for each in differences:
        kind = "near tie" if each["explained"] else "DIFFERENCE"
        margin = "" if each["margin"] is None else f", margin {each['margin']:.3g}"
        ulps = "" if each["ulps"] is None else f" ({each['ulps']:.1f} units in the last place)"
        output.say(f"{kind}: {each['check']}, prompt {each['prompt']}, token {each['position']}{margin}{ulps}")
    for check in result["checks"]:
        if check["rounding"] is not None:
            output.say(
                f"{check['name']}: with one row or many a top logit differs by up to {check['rounding']:.3g} here, so "
                f"margins up to {2 * check['rounding']:.3g} are near ties"
            )
    if not any(check["accepted"] for check in result["checks"]):
        output.warn("no draft was accepted, so this proves little: try another head, or more prompts.")
    verdict = "lossless on these prompts" if result["passed"] else "not lossless"
    shown = {name: value for name, value in result.items() if name not in ("outcomes", "environment")}
    output.result(shown | {"out": None if out is None else str(out)}, verdict + (f": wrote {out}" if out else ""))
    if not result["passed"]:
        raise _failure(differences, result["options"]["dtype"])


def _counts(counts: dict[str, Any]) -> list[Any]:
    return [counts["prompts"], counts["identical"], f"{counts['share']:.1%}"]


def _failure(differences: list[dict[str, Any]], dtype: str) -> VerificationError:
    """The error to raise. In reduced precision what breaks the rule may still be rounding: the hint says how to know."""
    unexplained = [each for each in differences if not each["explained"]]
    what = f"{len(unexplained)} output{'s differ' if len(unexplained) > 1 else ' differs'} from plain decoding's"
    if all(each["check"] == f"greedy, {dtype}" for each in unexplained):
        return VerificationError(
            f"{what} by more than rounding is measured to do with this model here.",
            hint="If --dtype float32 passes on the same prompts, it is the precision's own noise.",
        )
    return VerificationError(f"{what}, and rounding does not explain it.")
