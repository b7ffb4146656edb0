"""The pictures of a report, as data and Vega-Lite specifications. Nothing is drawn here.

Every series has a colour, a dash pattern and a shape of its own: none has to be told by its colour. The colours have a
contrast of 3 to 1 or more on white and on the page's dark ground alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frspec_cli.report.cells import ALL
from frspec_cli.report.results import Result, of_kind
from frspec_cli.report.tables import script_name
from frspec_cli.report.tune import PARTS, cycle_parts, tune_of

COLOURS = ("#2f7ed8", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f", "#a6761d", "#7a5fd0", "#2a9d9d")
DASHES = ((1, 0), (6, 2), (2, 2), (8, 2, 2, 2), (4, 4), (1, 3), (10, 3), (5, 1, 1, 1))
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
MOST_SERIES = len(COLOURS)
_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"


@dataclass(frozen=True)
class Chart:
    """One picture.

    title, caption: what it shows, and how to read it.
    series: the names of the legend, in order of `COLOURS`.
    spec: Vega-Lite, without a width.
    bars: whether the series are parts of bars, not lines.
    """

    title: str
    caption: str
    series: tuple[str, ...]
    spec: Mapping[str, Any]
    bars: bool = False


def charts(results: Sequence[Result]) -> list[Chart]:
    """Every picture that the results give, in the order of the page."""
    made: list[Chart | None] = []
    for result in of_kind(results, "replay"):
        made += [_acceptance_by_size(result), _predicted_speed(result, results)]
    made += [_cycle_parts(result) for result in of_kind(results, "profile")]
    made += [_predicted_parts(result) for result in of_kind(results, "tune")]
    for result in of_kind(results, "replay"):
        made += [_misses(result), _depths(result), _lengths(result)]
    made += [_lengths(result) for result in of_kind(results, "bench")]
    for result in of_kind(results, "coverage"):
        made += _coverage(result)
    return [chart for chart in made if chart is not None]


def _acceptance_by_size(result: Result) -> Chart | None:
    """The subsets by size, each in a line of its own, and the full vocabulary at its own size."""
    rows = [
        _point(_family(result, arm), arm["k"], arm["interval"], f"k = {arm['k']:,}: acceptance length {{}}")
        for arm in result.arms.values()
        if arm["interval"]
    ]
    if len({row["x"] for row in rows}) < 2:
        return None
    return _lines(
        f"Acceptance length against the size of the vocabulary ({result.name})",
        "Tokens emitted per cycle, the target's own one included; bars are 95 % intervals by bootstrap over answers.",
        rows,
        x="tokens that the draft can propose (k)",
        y="acceptance length",
        log=True,
    )


def _predicted_speed(result: Result, results: Sequence[Result]) -> Chart | None:
    """Acceptance length over the time of a cycle that a profile or a bench measured at the same size."""
    costs = _cycle_seconds(result, results)
    rows = []
    for arm in result.arms.values():
        seconds = costs.get((arm["method"], arm["k"] if arm["method"] == "frspec" else None))
        if arm["interval"] and seconds:
            speeds = {name: value / seconds for name, value in arm["interval"].items()}
            rows.append(
                _point(_family(result, arm), arm["k"], speeds, f"k = {arm['k']:,}: {{}} tokens/s predicted", digits=1)
            )
    if len({row["x"] for row in rows}) < 2:
        return None
    return _lines(
        f"Predicted decoding speed against the size of the vocabulary ({result.name})",
        "The replayed acceptance length over the measured time of a cycle, prefill left out. A prediction, not a measurement.",
        rows,
        x="tokens that the draft can propose (k)",
        y="tokens per second",
        log=True,
    )


def _cycle_seconds(result: Result, results: Sequence[Result]) -> dict[tuple[str, int | None], float]:
    """(method, k of frspec) -> seconds of a cycle of the same model; a profile's before a bench's."""
    costs: dict[tuple[str, int | None], float] = {}
    model = result.record["options"].get("model")
    for other in [*of_kind(results, "bench"), *of_kind(results, "profile")]:
        if other.record["options"].get("model") != model:
            continue
        for name, arm in other.arms.items():
            method = name.partition("@")[0]
            key = (method, arm["k"] if method == "frspec" else None)
            if other.kind == "profile":
                costs[key] = arm["cycle_ms"]["value"] / 1000
                continue
            cycles = sum(text["cycles"] for text in other.record["prompts"] if text["method"] == name)
            if cycles:
                costs[key] = (arm["seconds"]["total"] - arm["seconds"]["prefill"]) / cycles
    return costs


def _cycle_parts(result: Result) -> Chart:
    parts = tuple(next(iter(result.arms.values()))["parts_ms"])
    rows = [
        {
            "bar": name,
            "series": part,
            "part": number,
            "value": arm["parts_ms"][part]["value"],
            "label": f"{part}: {arm['parts_ms'][part]['value']:.2f} ms of {name}'s cycle",
        }
        for name, arm in result.arms.items()
        for number, part in enumerate(parts)
    ]
    return _stacked(
        f"Where the time of a cycle goes ({result.name})", "Medians of each part, in ms.", rows, parts, x="ms per cycle"
    )


def _predicted_parts(result: Result) -> Chart | None:
    rows = [
        {
            "bar": name,
            "series": part,
            "part": number,
            "value": parts[part],
            "label": f"{part}: {parts[part]:.2f} ms of {name}",
        }
        for name, parts in cycle_parts(tune_of(result))
        for number, part in enumerate(PARTS)
    ]
    if not rows:
        return None
    caption = "Predicted from the costs of single steps, in ms."
    return _stacked(f"What a cycle is predicted to cost ({result.name})", caption, rows, PARTS, x="ms per cycle")


def _misses(result: Result) -> Chart:
    reasons = tuple(next(iter(result.arms.values()))["misses"])
    rows = [
        {
            "bar": name,
            "series": reason,
            "part": number,
            "value": arm["misses"][reason] / max(1, arm["cycles"]),
            "label": f"{reason}: {arm['misses'][reason] / max(1, arm['cycles']):.1%} of {name}'s cycles",
        }
        for name, arm in result.arms.items()
        for number, reason in enumerate(reasons)
    ]
    caption = (
        "The target's token was outside the subset, below the beam, cut by the rerank, or deeper than the tree; or the "
        "answer was over. Outside bounds every better subset, the others every better head or tree."
    )
    return _stacked(f"Why cycles ended ({result.name})", caption, rows, reasons, x="share of cycles", percent=True)


def _depths(result: Result) -> Chart:
    rows = [
        _point(
            name, row["depth"], {"value": row["conditional"]}, f"depth {row['depth']}: {{}} of those so far", share=True
        )
        for name, arm in result.arms.items()
        for row in arm["depths"]
        if row["conditional"] is not None
    ]
    caption = "Of the cycles that accepted everything above a depth, the share that accepted there too."
    return _lines(
        f"Acceptance by depth ({result.name})", caption, rows, x="depth of the tree", y="share accepted", percent=True
    )


def _lengths(result: Result) -> Chart | None:
    found: dict[str, Counter[int]] = {name: Counter() for name in result.arms if name not in ("ar", "transformers")}
    for text in result.record["prompts"]:
        if text["method"] in found:
            found[text["method"]].update(text["accepted"])
    rows = [
        _point(name, count, {"value": counts[count] / counts.total()}, f"{count} accepted: {{}} of cycles", share=True)
        for name, counts in found.items()
        if counts and max(counts) > 0
        for count in range(max(counts) + 1)
    ]
    if not rows:
        return None
    caption = "How many drafted tokens a cycle accepted; the target's own token comes on top."
    title, x = f"Accepted tokens a cycle ({result.name})", "drafted tokens accepted"
    return _lines(title, caption, rows, x=x, y="share of cycles", percent=True)


def _coverage(result: Result) -> list[Chart | None]:
    made: list[Chart | None] = []
    for script in (False, True):
        rows = [
            _point(_covered(result, row), row["k"], row | {"value": row["coverage"]}, _covers(row), share=True)
            for row in result.record["rows"]
            if (row["source"] == ALL if script else row["script"] == ALL) and row["tokens"]
        ]
        if len({row["x"] for row in rows}) < 2 or (script and len({row["series"] for row in rows}) < 2):
            made.append(None)
            continue
        by = "script" if script else "source"
        made.append(
            _lines(
                f"Coverage by {by} ({result.name})",
                "The share of the text's tokens that are in the subset; bars are 95 % intervals by the jackknife over folds.",
                rows,
                x="tokens in the subset (k)",
                y="share covered",
                log=True,
                percent=True,
            )
        )
    return made


def _covers(row: Mapping[str, Any]) -> str:
    return f"k = {row['k']:,}: {{}} covered"


def _covered(result: Result, row: Mapping[str, Any]) -> str:
    pairs = {(each["subset"], each["on"]) for each in result.record["rows"]}
    group = script_name(row["script"]) if row["script"] != ALL else row["source"]
    return group if len(pairs) < 2 else f"{group}, {row['subset']} on {row['on']}"


def _family(result: Result, arm: Mapping[str, Any]) -> str:
    """What an arm is, less its size: the line that it is a point of."""
    arms = result.arms.values()
    parts = ["full vocabulary" if arm["vocab"] is None else "subset"]
    for name, label in (("vocab", ""), ("draft", "head ")):
        values = list(dict.fromkeys(each[name] for each in arms if each[name] is not None))
        if len(values) > 1 and arm[name] is not None:
            parts.append(f"{label}{str(arm[name]).rstrip('/').rpartition('/')[2]}")
    if arm.get("context_slots"):
        parts.append(f"{arm['context_slots']:,} context slots")
    trees = list(dict.fromkeys((each["depth"], each["beam"], each["nodes"]) for each in arms))
    if len(trees) > 1:
        parts.append("tree {},{},{}".format(arm["depth"], arm["beam"], arm["nodes"]))
    return ", ".join(parts)


def _point(
    series: str, x: float, found: Mapping[str, float], label: str, *, digits: int = 2, share: bool = False
) -> dict[str, Any]:
    """One row of a line's data; without an interval its ends are the value."""
    value, low, high = (found.get(name, found["value"]) for name in ("value", "low", "high"))

    def spell(number: float) -> str:
        return f"{number:.1%}" if share else f"{number:.{digits}f}"

    text = spell(value) if low == high else f"{spell(value)} ({spell(low)} to {spell(high)})"
    return {"series": series, "x": x, "y": value, "low": low, "high": high, "label": f"{series}: {label.format(text)}"}


