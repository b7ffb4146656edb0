"""Charts as SVG, by Vega-Lite through vl-convert: no browser, no network, and no script that the page would need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from frspec_cli.errors import FrspecError
from frspec_cli.report.charts import Chart

WIDE, NARROW = 430, 270
"""Widths of the plotted area in pixels: half of a page that is printed or read on a desk, and a telephone's."""
_CONFIG: Mapping[str, Any] = {
    "font": "system-ui, sans-serif",
    "background": None,
    "view": {"stroke": None},
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 500, "tickCount": 6, "titlePadding": 8},
    "text": {"fontSize": 12},
}
_PADDING = {"left": 14, "right": 6, "top": 4, "bottom": 4}
"""A browser's letters may be wider than those that the axis was laid out with."""


def check_drawing() -> None:
    """Raises `FrspecError` if vl-convert is not installed."""
    if find_spec("vl_convert") is None:
        raise FrspecError(
            "drawing the page needs vl-convert.", hint="pip install vl-convert-python, or 'frspec[plot]'."
        )


def draw(chart: Chart, *, width: int) -> str:
    """The chart as an <svg> element that fills its place. Raises `FrspecError` as `check_drawing` does."""
    check_drawing()
    import vl_convert

    spec = {**chart.spec, "width": width, "config": _CONFIG, "padding": _PADDING}
    svg = vl_convert.vegalite_to_svg(spec, vl_version="6.1", allowed_base_urls=[])
    return re.sub(r' width="[\d.]+" height="[\d.]+"', "", svg, count=1)
