"""One page with everything on it: no request leaves it, and it reads on paper, on a telephone, in the light and in the dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from frspec_cli import __version__
from frspec_cli.report.charts import COLOURS, DASHES, Chart, charts
from frspec_cli.report.commands import command_of, environment_of
from frspec_cli.report.draw import NARROW, WIDE, draw
from frspec_cli.report.headline import headlines
from frspec_cli.report.results import Result
from frspec_cli.report.tables import tables

_GLYPHS = {
    "circle": "M0-4A4 4 0 1 1 0 4A4 4 0 1 1 0-4Z",
    "square": "M-3.6-3.6H3.6V3.6H-3.6Z",
    "triangle-up": "M0-4.5L4.5 3.5H-4.5Z",
    "diamond": "M0-5L4 0 0 5-4 0Z",
    "cross": "M-1.5-4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5Z",
    "triangle-down": "M0 4.5L4.5-3.5H-4.5Z",
    "triangle-right": "M4.5 0L-3.5-4.5V4.5Z",
    "triangle-left": "M-4.5 0L3.5-4.5V4.5Z",
}


def page(results: Sequence[Result], *, title: str, advance: Callable[[int], None] = lambda count: None) -> str:
    """The page as HTML. advance: called with the number of charts just drawn. Raises as `draw` does."""
    drawn = []
    for chart in charts(results):
        drawn.append({"chart": chart, "wide": draw(chart, width=WIDE), "narrow": draw(chart, width=NARROW)})
        drawn[-1]["legend"] = _legend(chart)
        advance(1)
    return _template().render(
        title=title,
        headlines=headlines(results),
        charts=drawn,
        tables=tables(results),
        runs=_runs(results),
        version=__version__,
    )


def _legend(chart: Chart) -> list[dict[str, Any]]:
    """Of each series its name, colour, dashes and shape."""
    glyphs = [None] * len(chart.series) if chart.bars else list(_GLYPHS.values())
    return [
        {"name": name, "colour": colour, "dash": " ".join(map(str, dash)), "glyph": glyph}
        for name, colour, dash, glyph in zip(chart.series, COLOURS, DASHES, glyphs, strict=False)
    ]


def _runs(results: Sequence[Result]) -> list[dict[str, Any]]:
    """What the results say about how they were made. same: whether the environment is that of the one before."""
    runs: list[dict[str, Any]] = []
    for result in results:
        shown = environment_of(result)
        same = bool(shown) and bool(runs) and {**shown, "load": ""} == {**runs[-1]["environment"], "load": ""}
        runs.append(
            {
                "name": result.name,
                "kind": result.kind,
                "command": command_of(result),
                "environment": shown,
                "same": same,
            }
        )
    return runs


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(str(resources.files("frspec_cli.report"))))
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html.j2")
