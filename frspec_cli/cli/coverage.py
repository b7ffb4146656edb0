"""`frspec coverage`: what subsets cover of text, tables and answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.cli import options
from frspec_cli.cli.output import Output

if TYPE_CHECKING:
    from frspec_cli.subsets.coverage import CoverageRow
    from frspec_cli.subsets.coverage_session import CoverageSession
    from frspec_cli.subsets.evaluation import Evaluation


def command(
    subsets: Annotated[list[Path], typer.Argument(metavar="SUBSET...", help="Vocabulary subsets, or peers' lists.")],
    on: Annotated[
        list[str], typer.Option("--on", help="A frequency table, text, or answers; may be given several times.")
    ],
    k: Annotated[
        list[int] | None,
        typer.Option(
            "--k",
            metavar="N",
            parser=options.sizes,
            callback=options.flat,
            help="Sizes: the first k rows. Default: all.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", "--model", help="Default: the one recorded in table or subset.")
    ] = None,
    assistant_only: Annotated[
        bool, typer.Option("--assistant-only", help="Of conversations, count only what the assistant said.")
    ] = False,
    show: Annotated[
        int, typer.Option(min=0, help="Number of rarest kept and of most frequent lost tokens to show.")
    ] = 10,
    plot: Annotated[Path | None, typer.Option(help="Draw coverage against k: x.png, x.pdf or x.svg.")] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure what subsets cover, by size, source and script, with 95 % intervals (jackknife over folds).

    On the very table that a subset was chosen from, each fold is covered by ids chosen from the other nine; the text itself
    is recognised too, by its hash.
    Of recorded answers only what was answered is counted.
    """
    from frspec_cli.subsets.coverage_session import CoverageSession
    from frspec_cli.subsets.evaluation import curves
    from frspec_cli.subsets.plot import check_picture, plot_curves

    if plot is not None:
        check_picture(plot)
        plot = outputs.check(plot, inputs=[*subsets, *on, tokenizer], name="plot")
    output = Output(as_json=as_json, quiet=quiet)
    session = CoverageSession(tokenizer=tokenizer, assistant_only=assistant_only, say=output.say, warn=output.warn)
    tables = session.open(on, subsets)
    evaluations = [session.evaluate(path, table, tables) for path in subsets for table in tables]
    value: dict[str, Any] = {"rows": [], "tokens": []}
    for evaluation in evaluations:
        ks = sorted(set(k or [evaluation.subset.k]))
        rows = evaluation.rows(ks, session.scripts(evaluation.table))
        name = {"subset": evaluation.name, "on": evaluation.table.name}
        value["rows"] += [{**name, "how": evaluation.how, **row.as_json()} for row in rows]
        _show_rows(output, evaluation, ks, rows)
        if show:
            value["tokens"].append({**name, "k": ks[-1], **_show_tokens(output, session, evaluation, ks[-1], show)})
    if plot is not None:
        plot_curves(plot, curves(evaluations), marks=sorted(set(k or [])))
        value["plot"] = str(plot)
    output.result(value, f"wrote {plot}" if plot else f"{len(value['rows'])} rows")


def _show_rows(output: Output, evaluation: Evaluation, ks: list[int], rows: list[CoverageRow]) -> None:
    """One table: sources and scripts down, sizes across."""
    cells = {(row.k, row.source, row.script): row for row in rows}
    total = cells[ks[0], "all", "all"].tokens
    lines = []
    for source, script in dict.fromkeys((row.source, row.script) for row in rows):
        row = cells[ks[0], source, script]
        if row.tokens < total / 2000 and script != "all":
            continue  # a twentieth of a percent: in --json, not on the screen
        name = "all" if source == script == "all" else f"script {script}" if source == "all" else source
        shares = [_share(cells.get((size, source, script))) for size in ks]
        lines.append([name, f"{row.tokens:,}", f"{row.tokens / total:.1%}", *shares])
    title = f"{evaluation.name} on {evaluation.table.name} ({evaluation.how}): coverage"
    output.table(title, ["", "tokens", "share", *(f"k = {size:,}" for size in ks)], lines)


def _share(row: CoverageRow | None) -> str:
    if row is None:
        return "-"
    half = (row.high - row.low) / 2
    return f"{row.coverage:.2%} ±{half * 100:.2f}"


def _show_tokens(
    output: Output, session: CoverageSession, evaluation: Evaluation, k: int, most: int
) -> dict[str, list[dict[str, Any]]]:
    shown = {}
    titles = {"rarest_kept": "rarest kept", "lost": "most frequent lost"}
    for kind, pairs in evaluation.extremes(k, most).items():
        shown[kind] = [
            {"id": index, "token": session.token(evaluation.table, index), "count": count} for index, count in pairs
        ]
        text = ", ".join(f"{each['token']} {each['count']:,}" for each in shown[kind])
        output.say(f"{titles[kind]} (k = {k:,}): {text or 'none'}")
    return shown