def _lines(
    title: str, caption: str, rows: list[dict[str, Any]], *, x: str, y: str, log: bool = False, percent: bool = False
) -> Chart:
    """Lines with points and intervals. More series than there are colours are left to the table, and the caption says so."""
    names = list(dict.fromkeys(row["series"] for row in rows))
    series = tuple(names[:MOST_SERIES])
    if left := len(names) - len(series):
        caption += f" The first {len(series)} are drawn; {left} more are in the table."
    shown = [row for row in rows if row["series"] in series]
    places = sorted({row["x"] for row in shown})
    axis = {"title": x, "values": places, "format": ",d", "grid": False, "labelOverlap": "greedy"}
    scale: dict[str, Any] = {"type": "log", "base": 2, "nice": False} if log else {"nice": False}
    across = {"field": "x", "type": "quantitative", "axis": axis, "scale": {**scale, "padding": 12, "zero": False}}
    up: dict[str, Any] = {"type": "quantitative", "title": y, "scale": {"zero": False}}
    if percent:
        up["axis"] = {"format": ".0%"}
    named = {"field": "series", "type": "nominal", "legend": None}
    colour = {**named, "scale": {"domain": series, "range": COLOURS[: len(series)]}}
    dash = {**named, "scale": {"domain": series, "range": DASHES[: len(series)]}}
    shape = {**named, "scale": {"domain": series, "range": SHAPES[: len(series)]}}
    shared = {"x": across, "color": colour}
    spec = {
        "$schema": _SCHEMA,
        "data": {"values": shown},
        "height": 240,
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 1.2},
                "encoding": {
                    **shared,
                    "y": {**up, "field": "low"},
                    "y2": {"field": "high"},
                    "description": {"field": "label"},
                },
            },
            {
                "mark": {"type": "line", "strokeWidth": 1.8},
                "encoding": {
                    **shared,
                    "y": {**up, "field": "y"},
                    "strokeDash": dash,
                    "description": {"field": "series"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 52, "opacity": 1},
                "encoding": {**shared, "y": {**up, "field": "y"}, "shape": shape, "description": {"field": "label"}},
            },
        ],
    }
    return Chart(title, caption, series, spec)


