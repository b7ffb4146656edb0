"""RESULTS.md: what was found beside what the FR-Spec paper published, what did not work, every table, every command.

Nothing in it is written by hand: a sentence or a verdict is computed from the results, or is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.paper import COVERED, HEAD_OF_DRAFT, MODELS, SPEEDS
from frspec_cli.report.headline import headlines
from frspec_cli.report.results import Result
from frspec_cli.report.tables import tables
from frspec_cli.report.text import as_markdown, commands_as_markdown
from frspec_cli.statistics import speedup

_HEAD = """# Results

Written by `make results` from data/results; not to be edited. Intervals are 95 %. The paper is FR-Spec (arXiv 2502.14856): its
figures are averages over seven tasks on an A800 or A100, with draft trees of 60 nodes (8B) and 30 (1B), and no intervals.
What was tried without success during development is in [docs/log.md](docs/log.md).
"""
Row = tuple[str, str, str, str]
"""What, the paper's figure, the one here, and how they compare."""


def results_page(results: Sequence[Result]) -> str:
    """The page as Markdown."""
    lines = [_HEAD]
    lines += [*(f"- {line}" for line in headlines(results)), ""]
    rows = [row for result in results for row in _claims(result)]
    if rows:
        lines += ["## Beside the paper", "", "| | paper | here | |", "|---|---:|---:|---|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += [""]
    failed = [line for result in results for line in _negative(result)]
    lines += ["## What did not work, or is not shown", "", *(f"- {line}" for line in failed), ""]
    if not failed:
        lines[-2:] = ["Nothing in these results.", ""]
    return "\n".join(lines) + "\n" + as_markdown(tables(results)) + "\n" + commands_as_markdown(results)


def _claims(result: Result) -> Iterator[Row]:
    match result.kind:
        case "replay":
            yield from _kept(result)
            yield from _by_corpus(result)
        case "bench":
            yield from _speeds(result)
        case "profile":
            yield from _head_share(result)
        case "coverage":
            yield from _covered(result)


def _kept(result: Result) -> Iterator[Row]:
    """The acceptance length that a subset keeps, by its share of the vocabulary; context slots are the paper's no part."""
    full = next((arm["k"] for arm in result.arms.values() if arm["method"] == "eagle"), None)
    first = result.record["options"].get("vocab")
    if full is None:
        return
    for arm in result.arms.values():
        share = _share(full, arm["k"])
        published = [found for model in MODELS if share and (found := model.kept(share))]
        if arm["kept"] and arm["vocab"] == first and not arm.get("context_slots") and published:
            low, high = min(published), max(published)
            here = arm["kept"]
            yield (
                f"{result.name}: acceptance kept with V/{share} (paper: 8B and 1B)",
                f"{low:.1%} to {high:.1%}",
                f"{here['value']:.1%} ({here['low']:.1%} to {here['high']:.1%})",
                _verdict(here, low, high),
            )


def _by_corpus(result: Result) -> Iterator[Row]:
    """Each other subset of a size against the first."""
    names = list(dict.fromkeys(arm["vocab"] for arm in result.arms.values() if arm["vocab"]))
    if len(names) < 3:  # the first, and two corpora to tell apart
        return
    one, two = names[1:3]
    by_size = {(arm["vocab"], arm["k"]): name for name, arm in result.arms.items() if not arm.get("context_slots")}
    for model in MODELS[:1]:
        ratios = [other / model.lengths[size] for size, other in model.other_lengths.items()]
    for size in dict.fromkeys(arm["k"] for arm in result.arms.values() if arm["vocab"]):
        found = _ratio(result, by_size.get((two, size)), by_size.get((one, size)))
        if found:
            yield (
                f"{result.name}: acceptance with counts of {_corpus(two)} over {_corpus(one)}, k = {size:,} (paper: ShareGPT "
                "over SlimPajama, 8B)",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                _spelled(found),
                _verdict(found, min(ratios), max(ratios)),
            )


def _speeds(result: Result) -> Iterator[Row]:
    hot = bool(result.record["options"].get("temperature"))
    published = {name: found for name, found in SPEEDS.items() if ("T = 1" in name) == hot}
    drafted = {name: arm for name, arm in result.arms.items() if name.startswith("frspec")}
    best = max(drafted.values(), key=lambda arm: arm["tokens_per_second"], default=None)
    if best is None:
        return
    temperature = f"T = {result.record['options'].get('temperature', 0):g}"
    sizes = ("V/2", "V/4", "V/8", "V/16")
    peaks = [max(found[size] for size in sizes if size in found) for found in published.values()]
    over = [peak / found["EAGLE-2"] for peak, found in zip(peaks, published.values(), strict=True)]
    plain = [peak / found["plain"] for peak, found in zip(peaks, published.values(), strict=True)]
    for what, figures, here in (
        ("EAGLE-2", over, best.get("over_eagle")),
        ("plain decoding", plain, best["speedup"]),
    ):
        if here:
            yield (
                f"{result.name}: FR-Spec (k = {best['k']:,}, the fastest) over {what}, {temperature}",
                _span(figures),
                _spelled(here),
                _verdict(here, min(figures), max(figures)),
            )


def _head_share(result: Result) -> Iterator[Row]:
    arm = result.arms.get("eagle")
    if arm is None:
        return
    name = next((part for part in arm["parts_ms"] if "LM head" in part), "")
    draft = arm["draft_ms"]["value"]
    if name and draft:
        share = arm["parts_ms"][name]["value"] / draft
        agrees = "agrees" if abs(share - HEAD_OF_DRAFT) < 0.1 else "higher" if share > HEAD_OF_DRAFT else "lower"
        yield (f"{result.name}: the LM head's share of EAGLE-2's draft", f"{HEAD_OF_DRAFT:.0%}", f"{share:.0%}", agrees)


def _covered(result: Result) -> Iterator[Row]:
    rows = [row for row in result.record["rows"] if row["source"] == row["script"] == "all"]
    full = result.record.get("vocabulary")
    for row in rows:
        if full and row["k"] == int(full * COVERED[0]) and row["subset"] == rows[0]["subset"]:
            here = {"value": row["coverage"], "low": row["low"], "high": row["high"]}
            yield (
                f"{result.name}: text covered by a quarter of the vocabulary",
                f"{COVERED[1]:.0%}",
                f"{here['value']:.1%}",
                _verdict(here, COVERED[1], COVERED[1]),
            )


def _negative(result: Result) -> Iterator[str]:
    if result.kind == "bench":
        yield from _slow(result)
    if result.kind == "replay":
        yield from _useless_slots(result)


def _slow(result: Result) -> Iterator[str]:
    for name, arm in result.arms.items():
        if arm["speedup"] and name != arm["speedup"]["against"] and arm["speedup"]["low"] <= 1:
            surely = "slower than" if arm["speedup"]["high"] < 1 else "not surely faster than"
            yield f"{result.name}: {name} is {surely} {arm['speedup']['against']}: {_spelled(arm['speedup'])}."
        same = arm["identical"]
        if same and same["equal"] < same["prompts"]:
            dtype = result.record["options"].get("dtype")
            yield (
                f"{result.name}: {name}'s ids equal plain decoding's in {same['equal']} of {same['prompts']} texts ({dtype}); "
                "frspec verify says which differences are ties."
            )
    null = result.record.get("null")
    if null and not null["contains_one"]:
        yield f"{result.name}: {null['arm']} against itself is {_spelled(null['ratio'])}: the machine was not quiet."


def _useless_slots(result: Result) -> Iterator[str]:
    """Context slots whose gain over none at the same size and subset is not sure."""
    bare = {(arm["vocab"], arm["k"]): name for name, arm in result.arms.items() if not arm.get("context_slots")}
    for name, arm in result.arms.items():
        if arm.get("context_slots"):
            found = _ratio(result, name, bare.get((arm["vocab"], arm["k"])))
            if found and found["low"] <= 1:
                yield (
                    f"{result.name}: {arm['context_slots']:,} context slots with k = {arm['k']:,} do not surely accept more "
                    f"than none: {_spelled(found)}."
                )


def _ratio(result: Result, one: str | None, other: str | None) -> dict[str, float] | None:
    """Acceptance length of an arm over another's, over the same answers; None without both."""
    if one is None or other is None:
        return None
    columns = []
    for name in (one, other):
        texts = [text for text in result.record["prompts"] if text["method"] == name]
        columns += [[len(t["accepted"]) + sum(t["accepted"]) for t in texts], [len(t["accepted"]) for t in texts]]
    used = [place for place in range(len(columns[0])) if columns[1][place] and columns[3][place]]
    tokens, cycles, base_tokens, base_cycles = ([column[place] for place in used] for column in columns)
    return speedup(tokens, cycles, base_tokens, base_cycles, seed=0) if used else None


def _share(vocabulary: int, k: int) -> int | None:
    """V/k where that is 2, 4, 8 or 16, by whole tokens."""
    return next((share for share in (2, 4, 8, 16) if vocabulary // share == k), None)


def _corpus(vocab: str) -> str:
    return vocab.rpartition("/")[2].removesuffix(".parquet").removeprefix("subset-")


def _verdict(here: Mapping[str, float], low: float, high: float) -> str:
    """Whether the interval meets what the paper's figures span."""
    if here["high"] < low:
        return "lower"
    return "higher" if here["low"] > high else "agrees"


def _span(figures: Sequence[float]) -> str:
    low, high = min(figures), max(figures)
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"


def _spelled(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
