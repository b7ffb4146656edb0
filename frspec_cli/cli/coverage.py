"""`frspec coverage`: what subsets cover of text, tables and answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from frspec_cli import outputs
from frspec_cli.cli import complete, options
from frspec_cli.cli.output import Output

if TYPE_CHECKING:
    from frspec_cli.subsets.coverage import CoverageRow
    from frspec_cli.subsets.coverage_session import CoverageSession
    from frspec_cli.subsets.evaluation import Evaluation
    from frspec_cli.subsets.plot import Width


def command(
    subsets: Annotated[
        list[Path],
        typer.Argument(
            metavar="SUBSET...", autocompletion=complete.subsets, help="Vocabulary subsets, or peers' lists."
        ),
    ],
    on: Annotated[
        list[str], typer.Option("--on", help="A frequency table, text, or answers; may be given several times.")
    ],
    k: Annotated[
        list[int] | None,
        options.several("--k", parser=options.sizes, help="Sizes: the first k rows. Default: all."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", "-t", autocompletion=complete.models, help="Default: the one recorded in table or subset."
        ),
    ] = None,
    assistant_only: Annotated[
        bool, typer.Option("--assistant-only", help="Of conversations, count only what the assistant said.")
    ] = False,
    show: Annotated[
        int, typer.Option(min=0, help="Number of rarest kept and of most frequent lost tokens to show.")
    ] = 10,
    plot: Annotated[Path | None, typer.Option(help="Draw coverage against k: x.png, x.pdf or x.svg.")] = None,
    width: Annotated[
        str, typer.Option(metavar="column|page", help="The picture's width: of a journal's column or of its text.")
    ] = "page",
    verbose: options.Verbose = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure what subsets cover, by size, source and script, with 95% intervals (jackknife over folds).

    On the very table that a subset was chosen from, each fold is covered by ids chosen from the other nine; the text itself
    is recognised too, by its hash.
    Of recorded answers only what was answered is counted.
    """
    from frspec_cli.subsets.coverage_session import CoverageSession
    from frspec_cli.subsets.evaluation import curves
    from frspec_cli.subsets.plot import check_picture, check_width, plot_curves

    check_width(width)
    if plot is not None:
        check_picture(plot)
        plot = outputs.check(plot, inputs=[*subsets, *on, tokenizer], name="plot")
    output = Output(as_json=as_json, quiet=quiet)
    session = CoverageSession(tokenizer=tokenizer, assistant_only=assistant_only, say=output.say, warn=output.warn)
    tables = session.open(on, subsets)
    evaluations = [session.evaluate(path, table, tables) for path in subsets for table in tables]
    value: dict[str, Any] = {"rows": [], "tokens": []}
    verbose = verbose or output.piped
    summary = []
    for evaluation in evaluations:
        ks = sorted(set(k or [evaluation.subset.k]))
        rows = evaluation.rows(ks, session.scripts(evaluation.table))
        name = {"subset": evaluation.name, "on": evaluation.table.name}
        value["rows"] += [{**name, "how": evaluation.how, **row.as_json()} for row in rows]
        summary.append([evaluation.name, evaluation.table.name, evaluation.how, *_total(ks, rows)])
        if verbose or len(evaluations) == 1:
            _show_rows(output, evaluation, ks, rows, verbose=verbose)
        if show:
            tokens = _tokens(session, evaluation, ks[-1], show)
            value["tokens"].append({**name, "k": ks[-1], **tokens})
            if verbose or len(evaluations) == 1:
                _show_tokens(output, tokens, ks[-1])
    if len(evaluations) > 1:
        _compare(output, summary, evaluations, k)
    if plot is not None:
        plot_curves(plot, curves(evaluations), marks=sorted(set(k or [])), width=cast("Width", width))
        value["plot"] = str(plot)
    first = summary[0]
    closing = f"{first[0]} covers {first[-1]} of {first[1]} ({first[2]})" if len(summary) == 1 else ""
    output.result(value, "; ".join(part for part in (closing, f"wrote {plot}" if plot else "") if part))


def _total(ks: list[int], rows: list[CoverageRow]) -> list[str]:
    """For each k what is covered of all tokens."""
    totals = {row.k: row for row in rows if row.source == row.script == "all"}
    return [_share(totals.get(k)) for k in ks]


def _compare(output: Output, summary: list[list[str]], evaluations: list[Evaluation], k: list[int] | None) -> None:
    """One row for each subset and table: which is the better one."""
    sizes = [f"k = {size:,}" for size in sorted(set(k))] if k else ["coverage (95% CI)"]
    if not k:
        summary = [[*row[:3], f"{each.subset.k:,}", row[3]] for row, each in zip(summary, evaluations, strict=True)]
    output.table("coverage", ["subset", "on", "how", *([] if k else ["k"]), *sizes], summary, left=3)


_SMALLEST = 0.01  # the share of the tokens from which on a source or a script is shown
_MOST_SCRIPTS = 4


def _show_rows(
    output: Output, evaluation: Evaluation, ks: list[int], rows: list[CoverageRow], *, verbose: bool
) -> None:
    """One table: sources and scripts down, sizes across. verbose: small ones too."""
    from frspec_cli.report.tables import group_name

    cells = {(row.k, row.source, row.script): row for row in rows}
    total = cells[ks[0], "all", "all"].tokens
    lines, scripts, hidden = [], 0, 0
    for source, script in dict.fromkeys((row.source, row.script) for row in rows):
        row = cells[ks[0], source, script]
        scripts += script != "all"
        small = row.tokens < total * _SMALLEST or (script != "all" and scripts > _MOST_SCRIPTS)
        if small and not verbose:
            hidden += 1
            continue
        name = group_name(source, script)
        shares = [_share(cells.get((size, source, script))) for size in ks]
        lines.append([name, f"{row.tokens:,}", f"{row.tokens / total:.1%}", *shares])
    spread = ", ± 95% CI" if any("±" in cell for line in lines for cell in line) else ""
    title = f"Coverage of {evaluation.name} on {evaluation.table.name} ({evaluation.how}){spread}"
    output.table(title, ["source or script", "tokens", "share", *(f"k = {size:,}" for size in ks)], lines)
    if hidden:
        output.say(f"{hidden} smaller sources and scripts are not shown: --verbose")


def _share(row: CoverageRow | None) -> str:
    if row is None:
        return "-"
    half = (row.high - row.low) / 2
    return f"{row.coverage:.2%} ±{half * 100:.2f}" if half else f"{row.coverage:.2%}"  # no folds, no interval


def _tokens(session: CoverageSession, evaluation: Evaluation, k: int, most: int) -> dict[str, list[dict[str, Any]]]:
    """The rarest tokens that are kept, and the most frequent that are lost."""
    return {
        kind: [{"id": index, "token": session.token(evaluation.table, index), "count": count} for index, count in pairs]
        for kind, pairs in evaluation.extremes(k, most).items()
    }


_TITLES = {"rarest_kept": "rarest tokens included", "lost": "most frequent tokens left out"}


def _show_tokens(output: Output, tokens: dict[str, list[dict[str, Any]]], k: int) -> None:
    """Both lists, as sentences for people and as a table for programs."""
    if output.piped:
        rows = [
            [_TITLES[kind], each["id"], each["token"], each["count"]]
            for kind, found in tokens.items()
            for each in found
        ]
        output.table("", ["list", "id", "token", "count"], rows)
        return
    for kind, found in tokens.items():
        text = ", ".join(f"{each['token']} {each['count']:,}" for each in found)
        output.lines(f"{_TITLES[kind]} (k = {k:,}): {text or 'none'}")