def _stacked(
    title: str, caption: str, rows: list[dict[str, Any]], parts: tuple[str, ...], *, x: str, percent: bool = False
) -> Chart:
    """A bar for each arm, its parts side by side; a part of a tenth or more carries its number."""
    bars = list(dict.fromkeys(row["bar"] for row in rows))
    longest = max(sum(row["value"] for row in rows if row["bar"] == bar) for bar in bars)
    for row in rows:
        spelled = f"{row['value']:.0%}" if percent else f"{row['value']:.1f}"
        row["text"] = spelled if row["value"] >= longest / 10 else ""
    across = {
        "field": "value", "type": "quantitative", "stack": "zero", "title": x,
        "axis": {"format": ".0%" if percent else ",~f", "grid": False}, "scale": {"domain": [0, longest], "nice": False},
    }  # fmt: skip
    down = {"field": "bar", "type": "nominal", "title": None, "sort": bars, "axis": {"labelLimit": 220}}
    colour = {
        "field": "series",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": parts, "range": COLOURS[: len(parts)]},
    }
    shared = {"x": across, "y": down, "order": {"field": "part"}}
    middle = {**across, "bandPosition": 0.5}
    written = {**shared, "x": middle, "text": {"field": "text"}, "detail": {"field": "series"}}
    spec = {
        "$schema": _SCHEMA,
        "data": {"values": rows},
        "height": {"step": 30},
        "layer": [
            {
                "mark": {"type": "bar", "height": 22, "stroke": "#ffffff", "strokeWidth": 1},
                "encoding": {**shared, "color": colour, "description": {"field": "label"}},
            },
            {
                "mark": {"type": "text", "fontWeight": 600, "fill": "#111111", "aria": False},
                "encoding": written,
            },
        ],
    }
    return Chart(title, caption, parts, spec, bars=True)
