"""Coverage against k as a picture: log axis, one line per table (or source), 95 % bands."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from frspec_cli import storage
from frspec_cli.errors import FrspecError
from frspec_cli.subsets.coverage import Curve

# Colours that the colour-blind can tell apart (Okabe and Ito's, dark ones first). In grey some look alike, so every line
# has dashes of its own, too; 7 colours and 5 dashes give 35 pairs before one repeats.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
_DASHES = ("solid", (0, (6, 2)), (0, (1.2, 1.2)), (0, (7, 2, 1.2, 2)), (0, (2.5, 1.2)))
# Text that journals take (no Type 3 fonts), and equal bytes for equal curves.
_STYLE: Any = {"pdf.fonttype": 42, "svg.hashsalt": "frspec", "font.size": 9, "legend.fontsize": 8.5}


def check_picture(path: Path | str) -> str:
    """The format that a picture's suffix names. Raises `FrspecError` for an unsupported one, or without matplotlib."""
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix not in ("png", "pdf", "svg"):
        raise FrspecError(f"{path} is not a supported image format.", hint="Name it .png, .pdf or .svg.")
    if find_spec("matplotlib") is None:
        raise FrspecError("drawing needs matplotlib.", hint="pip install 'frspec[plot]'")
    return suffix


def plot_curves(path: Path | str, curves: Sequence[Curve], *, marks: Sequence[int] = ()) -> None:
    """Writes a picture (.png, .pdf or .svg by name).

    marks: values of k to point out.
    Raises `FrspecError` as `check_picture` does.
    """
    suffix = check_picture(path)
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7.0, 3.6), layout="constrained")
        try:
            _save(path, suffix, figure, axes, curves, marks)
        finally:
            plt.close(figure)


def _save(path: Path | str, suffix: str, figure: Any, axes: Any, curves: Sequence[Curve], marks: Sequence[int]) -> None:
    _draw(axes, curves, marks)
    if len(curves) > 1:  # beside the axes: inside it would hide a line sooner or later
        figure.legend(loc="outside right center", frameon=False, handlelength=3.4, title="bands: 95 %")
    save_figure(path, suffix, figure, dpi=300)


def save_figure(path: Path | str, suffix: str, figure: Any, *, dpi: int) -> None:
    """Writes a matplotlib figure in the format `suffix`, whole or not at all, without the time of day."""
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[suffix]
    with storage.atomic_path(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=dpi, metadata=metadata)


def _draw(axes: Any, curves: Sequence[Curve], marks: Sequence[int]) -> None:
    lowest = min(float(each.value.min()) for each in curves)
    for index, each in enumerate(curves):
        colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]
        leads = each.leads
        style = {"color": colour, "linestyle": dash, "linewidth": 2.2 if leads else 1.4, "zorder": 3 if leads else 2}
        axes.plot(each.ks, each.value * 100, label=each.label, **style)
        axes.fill_between(each.ks, each.low * 100, each.high * 100, color=colour, alpha=0.15, linewidth=0)
    for mark in marks:
        axes.axvline(mark, color="#999999", linewidth=0.6, zorder=0)
        above = {"xycoords": axes.get_xaxis_transform(), "ha": "center", "va": "bottom", "fontsize": 8}
        axes.annotate(f"{mark:,}", (mark, 1.01), color="#555555", **above)
    first, last = min(int(each.ks[0]) for each in curves), max(int(each.ks[-1]) for each in curves)
    axes.set_xscale("log", base=2)
    ticks = [power for power in (2**exponent for exponent in range(5, 22)) if first <= power <= last]
    axes.set_xticks(ticks, [f"{tick // 1024}k" if tick >= 1024 else str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(first, last)
    axes.set_ylim(max(0.0, lowest * 100 - 2), 100.5)
    axes.set_xlabel("tokens in the subset, k")
    axes.set_ylabel("tokens covered (%)")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
