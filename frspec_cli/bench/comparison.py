"""How methods compare over the same prompts: ratios with intervals, the null, and how much the texts repeat themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from frspec_cli.answers.repetition import repeated_4grams
from frspec_cli.bench.measure import Measurement
from frspec_cli.decoding.generation import Generation
from frspec_cli.statistics import speedup

Runs = Sequence[Sequence[Generation]]
"""Of one arm, each prompt's texts, run by run."""


def by_arm(measured: Mapping[int, Sequence[Sequence[Measurement]]], arms: Sequence[str]) -> dict[str, Runs]:
    """The texts of every arm. measured: by the prompt's index, of each run a measurement of every arm."""
    found = [[{each.arm: each.generation for each in run} for run in runs] for runs in measured.values()]
    return {name: [[run[name] for run in runs] for runs in found] for name in arms}


def speedups(texts: Mapping[str, Runs], arm: str, base: str | None, *, seed: int) -> dict[str, Any]:
    """`speedup` and `decode_speedup` against the plain arm `base`, and `over_eagle` (total time) if EAGLE-2 ran too.

    Each with a 95 % interval by bootstrap over prompts and their runs; None without that arm.
    """
    over_eagle = None
    if arm.startswith("frspec") and "eagle" in texts:
        over_eagle = ratio(texts[arm], texts["eagle"], seed=seed)
    if base is None:
        return {"speedup": None, "decode_speedup": None, "over_eagle": over_eagle}
    decode = decode_ratio(texts[arm], texts[base], seed=seed)
    return {
        "speedup": {**ratio(texts[arm], texts[base], seed=seed), "against": base},
        "decode_speedup": decode and {**decode, "against": base},
        "over_eagle": over_eagle,
    }


def ratio(texts: Runs, base: Runs, *, seed: int) -> dict[str, float]:
    """Tokens per second over the base's, prefill included."""
    return speedup(*_tokens_and_seconds(texts), *_tokens_and_seconds(base), seed=seed)


def decode_ratio(texts: Runs, base: Runs, *, seed: int) -> dict[str, float] | None:
    """The same of the tokens after each text's first and the time after its prefill, where every run of both has such
    tokens; None if none has."""
    pairs = [
        (ours, theirs)
        for ours, theirs in zip(texts, base, strict=True)
        if min(text.new_tokens for text in chain(ours, theirs)) > 1
    ]
    if not pairs:
        return None
    ours, theirs = zip(*pairs, strict=True)
    return speedup(*_decoded(ours), *_decoded(theirs), seed=seed)


def null_figures(arm: str, texts: Runs, again: Runs, *, seed: int) -> dict[str, Any]:
    """The arm against itself, measured once more each time: any ratio but 1 is the machine's doing.

    contains_one: whether the interval does; where it does not, differences of that size mean nothing in this run.
    """
    found = ratio(again, texts, seed=seed)
    return {"arm": arm, "ratio": found, "contains_one": found["low"] <= 1.0 <= found["high"]}


def repetition(texts: Runs, sources: Sequence[str]) -> dict[str, Any]:
    """The share of 4-grams seen before in the same text: of `all` prompts' first runs, and by category."""
    ids = [runs[0].token_ids for runs in texts]
    categories = {
        name: repeated_4grams(text for text, source in zip(ids, sources, strict=True) if source == name)
        for name in sorted(set(sources))
    }
    return {"all": repeated_4grams(ids), "categories": categories}


def total_seconds(texts: Runs) -> float:
    """Seconds of all texts together."""
    return sum(text.seconds["total"] for text in chain(*texts))


def _tokens_and_seconds(texts: Runs) -> tuple[list[list[float]], list[list[float]]]:
    tokens: list[list[float]] = [[text.new_tokens for text in runs] for runs in texts]
    return tokens, [[text.seconds["total"] for text in runs] for runs in texts]


def _decoded(texts: Runs) -> tuple[list[list[float]], list[list[float]]]:
    tokens: list[list[float]] = [[text.new_tokens - 1 for text in runs] for runs in texts]
    return tokens, [[text.seconds["total"] - text.seconds["prefill"] for text in runs] for runs in texts]
