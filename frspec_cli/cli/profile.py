"""`frspec bench --profile`: where the time of a cycle goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli.cli.output import Output

if TYPE_CHECKING:
    from frspec_cli.answers.prompts import Prompt
    from frspec_cli.bench.suite import Bench

Profile = Annotated[
    bool,
    typer.Option(
        "--profile", help="Time one cycle and its parts instead of texts; --draft random times without a head."
    ),
]


def command(bench: Bench, prompts: Sequence[Prompt], out: Path, output: Output) -> None:
    """Profiles the methods that `bench` was asked for, writes the result and shows it."""
    from frspec_cli import storage
    from frspec_cli.bench.profile import texts

    with output.progress() as progress:
        task = progress.add_task("profiling", total=texts(len(bench.arms()), len(prompts)))
        result = bench.profile(prompts, done=lambda: progress.advance(task))
    storage.write_json(out, result)
    _show(result, len(prompts), output)
    output.result({"out": str(out), "profile": result["profile"]}, f"wrote {out}")


def _show(result: dict[str, Any], prompts: int, output: Output) -> None:
    chosen, found = result["options"], result["profile"]
    rows = [
        [
            name,
            f"{figures['k']:,}" if figures["k"] else "-",
            f"{figures['cycles']:,}",
            _with_interval(figures["cycle_ms"]),
            _with_interval(figures["draft_ms"]),
            *(f"{figures['parts_ms'][part]['value']:.2f} ({share:.0%})" for part, share in figures["shares"].items()),
        ]
        for name, figures in found["methods"].items()
    ]
    parts = next(iter(found["methods"].values()))["shares"]
    output.table(
        f"ms a cycle, medians (95 %): {prompts} prompts, {chosen['dtype']} on {chosen['device']}, tree of depth "
        f"{chosen['depth']}, beam {chosen['beam']}, {chosen['nodes']} nodes; parts from a second, instrumented pass",
        ["method", "k", "cycles", "cycle", "of it draft", *parts],
        rows,
    )
    for name, ratio in found["ratios"].items():
        output.say(f"{name}: cycle {_with_interval(ratio['cycle'])}, draft {_with_interval(ratio['draft'])}")


def _with_interval(figures: dict[str, float]) -> str:
    return f"{figures['value']:.2f} ({figures['low']:.2f} to {figures['high']:.2f})"
