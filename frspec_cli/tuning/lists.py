"""Does a list pay? A subset's rows beside all of them, for the same head over the same text, by predicted rates.

A shorter list makes every draft step cheaper and some drafts wrong. Which is more depends on the costs of the steps and on the
text: the same list gains on one and loses on another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.statistics import speedup
from frspec_cli.tuning.costs import ReplayedPoint
from frspec_cli.tuning.predict import Way

Replays = Mapping[tuple[int, TreeConfig], ReplayedPoint]
"""By rows of the draft's LM head and tree."""


def judge(ways: Sequence[Way], replays: Replays | None = None, *, seed: int = 0) -> dict[str, Any] | None:
    """The best way with a list beside the best with all rows, each at its own tree; None if either was not predicted.

    ways: all that were predicted.
    replays: of each way, how the answers were replayed; None if acceptance is known in total only, and has no interval.

    verdict: "gains", "loses", or "open" if the interval holds both.
    ratio: of the rates, with its 95 % interval (answers drawn for both together) if there is one.
    """
    listed, full = _best(ways, "frspec"), _best(ways, "eagle")
    if listed is None or full is None:
        return None
    ratio = {"value": listed.rate / full.rate}
    if replays is not None:
        ratio = _with_interval(listed, full, replays, seed=seed)
    low, high = ratio.get("low", ratio["value"]), ratio.get("high", ratio["value"])
    verdict = "gains" if low > 1 else "loses" if high < 1 else "open"
    return {
        "verdict": verdict,
        "sentence": _sentence(verdict, listed, full, ratio),
        "ratio": ratio,
        "list": _shown(listed),
        "full": _shown(full),
        "chains": chains(ways),
    }


def chains(ways: Sequence[Way]) -> list[dict[str, Any]]:
    """By the number of draft steps of a chain, shortest first: the rates of each k, and the k that pays."""
    by_steps: dict[int, dict[int, Way]] = {}
    for way in sorted(ways, key=lambda each: each.rate):
        if way.tree is not None and way.k is not None and way.tree.beam == 1 and way.tree.nodes == way.tree.depth + 1:
            by_steps.setdefault(way.tree.depth, {})[way.k] = way
    return [
        {
            "steps": steps,
            "k": max(by_k.values(), key=lambda way: way.rate).k,
            "ways": [_shown(by_k[k]) for k in sorted(by_k, reverse=True)],
        }
        for steps, by_k in sorted(by_steps.items())
    ]


def _best(ways: Sequence[Way], method: str) -> Way | None:
    return max((way for way in ways if way.method == method), key=lambda way: way.rate, default=None)


def _with_interval(listed: Way, full: Way, replays: Replays, *, seed: int) -> dict[str, float]:
    """The ratio of the rates: tokens by the time that the cycles take, over the same of the full LM head."""
    columns: list[list[float]] = []
    for way in (listed, full):
        assert way.k is not None
        assert way.tree is not None
        replay = replays[way.k, way.tree]
        tokens = [float(cycles + accepted) for cycles, accepted in zip(replay.cycles, replay.accepted, strict=True)]
        columns += [tokens, [cycles * way.step_ms for cycles in replay.cycles]]
    return speedup(columns[0], columns[1], columns[2], columns[3], seed=seed)


def _sentence(verdict: str, listed: Way, full: Way, ratio: Mapping[str, float]) -> str:
    change = f"{ratio['value'] - 1:+.1%}"
    if "low" in ratio:
        change += f" ({ratio['low'] - 1:+.1%} to {ratio['high'] - 1:+.1%})"
    rates = (
        f"{listed.rate:.1f} tokens/s predicted at its best ({_words(listed)}), {full.rate:.1f} with all {full.k:,} rows "
        f"({_words(full)}): {change}."
    )
    match verdict:
        case "loses":
            return f"On this text this list loses: {rates}"
        case "gains":
            return f"On this text this list gains: {rates}"
        case _:
            return f"Whether this list gains on this text, so few answers do not show: {rates}"


def _words(way: Way) -> str:
    assert way.tree is not None
    tree = way.tree
    shape = f"{tree.depth} step{'s' * (tree.depth > 1)}" if tree.beam == 1 else f"{tree.depth},{tree.beam},{tree.nodes}"
    return shape if way.method == "eagle" else f"k {way.k:,}, {shape}"


def _shown(way: Way) -> dict[str, Any]:
    assert way.tree is not None
    return {
        "k": way.k,
        "dtype": way.dtype,
        "depth": way.tree.depth,
        "beam": way.tree.beam,
        "nodes": way.tree.nodes,
        "acceptance_length": way.length,
        "step_ms": way.step_ms,
        "predicted": way.rate,
    }
