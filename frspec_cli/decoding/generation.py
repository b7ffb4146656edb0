"""What decoding yields: a `Cycle` per step, folded into a `Generation`, and where the time went."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Cycle:
    """What one step yields.

    tokens: ids emitted, after truncation at EOS or the limit. accepted: drafted tokens accepted (before truncation).
    drafted: tokens that were proposed. truncated: emitted ids that were cut off. prefill: whether this is the first step,
    whose one token comes from the prompt's own pass and counts in no acceptance length.
    """

    tokens: list[int]
    accepted: int
    drafted: int
    truncated: int = 0
    prefill: bool = False


@dataclass
class Generation:
    """A whole text, folded from its cycles. seconds: prefill, draft, verify, other and total."""

    token_ids: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    truncated: int = 0
    prompt_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, cycle: Cycle) -> None:
        """Folds one more step in."""
        self.token_ids.extend(cycle.tokens)
        self.truncated += cycle.truncated
        if not cycle.prefill:
            self.accepted.append(cycle.accepted)

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
        """Mean of (accepted + 1) over the cycles, before truncation; 1.0 where nothing was drafted."""
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
    """Where the time of a generation goes, without waiting for the device: CUDA events there, the clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.laps: list[tuple[str, Any, Any]] = []
        self.begun = time.perf_counter()
        self.last = self._now()

    def lap(self, name: str) -> None:
        """Books the time since the last lap to `name`."""
        now = self._now()
        self.laps.append((name, self.last, now))
        self.last = now

    def seconds(self) -> dict[str, float]:
        """Seconds by name, `other` the rest, and `total`."""
        if self.cuda:
            torch.cuda.synchronize()
        total = time.perf_counter() - self.begun
        booked = {"prefill": 0.0, "draft": 0.0, "verify": 0.0}
        for name, start, end in self.laps:
            booked[name] += start.elapsed_time(end) / 1000 if self.cuda else end - start
        return {"total": total, **booked, "other": max(0.0, total - sum(booked.values()))}

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
