"""Coverage against k as a picture: log axis, one line per table (or source), 95 % bands."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from frspec_cli import storage
from frspec_cli.errors import FrspecError, not_one_of
from frspec_cli.subsets.coverage import Curve

# Colours that the colour-blind can tell apart (Okabe and Ito's, dark ones first). In grey some look alike, so every line
# has dashes of its own, too; 7 colours and 5 dashes give 35 pairs before one repeats.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
_DASHES = ("solid", (0, (6, 2)), (0, (1.2, 1.2)), (0, (7, 2, 1.2, 2)), (0, (2.5, 1.2)))
# Text that journals take (no Type 3 fonts), and equal bytes for equal curves.
_STYLE: Any = {"pdf.fonttype": 42, "svg.hashsalt": "frspec"}
Width = Literal["column", "page"]
_SIZES: dict[str, tuple[float, float]] = {"column": (3.35, 8.0), "page": (7.0, 9.0)}
"""Width of the picture in inches, and of its letters in points."""
_INSIDE = {"column": 0, "page": 4}
"""The most lines whose names fit inside the axes; in a column they would lie on the curves."""
_LEGEND_LINE = 0.17
"""Inches that a line of the legend below takes."""
_FIRST = 1024
"""The smallest k that is drawn of a subset large enough: nobody decides between smaller ones."""


def check_picture(path: Path | str) -> str:
    """The format that a picture's suffix names. Raises `FrspecError` for an unsupported one, or without matplotlib."""
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix not in ("png", "pdf", "svg"):
        raise FrspecError(f"{path} cannot be drawn: its name must end in .png, .pdf or .svg.")
    if find_spec("matplotlib") is None:
        raise FrspecError("drawing needs matplotlib.", hint="pip install matplotlib, or 'frspec[plot]'.")
    return suffix


def plot_curves(path: Path | str, curves: Sequence[Curve], *, marks: Sequence[int] = (), width: Width = "page") -> None:
    """Writes a picture (.png, .pdf or .svg by name).

    marks: values of k to point out.
    width: of a column or of the text of a journal's page.
    Raises `FrspecError` as `check_picture` does, and `UsageError` for another width.
    """
    suffix = check_picture(path)
    check_width(width)
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    across, font = _SIZES[width]
    below = len(curves) > _INSIDE[width]
    height = across * 0.52 + (_LEGEND_LINE * -(-len(curves) // _legend_columns(width)) if below else 0.0)
    with mpl.rc_context({**_STYLE, "font.size": font, "legend.fontsize": font - 0.5}):
        figure, axes = plt.subplots(figsize=(across, max(height, 2.2)), layout="constrained")
        try:
            _draw(axes, curves, marks)
            _legend(figure, axes, below, width)
            save_figure(path, suffix, figure, dpi=300)
        finally:
            plt.close(figure)


def check_width(width: str) -> None:
    """Raises `UsageError` if it is not one of `Width`."""
    if width not in _SIZES:
        raise not_one_of("width", width, _SIZES)


def _legend_columns(width: Width) -> int:
    return 1 if width == "column" else 2


def _legend(figure: Any, axes: Any, below: bool, width: Width) -> None:
    """Few lines are named inside, where curves that rise to the right leave room; many below the axes."""
    style: dict[str, Any] = {"handlelength": 3.0, "title": "bands: 95% CI", "alignment": "left", "edgecolor": "none"}
    if below:
        figure.legend(loc="outside lower center", ncols=_legend_columns(width), frameon=False, **style)
    else:
        axes.legend(loc="lower right", **style)


def save_figure(path: Path | str, suffix: str, figure: Any, *, dpi: int) -> None:
    """Writes a matplotlib figure in the format `suffix`, whole or not at all, without the time of day."""
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[suffix]
    with storage.atomic_path(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=dpi, metadata=metadata)


def _draw(axes: Any, curves: Sequence[Curve], marks: Sequence[int]) -> None:
    last = max(int(each.ks[-1]) for each in curves)
    first = max(min(int(each.ks[0]) for each in curves), min(_FIRST, last // 8))
    parts = any(each.leads for each in curves)
    for index, each in enumerate(curves):
        colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]
        leads = each.leads
        style = {"color": colour, "linestyle": dash, "linewidth": 2.2 if leads else 1.4, "zorder": 3 if leads else 2}
        axes.plot(each.ks, each.value * 100, label=each.label, **style)
        alpha = 0.08 if parts and not leads else 0.18
        axes.fill_between(each.ks, each.low * 100, each.high * 100, color=colour, alpha=alpha, linewidth=0)
    _axes(axes, curves, first, last)
    _marks(axes, marks, first, last)


def _axes(axes: Any, curves: Sequence[Curve], first: int, last: int) -> None:
    """k from where one would decide on, coverage from the lowest band there to the highest."""
    axes.set_xscale("log", base=2)
    ticks = [power for power in (2**exponent for exponent in range(5, 22)) if first <= power <= last]
    axes.set_xticks(ticks, [f"{tick // 1024}k" if tick >= 1024 else str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(first, last)
    shown = [each.ks >= first for each in curves]
    lowest = min(float(each.low[part].min()) for each, part in zip(curves, shown, strict=True)) * 100
    highest = max(float(each.high[part].max()) for each, part in zip(curves, shown, strict=True)) * 100
    room = 0.04 * (highest - lowest) or 1.0
    axes.set_ylim(max(0.0, lowest - room), min(100.0 + room / 2, highest + room))
    axes.set_xlabel("tokens in the subset, k")
    axes.set_ylabel("tokens covered (%)")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _marks(axes: Any, marks: Sequence[int], first: int, last: int) -> None:
    """A line at each k of note; its number above, unless the axis names it."""
    for mark in (mark for mark in marks if first <= mark <= last):
        axes.axvline(mark, color="#999999", linewidth=0.6, zorder=0)
        if mark & (mark - 1) == 0:
            continue
        side = "right" if mark > last * 0.8 else "left" if mark < first * 1.2 else "center"
        above = {"xycoords": axes.get_xaxis_transform(), "ha": side, "va": "bottom"}
        axes.annotate(f"{mark:,}", (mark, 1.01), color="#555555", **above)
