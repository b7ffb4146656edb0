"""What a tune found, for a report: the ways with their costs, predicted and measured, and what each step costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from frspec_cli.report.cells import Cell, Table, interval, number
from frspec_cli.report.results import Result
from frspec_cli.tuning.costs import Figure, StepCosts
from frspec_cli.tuning.tune_file import TuneFile, WayRecord

PARTS = ("target", "draft layer", "draft LM head", "once a cycle")
"""Of a predicted cycle; see `tuning.costs`."""


def tune_of(result: Result) -> TuneFile:
    """The result as its schema."""
    return TuneFile.model_validate(result.record)


def tune_tables(result: Result) -> list[Table]:
    """The ways, then the costs of each dtype."""
    tune = tune_of(result)
    note = (
        f"Predicted behind {tune.context:,} tokens of text, prefill left out. Speed-up: measured, against plain decoding in "
        "its faster dtype, with a 95 % interval."
    )
    columns = ("acceptance length", "ms per cycle", "predicted tokens/s", "measured tokens/s", "speed-up")
    made = [Table(result.name, "ways to decode", columns, tuple((_name(way), _cells(way)) for way in tune.ways), note)]
    for costs in tune.costs.costs:
        made += list(_costs(result.name, costs))
    return made


def cycle_parts(tune: TuneFile) -> list[tuple[str, dict[str, float]]]:
    """Of each way with a tree, its name and the ms that each of `PARTS` costs in a cycle, as predicted."""
    by_dtype = {costs.dtype: costs for costs in tune.costs.costs}
    found = []
    for way in tune.ways:
        tree, costs = way.way.tree, by_dtype.get(way.dtype)
        if tree is None or costs is None or way.k is None:
            continue
        beam, levels = min(tree.beam, way.k), tree.depth - 1
        ms = (
            costs.target_ms(tree.nodes, tune.context),
            levels * costs.level_ms(beam),
            costs.head_ms(way.k, 1) + levels * costs.head_ms(way.k, beam),
            costs.cycle.ms,
        )
        found.append((_name(way), dict(zip(PARTS, ms, strict=True))))
    return found


def _name(way: WayRecord) -> str:
    if way.depth is None:
        return f"plain decoding, {way.dtype}"
    return f"{way.method}, k = {way.k:,}, {way.depth},{way.beam},{way.nodes}, {way.dtype}"


def _cells(way: WayRecord) -> tuple[Cell, ...]:
    measured = way.measured
    return (
        number(way.acceptance_length),
        number(way.step_ms, 1),
        number(way.predicted, 1),
        number(measured.decode_tokens_per_second if measured else None, 1),
        interval(measured.speedup if measured else None, suffix="×"),
    )


def _costs(name: str, costs: StepCosts) -> Iterator[Table]:
    """Milliseconds of each step: the target by rows, the draft's LM head by rows, its layer, and the rest."""
    kind = f"{costs.dtype}{', compiled' if costs.compiled else ''}{', estimated' if costs.estimated else ''}"
    contexts = sorted({point.context for point in costs.target})
    rows = sorted({point.rows for point in costs.target})
    found: dict[Any, Figure] = {(point.context, point.rows): point for point in costs.target}
    yield Table(
        name,
        f"ms of the target's step by rows of the tree ({kind})",
        tuple(f"{each:,}" for each in rows),
        tuple((f"{c:,} tokens of text", tuple(_ms(found.get((c, each))) for each in rows)) for c in contexts),
    )
    draft_rows = sorted({point.rows for point in costs.head} | {point.rows for point in costs.level})
    heads: dict[Any, Figure] = {(point.k, point.rows): point for point in costs.head}
    levels: dict[Any, Figure] = {point.rows: point for point in costs.level}
    drafts = [("its layer", tuple(_ms(levels.get(each)) for each in draft_rows))]
    drafts += [
        (f"its LM head, k = {k:,}", tuple(_ms(heads.get((k, each))) for each in draft_rows))
        for k in sorted({point.k for point in costs.head})
    ]
    plain = ", ".join(f"{point.ms:.2f} behind {point.context:,} tokens" for point in costs.plain)
    note = f"Once a cycle: {costs.cycle.ms:.2f} ms. A token of plain decoding: {plain}."
    title = f"ms of a draft step by rows of the beam ({kind})"
    yield Table(name, title, tuple(f"{each:,}" for each in draft_rows), tuple(drafts), note)


def _ms(point: Figure | None) -> Cell:
    if point is None:
        return Cell("–")
    if point.low is None or point.high is None:
        return number(point.ms)
    return interval({"value": point.ms, "low": point.low, "high": point.high})
