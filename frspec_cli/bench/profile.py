"""Where the time of one cycle goes, for every method at the same tree.

Two passes over the same prompts, methods interleaved in both. The first times the methods as they are: the clock is read
between cycles, and the engine's own stopwatch tells the draft's part; it waits for the device nowhere. The second times
the parts inside a cycle, in engines of its own: on a GPU it waits for the device at each part's ends, so its shares are
those of the work, and its total is not the method's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from frspec_cli.bench.measure import Arm, warm_up
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.generation import Generation, Stopwatch
from frspec_cli.statistics import median, median_ratio

TARGET, LAYER, LM_HEAD, TREE, REST = "target", "draft layer", "draft LM head", "tree operations", "rest"
PARTS = (TARGET, LAYER, LM_HEAD, TREE, REST)
"""LM head: with its log-softmax. Tree operations: what else drafting does (top-k, growth, rerank). Rest: choosing,
walking, moving rows, the read by the host."""

MOST_ROUNDS_INSIDE = 8
"""How many prompts the second pass takes: shares need fewer than ratios."""


@dataclass
class Times:
    """One method's seconds, by round and cycle. inside: of each part, from the second pass."""

    cycle: list[list[float]] = field(default_factory=list)
    draft: list[list[float]] = field(default_factory=list)
    inside: dict[str, list[list[float]]] = field(default_factory=lambda: {part: [] for part in PARTS})
    accepted: int = 0

    def add(self, text: TimedText) -> None:
        """Adds one round of the first pass."""
        self.cycle.append(text.cycle)
        self.draft.append(text.draft)
        self.accepted += text.accepted


