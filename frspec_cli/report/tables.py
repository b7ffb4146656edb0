"""The tables of a report: numbers with their intervals, spelled once for the page, Markdown, LaTeX and CSV alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from frspec_cli.report.cells import ALL, Cell, Table, interval, number, percent, share
from frspec_cli.report.results import Result, of_kind
from frspec_cli.report.tune import tune_tables
from frspec_cli.statistics import speedup


def tables(results: Sequence[Result]) -> list[Table]:
    """Every table that the results give, in the order of the page."""
    found = [table for result in of_kind(results, "bench") for table in _bench(result)]
    found += [table for result in of_kind(results, "replay") for table in _replay(result)]
    found += [_profile(result) for result in of_kind(results, "profile")]
    found += [table for result in of_kind(results, "coverage") for table in _coverage(result)]
    found += [table for result in of_kind(results, "tune") for table in tune_tables(result)]
    return found


def _bench(result: Result) -> list[Table]:
    texts = result.record["prompts"]
    tasks = sorted({text["category"] for text in texts if text["category"]})
    columns = (*tasks, ALL)
    by_task = {
        name: {
            task: [text for text in texts if text["method"] == name and task in (text["category"], ALL)]
            for task in columns
        }
        for name in result.arms
    }
    figures = (
        ("acceptance length", lambda group: number(_length(group))),
        ("decode tokens per second", lambda group: number(_speed(group, decode=True), 1)),
        ("tokens per second, prefill included", lambda group: number(_speed(group, decode=False), 1)),
    )
    made = [
        Table(
            result.name,
            figure,
            columns,
            tuple((name, tuple(make(groups[task]) for task in columns)) for name, groups in by_task.items()),
        )
        for figure, make in figures
    ]
    against = next((arm["speedup"]["against"] for arm in result.arms.values() if arm["speedup"]), None)
    if against in by_task:
        rows = []
        for name, groups in by_task.items():
            cells = [_ratio(groups[task], by_task[against][task], result) for task in tasks]
            rows.append((name, (*cells, interval(result.arms[name]["speedup"], suffix="×"))))
        note = f"Against {against}, prefill included; 95 % intervals by paired bootstrap over prompts and runs."
        made.append(Table(result.name, "speed-up", columns, tuple(rows), note))
    return made


def _length(texts: Sequence[Mapping[str, Any]]) -> float | None:
    cycles = sum(text["cycles"] for text in texts)
    return 1 + sum(sum(text["accepted"]) for text in texts) / cycles if cycles else None


def _speed(texts: Sequence[Mapping[str, Any]], *, decode: bool) -> float | None:
    tokens = sum(len(text["token_ids"]) - decode for text in texts)
    seconds = sum(text["seconds"]["total"] - decode * text["seconds"]["prefill"] for text in texts)
    return tokens / seconds if seconds else None


def _ratio(texts: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], result: Result) -> Cell:
    """The speed-up of one task. Item i of both is of one prompt; runs of a prompt stay together."""
    runs = result.record["options"].get("runs", 1)

    def columns(group: Sequence[Mapping[str, Any]]) -> tuple[list[list[float]], list[list[float]]]:
        starts = range(0, len(group), runs)
        tokens: list[list[float]] = [[len(text["token_ids"]) for text in group[i : i + runs]] for i in starts]
        return tokens, [[text["seconds"]["total"] for text in group[i : i + runs]] for i in starts]

    if not texts:
        return Cell("–")
    return interval(speedup(*columns(texts), *columns(base), seed=result.record["options"].get("seed", 0)), suffix="×")


def _replay(result: Result) -> list[Table]:
    arms = result.arms
    made = [_replay_summary(result)]
    for key, by in (("categories", "task"), ("languages", "language"), ("positions", "position")):
        groups = [name for name in next(iter(arms.values()))[key] if name]
        if len(groups) < 2:
            continue
        rows = tuple(
            (name, (*(_group(arm[key].get(group)) for group in groups), interval(arm["interval"])))
            for name, arm in arms.items()
        )
        note = (
            "In brackets the share that is kept of the full vocabulary's acceptance length." if _any_kept(arms) else ""
        )
        made.append(Table(result.name, f"acceptance length by {by}", (*groups, ALL), rows, note))
    deepest = max(len(arm["depths"]) for arm in arms.values())
    rows = tuple(
        (name, tuple(share(row["conditional"]) for row in arm["depths"]) + (Cell(""),) * (deepest - len(arm["depths"])))
        for name, arm in arms.items()
    )
    columns = tuple(f"depth {depth}" for depth in range(1, deepest + 1))
    made.append(Table(result.name, "accepted at each depth, of the cycles that were right so far", columns, rows))
    return made


def _replay_summary(result: Result) -> Table:
    reasons = list(next(iter(result.arms.values()))["misses"])
    rows = tuple(
        (
            name,
            (
                Cell(f"{arm['k']:,}", arm["k"]),
                interval(arm["interval"]),
                percent(arm["kept"]),
                *(share(arm["misses"][reason] / max(1, arm["cycles"])) for reason in reasons),
            ),
        )
        for name, arm in result.arms.items()
    )
    return Table(
        result.name,
        "acceptance, what is kept of it, and why drafts stopped",
        ("k", "acceptance length", "kept", *reasons),
        rows,
        "Kept: against the full vocabulary with the same head and tree. 95 % intervals by bootstrap over answers.",
    )


def _group(figures: Mapping[str, Any] | None) -> Cell:
    if figures is None or figures["interval"] is None:
        return Cell("–")
    found, kept = figures["interval"], figures["kept"]
    text = f"{found['value']:.2f}" + (f" ({kept['value']:.1%})" if kept else "")
    return Cell(text, found["value"], found["low"], found["high"])


def _any_kept(arms: Mapping[str, Any]) -> bool:
    return any(arm["kept"] for arm in arms.values())


def _profile(result: Result) -> Table:
    parts = list(next(iter(result.arms.values()))["parts_ms"])
    rows = tuple(
        (
            name,
            (
                interval(arm["cycle_ms"]),
                interval(arm["draft_ms"]),
                *(_part(arm, part) for part in parts),
            ),
        )
        for name, arm in result.arms.items()
    )
    note = "Medians with 95 % intervals; the parts are from a second, instrumented pass."
    return Table(result.name, "time per cycle, ms", ("cycle", "draft part", *parts), rows, note)


def _part(arm: Mapping[str, Any], part: str) -> Cell:
    value = arm["parts_ms"][part]["value"]
    return Cell(f"{value:.2f} ({arm['shares'][part]:.0%})", value)


def _coverage(result: Result) -> list[Table]:
    made = []
    rows = result.record["rows"]
    for subset, text in dict.fromkeys((row["subset"], row["on"]) for row in rows):
        own = [row for row in rows if (row["subset"], row["on"]) == (subset, text)]
        ks = sorted({row["k"] for row in own})
        cells = {(row["source"], row["script"], row["k"]): row for row in own}
        groups = list(dict.fromkeys((row["source"], row["script"]) for row in own))
        made.append(
            Table(
                result.name,
                f"coverage of {text} by {subset}",
                tuple(f"k = {k:,}" for k in ks),
                tuple((group_name(*group), tuple(_covered(cells.get((*group, k))) for k in ks)) for group in groups),
                "95 % intervals by the jackknife over folds.",
            )
        )
    return made


def group_name(source: str, script: str) -> str:
    """What a row of coverage is of."""
    return ALL if source == script == ALL else script_name(script) if source == ALL else source


def script_name(script: str) -> str:
    """A script as a reader is told of it: two of them are none."""
    return {"none": "no letters (digits, signs)", "partial": "partial bytes"}.get(script, f"script {script}")


def _covered(row: Mapping[str, Any] | None) -> Cell:
    return percent(None if row is None else {"value": row["coverage"], "low": row["low"], "high": row["high"]})
