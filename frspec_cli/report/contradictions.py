"""Whether a result agrees with itself: its summary is computed again from its rows, and what cannot be is refused.

A result that was edited or put together by hand is shown only if its numbers follow from each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

_ROUNDED = 5e-3
"""Seconds are written with six digits after the point: a short text's speed may be off by as much, relatively."""
_EXACT = 1e-6

Record = Mapping[str, Any]


def contradictions(kind: str, record: Record) -> Iterator[str]:
    """Sentences on what does not fit together, without the file; none for a result that a command wrote."""
    yield from _intervals("", record)
    yield from _OF_KIND[kind](record)


def _bench(record: Record) -> Iterator[str]:
    depth = _depth(record["options"])
    for number, text in enumerate(record["prompts"], start=1):
        yield from _text(text, f"row {number} of prompts", depth)
    names = _arms(record["summary"])
    yield from _rows(record["prompts"], names)
    plain = _by_prompt(record["prompts"], "ar")
    for name in names:
        texts = [text for text in record["prompts"] if text["method"] == name]
        if texts:
            yield from _speeds(name, record["summary"][name], texts)
            yield from _identity(name, record["summary"][name]["identical"], _by_prompt(texts, name), plain)
    yield from _speedups(record["summary"], names)


def _text(text: Record, where: str, depth: int | None) -> Iterator[str]:
    accepted, seconds = text["accepted"], text["seconds"]
    if len(accepted) != text["cycles"]:
        yield f"{where} has {text['cycles']:,} cycles and {len(accepted):,} accepted counts"
    if depth is not None and max(accepted, default=0) > depth:
        yield f"{where} has a cycle that accepted {max(accepted)} tokens from trees of depth {depth}"
    most = 1 + len(accepted) + sum(accepted)
    if accepted and len(text["token_ids"]) > most:
        yield f"{where} has {len(text['token_ids']):,} tokens, and its cycles give {most:,} at most"
    if min(seconds.values(), default=0.0) < 0 or seconds.get("prefill", 0.0) > seconds.get("total", float("inf")):
        yield f"{where} has seconds below zero, or a prefill of more than the total"


def _rows(texts: list[Record], names: list[str]) -> Iterator[str]:
    counts = Counter(text["method"] for text in texts)
    for name in names:
        if counts[name] != max(counts.values(), default=0):
            yield f"{name} has {counts[name]:,} rows under prompts where another method has {max(counts.values()):,}"
    if strange := sorted(counts.keys() - set(names)):
        yield f"prompts has rows of {strange[0]}, of which summary says nothing"


def _speeds(name: str, arm: Record, texts: list[Record]) -> Iterator[str]:
    tokens, cycles = sum(len(text["token_ids"]) for text in texts), sum(text["cycles"] for text in texts)
    accepted = sum(sum(text["accepted"]) for text in texts)
    total, prefill = (sum(text["seconds"].get(part, 0.0) for text in texts) for part in ("total", "prefill"))
    length = 1 + accepted / cycles if cycles else 1.0
    yield from _differs(f"summary.{name}.acceptance_length", arm["acceptance_length"], length, _EXACT)
    if total > 0:
        yield from _differs(f"summary.{name}.tokens_per_second", arm["tokens_per_second"], tokens / total, _ROUNDED)
    if total > prefill:
        speed = (tokens - len(texts)) / (total - prefill)
        yield from _differs(
            f"summary.{name}.decode_tokens_per_second", arm["decode_tokens_per_second"], speed, _ROUNDED
        )


def _identity(name: str, said: Record | None, texts: Record, plain: Record) -> Iterator[str]:
    if said is None or not plain or not {"prompts", "equal"} <= said.keys():
        return
    equal = sum(texts[key]["token_ids"] == plain[key]["token_ids"] for key in texts if key in plain)
    if (said["prompts"], said["equal"]) != (len(texts), equal):
        yield (
            f"summary.{name}.identical says {said['equal']} of {said['prompts']} texts, and the token ids of {equal} of "
            f"{len(texts)} are plain decoding's"
        )


def _speedups(summary: Record, names: list[str]) -> Iterator[str]:
    for name in names:
        found = summary[name]["speedup"]
        base = summary.get(found.get("against", "")) if found else None
        if base is not None and base["tokens_per_second"] > 0:
            speed = summary[name]["tokens_per_second"] / base["tokens_per_second"]
            yield from _differs(f"summary.{name}.speedup", found["value"], speed, _ROUNDED)