def profile(
    arms: Callable[[], Sequence[Arm]],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    seed: int,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Profiles the methods that `arms` makes (engines only) over prompts as token ids, one round each.

    Called twice, so that what the second pass instruments is never timed in the first. Returns plain JSON values:
    `methods` (times in ms, medians with 95 % intervals) and `ratios` of EAGLE-2's over FR-Spec's times.
    """
    timed = {arm.name: _engine(arm) for arm in arms()}
    names, found = list(timed), {name: Times() for name in timed}
    for engine in timed.values():
        warm_up(engine, prompts, max_new_tokens=max_new_tokens)
    for name, ids in _turns(names, prompts):
        found[name].add(time_text(timed[name], ids, max_new_tokens))
        done()
    inside = {arm.name: (engine := _engine(arm), Probe(engine)) for arm in arms()}
    for engine, _ in inside.values():
        warm_up(engine, prompts, max_new_tokens=max_new_tokens)
    for name, ids in _turns(names, prompts[:MOST_ROUNDS_INSIDE]):
        _time_inside(*inside[name], ids, max_new_tokens, found[name])
        done()
    return {
        "methods": {
            name: {"k": engine.drafter.k or None, **_figures(found[name], seed)} for name, engine in timed.items()
        },
        "ratios": _ratios(found, seed),
    }


def texts(methods: int, prompts: int) -> int:
    """How many texts `profile` decodes, that is how often it calls `done`."""
    return methods * (prompts + min(prompts, MOST_ROUNDS_INSIDE))


class Probe:
    """Wraps the parts of one engine's cycle; `take` hands out the seconds of each part since it was last called.

    A part's time is its own: what a part inside it took is booked there.
    """

    def __init__(self, engine: Engine) -> None:
        self._wait = torch.cuda.synchronize if engine.device.type == "cuda" else lambda: None
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._inner: list[float] = []
        self._wrap(engine, "_forward", TARGET)
        for method, part in (("propose", TREE), ("append_states", LAYER), ("_run", LAYER), ("_log_probs", LM_HEAD)):
            if hasattr(engine.drafter, method):
                self._wrap(engine.drafter, method, part)

    def take(self) -> dict[str, float]:
        """Seconds by part; `rest` is left to the caller, who knows the whole."""
        taken, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        return taken

    def _wrap(self, owner: Any, method: str, part: str) -> None:
        honest = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            self._wait()
            self._inner.append(0.0)
            begun = time.perf_counter()
            result = honest(*arguments, **named)
            self._wait()
            took = time.perf_counter() - begun
            self._seconds[part] += took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took
            return result

        setattr(owner, method, timed)


def _engine(arm: Arm) -> Engine:
    assert isinstance(arm.decoder, Engine), arm.name
    return arm.decoder


def _turns(names: Sequence[str], prompts: Sequence[Sequence[int]]) -> Iterator[tuple[str, Sequence[int]]]:
    """Every prompt with every method; who begins moves on from prompt to prompt."""
    for number, ids in enumerate(prompts):
        for turn in range(len(names)):
            yield names[(number + turn) % len(names)], ids


@dataclass(frozen=True)
class TimedText:
    """One text. cycle, draft: seconds of each cycle and of the draft in it, prefill left out. accepted: drafted tokens."""

    token_ids: list[int]
    cycle: list[float]
    draft: list[float]
    accepted: int


def time_text(engine: Engine, ids: Sequence[int], max_new_tokens: int) -> TimedText:
    """Decodes greedily, past EOS, and reads the clock between cycles: the engine runs as it always does."""
    generation = Generation()
    seconds: list[float] = []
    ends: list[int] = []
    last = 0.0
    for cycle in engine.generate(ids, max_new_tokens=max_new_tokens, ignore_eos=True):
        seconds.append(time.perf_counter() - last)
        generation.add(cycle)
        ends.append(len(engine.stopwatch.laps))
        last = time.perf_counter()
    draft = _draft_seconds(engine.stopwatch, ends)
    return TimedText(generation.token_ids, seconds[1:], draft, sum(generation.accepted))


def _draft_seconds(stopwatch: Stopwatch, ends: Sequence[int]) -> list[float]:
    """Of each cycle. ends: how many laps there were at its end, the prefill's first."""
    stopwatch.seconds()  # waits for the device, now that the text is done
    laps = [
        (start.elapsed_time(end) / 1000 if stopwatch.cuda else end - start) if name == "draft" else 0.0
        for name, start, end in stopwatch.laps
    ]
    return [sum(laps[begin:end]) for begin, end in pairwise(ends)]


def _time_inside(engine: Engine, probe: Probe, ids: Sequence[int], max_new_tokens: int, into: Times) -> None:
    """Seconds of each part in each cycle of one text."""
    rows: list[dict[str, float]] = []
    last = 0.0
    for cycle in engine.generate(ids, max_new_tokens=max_new_tokens, ignore_eos=True):
        whole, parts = time.perf_counter() - last, probe.take()
        if not cycle.prefill:
            rows.append(parts | {REST: whole - sum(parts.values())})
        last = time.perf_counter()
    for part in PARTS:
        into.inside[part].append([row[part] for row in rows])


def _figures(times: Times, seed: int) -> dict[str, Any]:
    parts = {part: sum(map(sum, rounds)) for part, rounds in times.inside.items()}
    whole = sum(parts.values())
    cycles = sum(map(len, times.cycle))
    return {
        "cycles": cycles,
        "acceptance_length": (times.accepted + cycles) / cycles,
        "cycle_ms": _ms(median(times.cycle, seed=seed)),
        "draft_ms": _ms(median(times.draft, seed=seed)),
        "parts_ms": {part: _ms(median(rounds, seed=seed)) for part, rounds in times.inside.items()},
        "shares": {part: seconds / whole for part, seconds in parts.items()},
    }


def _ratios(found: dict[str, Times], seed: int) -> dict[str, Any]:
    """EAGLE-2's time over FR-Spec's, for each subset size that ran: of the whole cycle, and of the draft in it."""
    if "eagle" not in found:
        return {}
    eagle = found["eagle"]
    return {
        f"eagle/{name}": {
            "cycle": median_ratio(eagle.cycle, times.cycle, seed=seed),
            "draft": median_ratio(eagle.draft, times.draft, seed=seed),
        }
        for name, times in found.items()
        if name.startswith("frspec")
    }


def _ms(figures: dict[str, float]) -> dict[str, float]:
    return {name: value * 1000 for name, value in figures.items()}
