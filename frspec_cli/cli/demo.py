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

_NAMES = {"ar": "plain", "eagle": "EAGLE-2", "frspec": "FR-Spec", "frspec-local": "FR-Spec, your subset"}
_PARTS = {"verify": "█", "draft": "▒", "other": "·"}
_CONTEXT = 256


def command(
    local: Annotated[Path | None, typer.Option("--local", help="A subset of your own, shown as one more row.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for summary.json.")] = Path("out/demo"),
    tree: options.Tree = AUTO,
    dtype: options.AutoDtype = "float32",  # identity is shown token by token; shorter ones part at ties
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Show plain decoding, EAGLE-2 and FR-Spec side by side on SmolLM2-135M: speed, text, and where the time goes.

    The texts must be the same, token by token (exit code 3 if not). In bfloat16 two tokens may be as likely as each other
    to within rounding: a text that parts there is judged as frspec verify judges it.
    """
    sizes = TreeChoice.of(tree)
    outputs.check(out / "summary.json", inputs=[local], replaces=outputs.JSON, what="a result")
    output = Output(as_json=as_json, quiet=quiet)
    from frspec_cli.bench import demo
    from frspec_cli.tuning.choose import Wanted

    choice = chosen(Wanted(demo.DEFAULT_MODEL, method="frspec", dtype=dtype, tree=sizes), output)
    with output.filling() as fill:

        def show(done: int, methods: dict[str, Any]) -> None:
            fill(f"{done} of {len(demo.PROMPTS)} prompts", _COLUMNS, _rows(methods))

        summary = demo.demo(local=local, out=out, tree=choice.tree, dtype=choice.dtype, show=show)
    _show(summary, output)
    output.result(summary, f"wrote {out / 'summary.json'}")
    if not summary["identical"]:
        first = summary["differences"][0]
        margin = "" if first["margin"] is None else f" (top-2 margin {first['margin']:.2g})"
        raise VerificationError(
            f"{first['method']} differs from plain decoding on prompt {first['prompt']} at token {first['position']}{margin}."
        )


_COLUMNS = ("method", "tokens/s", "speed-up", "tokens per cycle")


def _rows(methods: dict[str, Any]) -> list[list[str]]:
    plain = methods["ar"]["tokens_per_second"]
    return [
        [
            _NAMES[name],
            f"{figures['tokens_per_second']:.1f}",
            f"{figures['tokens_per_second'] / plain:.2f}x",
            f"{figures['acceptance_length']:.2f}",
        ]
        for name, figures in methods.items()
    ]


def _show(summary: dict[str, Any], output: Output) -> None:
    tree, methods = summary["tree"], summary["methods"]
    rows = [[*row, _identical(name, summary)] for name, row in zip(methods, _rows(methods), strict=True)]
    output.table(
        f"{summary['prompts']} prompts, {summary['max_new_tokens']} new tokens each, {summary['dtype']}, draft tree of depth "
        f"{tree['depth']}, beam {tree['beam']}, {tree['nodes']} nodes",
        [*_COLUMNS, "same text"],
        rows,
    )
    sample = summary["sample"]
    output.lines(f"\n{sample['prompt']}\n> {' '.join(sample['text'].split())} ...")
    output.lines(f"\nmilliseconds per token: {', '.join(f'{mark} {part}' for part, mark in _PARTS.items())}")
    for line in bars(methods, output.width):
        output.lines(line)
    for line in ("", verdict(summary), *_larger_vocabularies()):
        output.lines(line)


def bars(methods: dict[str, Any], width: int) -> list[str]:
    """For each method a bar as long as its time per token, in parts; all at one scale."""
    parts = {name: _ms_per_token(figures) for name, figures in methods.items()}
    slowest = max(sum(each.values()) for each in parts.values())
    left = max(len(_NAMES[name]) for name in parts) + 9
    room = max(10, min(60, width - left - 2))
    lines = []
    for name, each in parts.items():
        bar = "".join(_PARTS[part] * round(room * ms / slowest) for part, ms in each.items())
        lines.append(f"{_NAMES[name]:<{left - 9}} {sum(each.values()):6.1f}  {bar}")
    return lines


def _ms_per_token(figures: dict[str, Any]) -> dict[str, float]:
    seconds, tokens = figures["seconds"], figures["new_tokens"]
    other = seconds["total"] - seconds["verify"] - seconds["draft"]
    return {
        part: 1000 * value / tokens
        for part, value in zip(_PARTS, (seconds["verify"], seconds["draft"], other), strict=True)
    }


def verdict(summary: dict[str, Any]) -> str:
    """One sentence on what was seen, and why, if a draft does not pay here."""
    plain, eagle, frspec = (summary["methods"][name] for name in ("ar", "eagle", "frspec"))
    rate = frspec["tokens_per_second"]
    over_plain, over_eagle = rate / plain["tokens_per_second"], rate / eagle["tokens_per_second"]
    figures = f"FR-Spec is {over_plain:.2f}x as fast as plain decoding and {over_eagle:.2f}x as fast as EAGLE-2 here"
    if over_plain > 1.0:
        return f"{figures}{_same(summary)}."
    cycle = frspec["seconds"]["total"] / frspec["cycles"]
    step = plain["seconds"]["total"] / plain["new_tokens"]
    return (
        f"{figures}: a cycle costs {cycle / step:.1f} times a plain token and gives {frspec['acceptance_length']:.1f} tokens. "
        "It pays where checking several tokens costs little more than one: on a GPU, on processors with bfloat16 "
        "instructions, or with a larger model. frspec tune finds out what a machine wants."
    )


def _same(summary: dict[str, Any]) -> str:
    if not summary["identical"]:
        return ", but the texts differ"
    if summary["near_ties"]:
        return ", and writes the same text except where two tokens are equally likely to within rounding"
    return ", and writes the same text"


def _larger_vocabularies() -> list[str]:
    """What the same idea gives larger models, by the costs that ship."""
    from frspec_cli.tuning.costs import find_costs, read_costs
    from frspec_cli.tuning.vocabulary import speedup_at

    file = read_costs(find_costs("fr-spec-8b"))
    ratios = {name: speedup_at(file, rows, context=_CONTEXT) for name, rows in (("128k", 128_256), ("262k", 262_144))}
    (small, k), (large, _) = ratios["128k"], ratios["262k"]
    return [
        f"SmolLM2's vocabulary has 49k tokens. With 128k (Llama-3-8B, published step costs of an A100 or A800) FR-Spec at k = "
        f"{k:,} is {small:.2f}x as fast as EAGLE-2; with 262k, by the same costs, it would be {large:.2f}x."
    ]


def _identical(name: str, summary: dict[str, Any]) -> str:
    if any(each["method"] == name for each in summary["differences"]):
        return "NO"
    ties = sum(each["method"] == name for each in summary["near_ties"])
    if not ties:
        return "yes"
    how = "equal in float64" if summary["dtype"] == "float32" else "within rounding"
    return f"{summary['prompts'] - ties} of {summary['prompts']}, {ties} near tie{'s' if ties > 1 else ''} ({how})"
