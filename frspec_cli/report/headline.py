"""The sentences at the top of a report: what was found, with its interval, and what speaks against believing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from frspec_cli.answers.repetition import MOST
from frspec_cli.report.results import Result, of_kind

_PLAIN = {
    "ar": "plain decoding",
    "transformers": "transformers' generate",
    "transformers-static": "transformers' generate with a static cache",
}


def headlines(results: Sequence[Result]) -> list[str]:
    """A sentence or two of each result that has something to say, in the order of the page."""
    lines = [line for result in of_kind(results, "bench") for line in _bench(result)]
    lines += [line for result in of_kind(results, "replay") for line in _replay(result)]
    lines += [line for result in of_kind(results, "profile") for line in _profile(result)]
    return lines


def _bench(result: Result) -> Iterator[str]:
    repetition = result.record.get("repetition")
    if repetition and repetition["all"] > MOST:
        yield (
            f"{result.name}: the texts repeat {repetition['all']:.0%} of their 4-grams. What repeats is easy to draft, so its "
            "speeds are not a headline."
        )
        return
    drafted = {name: arm for name, arm in result.arms.items() if name.startswith("frspec") and arm["speedup"]}
    if drafted:
        arm = max(drafted.values(), key=lambda arm: arm["tokens_per_second"])
        over = arm.get("over_eagle")
        eagle = f" and {_times(over)} EAGLE-2" if over else ""
        yield (
            f"{_model(result)}: FR-Spec with {arm['k']:,} tokens decodes {arm['tokens_per_second']:.1f} tokens a second, "
            f"{_times(arm['speedup'])} {_PLAIN[arm['speedup']['against']]}{eagle}, at an acceptance length of "
            f"{arm['acceptance_length']:.2f}{_identity(arm)}."
        )
    null = result.record.get("null")
    if null and not null["contains_one"]:
        yield (
            f"{result.name}: {null['arm']} against itself is {_times(null['ratio'])}: the machine was not quiet, and "
            "differences of that size mean nothing."
        )


def _identity(arm: Mapping[str, Any]) -> str:
    found = arm["identical"]
    return "" if not found else f"; {found['equal']} of {found['prompts']} texts are plain decoding's, id by id"


def _replay(result: Result) -> Iterator[str]:
    kept = {name: arm for name, arm in result.arms.items() if arm["kept"]}
    answers = result.record["answers"]
    if not kept:
        return
    best = max(kept.values(), key=lambda arm: arm["kept"]["value"])
    enough = [arm for arm in kept.values() if arm["kept"]["low"] >= 0.95]
    smallest = min(enough, key=lambda arm: arm["k"], default=None)
    yield (
        f"{_model(result)}, {answers['answers']:,} answers: a subset of {best['k']:,} tokens keeps {_percent(best['kept'])} "
        "of the full vocabulary's acceptance length."
    )
    if smallest is not None and smallest["k"] < best["k"]:
        yield f"The smallest that surely keeps 95 % has {smallest['k']:,} tokens: {_percent(smallest['kept'])}."


def _profile(result: Result) -> Iterator[str]:
    for name, ratio in result.record["profile"]["ratios"].items():
        size = result.arms.get(name.partition("/")[2], {}).get("k")
        with_size = f" with {size:,} tokens" if size else ""
        yield (
            f"{_model(result)}: a cycle of EAGLE-2 takes {_times(ratio['cycle'])} FR-Spec's"
            f"{with_size}, the draft in it {_times(ratio['draft'])}."
        )


def _model(result: Result) -> str:
    """The model as people call it: of a path its last part."""
    return str(result.record["options"].get("model", "?")).rstrip("/").rpartition("/")[2]


def _times(found: Mapping[str, float]) -> str:
    return f"{found['value']:.2f}× ({found['low']:.2f}–{found['high']:.2f})"


def _percent(found: Mapping[str, float]) -> str:
    return f"{found['value']:.1%} ({found['low'] * 100:.1f}–{found['high'] * 100:.1f})"
