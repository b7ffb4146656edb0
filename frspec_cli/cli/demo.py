"""`frspec demo`: FR-Spec at work on the model that frspec ships a head for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.cli import options
from frspec_cli.cli.auto import chosen
from frspec_cli.cli.output import Output
from frspec_cli.errors import VerificationError
from frspec_cli.tuning.options import AUTO, TreeChoice


def command(
    local: Annotated[Path | None, typer.Option("--local", help="A subset of your own, shown as one more row.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for summary.json.")] = Path("out/demo"),
    tree: options.Tree = AUTO,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Plain decoding, EAGLE-2 and FR-Spec side by side on SmolLM2-135M, in float32.

    The texts must be the same, token by token (exit code 3 if not).
    """
    sizes = TreeChoice.of(tree)
    from frspec_cli.bench import demo
    from frspec_cli.tuning.choose import Wanted

    outputs.check(out / "summary.json", inputs=[local], replaces=outputs.JSON, what="a result")
    output = Output(as_json=as_json, quiet=quiet)
    wanted = Wanted(demo.DEFAULT_MODEL, method="frspec", dtype=demo.DTYPE, tree=sizes)
    choice = chosen(wanted, output)
    with output.progress() as progress:
        task = progress.add_task("decoding", total=len(demo.PROMPTS))
        summary = demo.demo(local=local, out=out, tree=choice.tree, advance=lambda: progress.advance(task))
    _show(summary, output)
    output.result(summary, f"wrote {out / 'summary.json'}")
    if not summary["identical"]:
        first = summary["differences"][0]
        margin = "" if first["margin"] is None else f" (top-2 margin {first['margin']:.2g})"
        raise VerificationError(
            f"{first['method']} differs from plain decoding on prompt {first['prompt']} at token {first['position']}{margin}."
        )


def _show(summary: dict[str, Any], output: Output) -> None:
    plain = summary["methods"]["ar"]
    rows = []
    for name, figures in summary["methods"].items():
        seconds = figures["seconds"]
        rows.append(
            [
                name,
                f"{figures['k']:,}" if figures["k"] else "-",
                f"{figures['tokens_per_second']:.1f}",
                f"{figures['tokens_per_second'] / plain['tokens_per_second']:.2f}x",
                f"{figures['acceptance_length']:.2f}",
                f"{seconds['draft'] / seconds['total']:.0%}",
                f"{seconds['verify'] / seconds['total']:.0%}",
                f"{1000 * figures['draft_seconds_per_cycle']:.1f}" if figures["k"] else "-",
                _identical(name, summary),
            ]
        )
    tree = summary["tree"]
    output.table(
        f"{summary['prompts']} prompts, {summary['max_new_tokens']} new tokens each, {summary['dtype']}, tree of depth "
        f"{tree['depth']}, beam {tree['beam']}, {tree['nodes']} nodes",
        ["method", "k", "tokens/s", "vs ar", "acceptance", "draft", "verify", "draft ms/cycle", "identical ids"],
        rows,
    )


def _identical(name: str, summary: dict[str, Any]) -> str:
    if any(each["method"] == name for each in summary["differences"]):
        return "NO"
    ties = sum(each["method"] == name for each in summary["near_ties"])
    return f"yes ({ties} near tie{'s' if ties > 1 else ''}, equal in float64)" if ties else "yes"
