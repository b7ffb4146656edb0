"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from frspec_cli.report.cells import Table
from frspec_cli.report.commands import command_of, environment_of
from frspec_cli.report.results import Result

_TEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "–": "--",
        "×": r"$\times$",
    }
)


def as_markdown(tables: Sequence[Table]) -> str:
    """A heading for each result, and its tables."""
    lines: list[str] = []
    result = None
    for table in tables:
        if table.result != result:
            result = table.result
            lines += [f"## {result}", ""]
        lines += [f"### {table.figure}", "", _row(("", *table.columns)), "|---|" + "---:|" * len(table.columns)]
        lines += [_row((name, *(cell.text for cell in cells))) for name, cells in table.rows]
        lines += ["", *([table.note, ""] if table.note else [])]
    return "\n".join(lines)


def commands_as_markdown(results: Sequence[Result]) -> str:
    """The command of each result, and the machine and versions it ran with."""
    lines = ["## How it was made", ""]
    before: dict[str, str] = {}
    for result in results:
        shown = environment_of(result)
        lines += [f"### {result.name} ({result.kind})", "", "```text", command_of(result), "```", ""]
        if shown and {**shown, "load": ""} == {**before, "load": ""}:
            lines += ["On the same machine, with the same versions as the one before.", ""]
        elif shown:
            lines += [*(f"- {name}: {value}" for name, value in shown.items()), ""]
        before = shown or before
    return "\n".join(lines)


def as_latex(tables: Sequence[Table]) -> str:
    """One `table` environment each, with booktabs' rules."""
    parts = [r"% Needs \usepackage{booktabs}."]
    for table in tables:
        header = " & ".join(["", *(column.translate(_TEX) for column in table.columns)])
        rows = [
            " & ".join(text.translate(_TEX) for text in (name, *(c.text for c in cells))) for name, cells in table.rows
        ]
        caption = f"{table.result}: {table.figure}. {table.note}".strip().translate(_TEX)
        body = "\n".join(f"{row} \\\\" for row in rows)
        parts.append(
            f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n\\begin{{tabular}}{{l{'r' * len(table.columns)}}}\n"
            f"\\toprule\n{header} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}"
        )
    return "\n\n".join(parts) + "\n"


def as_csv(tables: Sequence[Table]) -> str:
    """One line for each number: result, figure, row, column, value, low, high."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("result", "figure", "row", "column", "value", "low", "high"))
    for table in tables:
        for name, cells in table.rows:
            for column, cell in zip(table.columns, cells, strict=True):
                if cell.value is not None:
                    writer.writerow((table.result, table.figure, name, column, cell.value, cell.low, cell.high))
    return file.getvalue()


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
