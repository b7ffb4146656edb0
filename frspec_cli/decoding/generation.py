"""What decoding yields: a `Cycle` per step, folded into a `Generation`, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Where the time of a text went.

    seconds: of prefill, draft, verify, other and total.
    draft: seconds of the draft in each cycle.
    """

    seconds: dict[str, float]
    draft: list[float]


@dataclass(frozen=True)
class Cycle:
    """What one step yields.

    tokens: ids emitted, after truncation at the end of the text or the limit.
    accepted: drafted tokens accepted, before truncation.
    drafted: tokens that were proposed.
    truncated: emitted ids that were cut off.
    prefill: whether this is the first step, whose one token comes from the prompt's own pass and counts in no acceptance
        length.
    text: the text that these tokens complete; '' if the engine was given no `TextStream`.
    scores: [N, V], what the target maximised at each of the step's N nodes.
    timing: of the whole text, with its last step; None before.
    """

    tokens: list[int]
    accepted: int
    drafted: int
    truncated: int = 0
    prefill: bool = False
    text: str = ""
    scores: torch.Tensor | None = field(default=None, repr=False, compare=False)
    timing: Timing | None = field(default=None, compare=False)


@dataclass
class Generation:
    """A whole text, folded from its cycles.

    token_ids: emitted ids, an end-of-sequence id included.
    accepted: accepted drafts of each cycle.
    truncated: ids that were cut off at the end.
    prompt_tokens: number of the prompt's ids.
    text: as the engine's `TextStream` decoded it; '' without one.
    seconds: of prefill, draft, verify, other and total.
    draft_seconds: of the draft in each cycle.
    """

    token_ids: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    truncated: int = 0
    prompt_tokens: int = 0
    text: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    draft_seconds: list[float] = field(default_factory=list)

    @staticmethod
    def of(cycles: Iterable[Cycle], *, prompt_tokens: int) -> Generation:
        """Folds a text's cycles, run to the end."""
        generation = Generation(prompt_tokens=prompt_tokens)
        for cycle in cycles:
            generation.add(cycle)
        return generation

    def add(self, cycle: Cycle) -> None:
        """Folds one more step in."""
        self.token_ids.extend(cycle.tokens)
        self.truncated += cycle.truncated
        self.text += cycle.text
        if not cycle.prefill:
            self.accepted.append(cycle.accepted)
        if cycle.timing is not None:
            self.seconds, self.draft_seconds = cycle.timing.seconds, cycle.timing.draft

    @property
    def new_tokens(self) -> int:
        """Emitted tokens, an EOS included."""
        return len(self.token_ids)

    @property
    def cycles(self) -> int:
        """Verifications, the prefill not counted."""
        return len(self.accepted)

    @property
    def acceptance_length(self) -> float:
        """Mean of (accepted + 1) over the cycles, before truncation; 1.0 if nothing was drafted."""
        return (sum(self.accepted) + self.cycles) / self.cycles if self.cycles else 1.0

    @property
    def tokens_per_second(self) -> float:
        """New tokens over total seconds, prefill included (the papers' way)."""
        return self.new_tokens / self.seconds["total"]

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first over the seconds after the prefill."""
        after = self.seconds["total"] - self.seconds["prefill"]
        return (self.new_tokens - 1) / after if self.new_tokens > 1 else 0.0


class Stopwatch:
    """Where the time of a text goes, without waiting for the device: CUDA events there, the clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"
        self.laps: list[tuple[str, Any, Any]] = []
        self.cycles: list[int] = []  # how many laps there were when each began
        self.begun = time.perf_counter()
        self.last = self._now()

    def begin_cycle(self) -> None:
        """Starts a lap: what the caller did since the last one is booked to nothing."""
        self.cycles.append(len(self.laps))
        self.last = self._now()

    def lap(self, name: str) -> None:
        """Books the time since the last lap to `name`."""
        now = self._now()
        self.laps.append((name, self.last, now))
        self.last = now

    def timing(self) -> Timing:
        """Seconds by name, `other` the rest, and `total`. Waits for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)
        total = time.perf_counter() - self.begun
        laps = [(name, start.elapsed_time(end) / 1000 if self.cuda else end - start) for name, start, end in self.laps]
        booked = {"prefill": 0.0, "draft": 0.0, "verify": 0.0}
        for name, seconds in laps:
            booked[name] += seconds
        rest = max(0.0, total - sum(booked.values()))
        draft = [
            sum(seconds for name, seconds in laps[begin:end] if name == "draft")
            for begin, end in pairwise([*self.cycles, len(laps)])
        ]
        return Timing({"total": total, **booked, "other": rest}, draft)

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event
