"""`frspec report`: results as one page, and as tables for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frspec_cli import outputs
from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.errors import UsageError, option


def command(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT...", help="JSON of bench, replay, profile or tune, or of coverage --json."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page to write, such as report.html (needs vl-convert-python)."),
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write the tables as LaTeX (booktabs).")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write every number of the tables with its interval as CSV.")] = None,
    title: Annotated[str, typer.Option(help="The page's title.")] = "Speculative decoding with a draft vocabulary",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write one self-contained page from results: what was found, pictures, tables and the commands.

    The page asks nothing of the network, and reads in print, in the light and in the dark, by pointer and by keyboard.
    """
    from frspec_cli import storage
    from frspec_cli.report.charts import charts
    from frspec_cli.report.draw import check_drawing
    from frspec_cli.report.page import page
    from frspec_cli.report.results import read_results
    from frspec_cli.report.tables import tables
    from frspec_cli.report.text import as_csv, as_latex, as_markdown, commands_as_markdown

    asked = {"out": out, "markdown": markdown, "latex": latex, "csv": csv}
    given = {
        name: outputs.check(path, inputs=results, replaces=_REPLACES[name], what=_WHAT[name], name=name)
        for name, path in asked.items()
        if path is not None
    }
    if not given:
        raise UsageError(
            "there is nothing to write.",
            hint=f"Give {option('out')} report.html, or {option('markdown')}, {option('latex')} or {option('csv')} FILE.",
        )
    if len(set(given.values())) < len(given):
        raise UsageError(f"two of {', '.join(map(option, given))} name one file.")
    output = Output(as_json=as_json, quiet=quiet, out=next(iter(given.values())))
    if out is not None:
        check_drawing()
    found = read_results(results)
    made = tables(found)
    texts = {
        "markdown": lambda tables: f"{as_markdown(tables)}\n{commands_as_markdown(found)}",
        "latex": as_latex,
        "csv": as_csv,
    }
    with output.callbacks("drawing") as callbacks:
        for name, path in given.items():
            if name == "out":
                callbacks.begin(len(charts(found)))
                storage.write_text(path, page(found, title=title, advance=callbacks.finished))
            else:
                storage.write_text(path, texts[name](made))
    written = {name: str(path) for name, path in given.items()}
    output.result({**written, "results": len(found), "tables": len(made)}, f"wrote {', '.join(written.values())}")


_WHAT = {"out": "a page", "markdown": "Markdown tables", "latex": "LaTeX tables", "csv": "numbers as CSV"}
_REPLACES = {
    "out": outputs.starts_with(b"<!doctype html>"),
    "markdown": outputs.starts_with(b"## "),
    "latex": outputs.starts_with(b"% Needs"),
    "csv": outputs.starts_with(b"result,figure,"),
}