def _replay(record: Record) -> Iterator[str]:
    answers, names = record["answers"].get("answers"), _arms(record["summary"])
    for name in names:
        arm, where = record["summary"][name], f"summary.{name}"
        rows = [row for row in record["prompts"] if row["method"] == name]
        cycles, accepted = sum(len(row["accepted"]) for row in rows), sum(sum(row["accepted"]) for row in rows)
        if answers is not None and len(rows) != answers:
            yield f"{name} has {len(rows):,} rows under prompts of {answers:,} answers"
        if arm["cycles"] != cycles:
            yield f"{where} has {arm['cycles']:,} cycles, and its rows have {cycles:,}"
        if arm["interval"] is not None and cycles:
            yield from _differs(f"{where}.interval", arm["interval"]["value"], 1 + accepted / cycles, _EXACT)
        if sum(arm["misses"].values()) != arm["cycles"]:
            yield f"{where} has {arm['cycles']:,} cycles, and reasons for {sum(arm['misses'].values()):,}"
        if "miss_shares" in arm:
            yield from _whole(f"{where}.miss_shares", arm["miss_shares"].values())
        deepest = max((max(row["accepted"], default=0) for row in rows), default=0)
        if arm.get("depth") is not None and deepest > arm["depth"]:
            yield f"{where} has trees of depth {arm['depth']}, and a cycle accepted {deepest} tokens"
        if any(low["cycles"] < high["cycles"] for low, high in pairwise(arm["depths"])):
            yield f"{where}.depths has more cycles at a depth than above it"
        for group in ("categories", "languages"):
            if arm[group] and sum(each["cycles"] for each in arm[group].values()) != arm["cycles"]:
                yield f"{where} has {arm['cycles']:,} cycles, and its {group} have another sum"


def _profile(record: Record) -> Iterator[str]:
    depth = _depth(record["options"])
    for name, arm in record["profile"]["methods"].items():
        yield from _whole(f"profile.methods.{name}.shares", arm["shares"].values())
        if depth is not None and not 1 <= arm["acceptance_length"] <= depth + 1:
            yield (
                f"profile.methods.{name} has an acceptance length of {arm['acceptance_length']:.2f} from trees of depth "
                f"{depth}: it is from 1 to {depth + 1}"
            )


def _coverage(record: Record) -> Iterator[str]:
    tokens: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(record["rows"], start=1):
        where = f"row {number} of rows"
        if not 0 <= row["low"] <= row["coverage"] <= row["high"] <= 1:
            yield f"{where} has a coverage of {row['coverage']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
        text = (row["on"], row["source"], row["script"])
        if tokens.setdefault(text, row["tokens"]) != row["tokens"]:
            yield f"{where} counts {row['tokens']:,} tokens where another of the same text counts {tokens[text]:,}"


def _tune(record: Record) -> Iterator[str]:
    for number, way in enumerate(record["ways"], start=1):
        where = f"way {number}"
        if way["depth"] is not None and way["acceptance_length"] > way["depth"] + 1:
            yield f"{where} has an acceptance length of {way['acceptance_length']:.2f} from trees of depth {way['depth']}"
        if way["step_ms"] > 0:
            rate = 1000 * way["acceptance_length"] / way["step_ms"]
            yield from _differs(f"ways.{number - 1}.predicted", way["predicted"], rate, _ROUNDED)


_OF_KIND: dict[str, Callable[[Record], Iterator[str]]] = {
    "bench": _bench,
    "replay": _replay,
    "profile": _profile,
    "coverage": _coverage,
    "tune": _tune,
}


def _arms(summary: Record) -> list[str]:
    """The arms; the first of several sizes is not named a second time."""
    several = any(name.startswith("frspec@") for name in summary)
    return [name for name in summary if not (several and name == "frspec")]


def _by_prompt(texts: Iterable[Record], method: str) -> dict[Any, Record]:
    """The rows of a method by prompt and run; a suite may hold an id twice, so the place among its equals counts too."""
    found: dict[Any, Record] = {}
    seen: Counter[Any] = Counter()
    for text in texts:
        if text["method"] == method:
            key = (text.get("id"), text.get("run"))
            found[(*key, seen[key])] = text
            seen[key] += 1
    return found


def _depth(options: Record) -> int | None:
    """Levels of the deepest tree that the options name; None if they name none."""
    own = options.get("own_trees") or {}
    depths = [int(str(tree).split(",")[0]) for tree in own.values()] if isinstance(own, Mapping) else []
    depths += [options["depth"]] if isinstance(options.get("depth"), int) else []
    return max(depths, default=None)


def _differs(where: str, said: float, follows: float, tolerance: float) -> Iterator[str]:
    if abs(said - follows) > tolerance * max(abs(follows), 1e-9):
        yield f"{where} is {said:,.4g}, and {follows:,.4g} follows from the rest"


def _whole(where: str, shares: Iterable[float]) -> Iterator[str]:
    shares = list(shares)
    if any(shares) and abs(sum(shares) - 1) > _EXACT:
        yield f"{where} add up to {sum(shares):.4g}, not to 1"


def _intervals(where: str, value: Any) -> Iterator[str]:
    """Every interval in the result: its ends are in order."""
    if isinstance(value, Mapping):
        if {"value", "low", "high"} <= value.keys() and value["low"] > value["high"]:
            yield f"{where} is an interval from {value['low']:.4g} to {value['high']:.4g}"
        for name, each in value.items():
            if isinstance(each, Mapping):
                yield from _intervals(f"{where}.{name}".lstrip("."), each)
