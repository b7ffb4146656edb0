"""`frspec coverage`: what subsets cover of text, tables and answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli.cli import options
from frspec_cli.cli.output import Output

if TYPE_CHECKING:
    from frspec_cli.subsets.coverage import Row
    from frspec_cli.subsets.coverage_session import CoverageSession
    from frspec_cli.subsets.eval_table import CoverageTarget


def command(
    subsets: Annotated[list[Path], typer.Argument(metavar="SUBSET...", help="Vocabulary subsets, or peers' lists.")],
    on: Annotated[
        list[str], typer.Option("--on", help="A frequency table, text, or answers; may be given several times.")
    ],
    k: Annotated[list[int] | None, typer.Option("--k", min=1, help="Sizes: the first k rows. Default: all.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", "--model", help="Default: the one recorded in table or subset.")
    ] = None,
    mass: Annotated[
        bool, typer.Option("--mass", help="The tables hold soft counts: show the target's probability mass inside.")
    ] = False,
    show: Annotated[int, typer.Option(min=0, help="How many of the rarest kept and most frequent lost tokens.")] = 10,
    plot: Annotated[Path | None, typer.Option(help="Draw coverage against k: x.png, x.pdf or x.svg.")] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure what subsets cover, by size, source and script, with 95 % intervals (jackknife over folds).

    On the very table that a subset was chosen from, each fold is covered by ids chosen from the other nine.
    Of recorded answers only what was answered is counted.
    """
    from frspec_cli.subsets.coverage_session import CoverageSession, curves
    from frspec_cli.subsets.plot import check_picture, plot_curves

    if plot is not None:
        check_picture(plot)  # told before anything is measured
    output = Output(as_json=as_json, quiet=quiet)
    session = CoverageSession(tokenizer=tokenizer, mass=mass, say=output.say, warn=output.warn)
    corpora = session.open(on, subsets)
    measured = [session.measure(path, corpus, corpora) for path in subsets for corpus in corpora]
    value: dict[str, Any] = {"rows": [], "tokens": []}
    for each in measured:
        ks = sorted(set(k or [each.subset.k]))
        rows = session.rows(each, ks)
        value["rows"] += [
            {"subset": each.name, "on": each.corpus.name, "how": each.how, **row.as_json()} for row in rows
        ]
        _show_rows(output, each, ks, rows)
        if show:
            value["tokens"].append(_show_tokens(output, session, each, ks[-1], show))
    if plot is not None:
        unit = "probability mass" if measured[0].corpus.soft else "tokens"
        plot_curves(plot, curves(measured), unit=unit, marks=sorted(set(k or [])))
        value["plot"] = str(plot)
    output.result(value, f"wrote {plot}" if plot else f"{len(value['rows'])} rows")


def _show_rows(output: Output, measured: CoverageTarget, ks: list[int], rows: list[Row]) -> None:
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
    unit = "positions" if measured.corpus.soft else "tokens"
    title = (
        f"{measured.name} on {measured.corpus.name} ({measured.how}): {'mass' if measured.corpus.soft else 'coverage'}"
    )
    output.table(title, ["", unit, "share", *(f"k = {size:,}" for size in ks)], lines)


def _share(row: Row | None) -> str:
    if row is None:
        return "-"
    half = (row.high - row.low) / 2
    return f"{row.coverage:.2%} ±{half * 100:.2f}"


def _show_tokens(
    output: Output, session: CoverageSession, measured: CoverageTarget, k: int, most: int
) -> dict[str, Any]:
    from frspec_cli.subsets.coverage import most_frequent_lost, rarest_kept

    ids = measured.subset.prefix(k).token_ids.astype("int64")
    counts = measured.corpus.by_fold().sum(axis=0)
    units = measured.corpus.units
    free = ids[measured.subset.prefix(k).reasons != 0]
    found = {"rarest_kept": rarest_kept(free, counts, most), "lost": most_frequent_lost(ids, counts, most)}
    named = {
        kind: [
            {"id": i, "token": session.token(measured.corpus, i), "count": n / units if units > 1 else n}
            for i, n in each
        ]
        for kind, each in found.items()
    }
    for kind, title in (("rarest_kept", "rarest kept"), ("lost", "most frequent lost")):
        text = ", ".join(f"{each['token']} {each['count']:,.6g}" for each in named[kind])
        output.say(f"{title} (k = {k:,}): {text or 'none'}")
    return {"subset": measured.name, "on": measured.corpus.name, "k": k, **named}
