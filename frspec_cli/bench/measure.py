"""Methods measured side by side: the same prompts, interleaved in one run, tokens counted one way, identity checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from frspec_cli.answers.prompts import Prompt
from frspec_cli.decoding.cache import cache_length
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.generation import Generation
from frspec_cli.models.target import Target

WARM_UP_TOKENS = 8
WARM_UP_STEPS = 4
"""The prefill and three cycles: a CUDA graph is recorded in the second."""


class Decoder(Protocol):
    """What can be measured: an engine, or the baseline."""

    def complete(self, prompt_ids: Sequence[int], *, max_new_tokens: int, ignore_eos: bool = False) -> Generation:
        """Decodes one text greedily."""


@dataclass(frozen=True)
class Arm:
    """One method under its name in the tables (`ar`, `eagle`, `frspec`, `frspec@4096`...); k: tokens it can draft."""

    name: str
    decoder: Decoder
    k: int = 0


@dataclass(frozen=True)
class Measurement:
    """One prompt decoded by one arm."""

    arm: str
    prompt: Prompt
    prompt_ids: list[int]
    generation: Generation


@dataclass
class Totals:
    """An arm's sums over its prompts. seconds: total, prefill, draft, verify, other."""

    name: str
    k: int
    new_tokens: int = 0
    cycles: int = 0
    accepted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, generation: Generation) -> None:
        """Adds one text."""
        self.new_tokens += generation.new_tokens
        self.cycles += generation.cycles
        self.accepted += sum(generation.accepted)
        for name, value in generation.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    @property
    def acceptance_length(self) -> float:
        """Mean of (accepted + 1) over all cycles; 1.0 for plain decoding."""
        return (self.accepted + self.cycles) / self.cycles if self.cycles else 1.0

    @property
    def tokens_per_second(self) -> float:
        """All new tokens over all seconds, prefill included."""
        return self.new_tokens / self.seconds["total"]

    @property
    def draft_seconds_per_cycle(self) -> float:
        """Seconds in the drafter per cycle, the prompt's pass not counted."""
        return self.seconds["draft"] / self.cycles if self.cycles else 0.0

    def share(self, name: str) -> float:
        """The share of the total time that went into `name`."""
        return self.seconds[name] / self.seconds["total"]


def warm_up(decoder: Decoder, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> None:
    """Decodes a little, unmeasured. A compiled engine does so at every cache length that these prompts (as token ids)
    call for: it compiles for each, which no measurement may contain.
    """
    if not isinstance(decoder, Engine):
        decoder.complete(prompts[0], max_new_tokens=WARM_UP_TOKENS, ignore_eos=True)
        return
    lengths: dict[int, Sequence[int]] = {}
    for ids in prompts if decoder.compiled else prompts[:1]:
        lengths.setdefault(cache_length(len(ids) + max_new_tokens + decoder.drafter.nodes), ids)
    for ids in lengths.values():
        steps = decoder.generate(ids, max_new_tokens=max_new_tokens, ignore_eos=True)
        for _ in zip(range(WARM_UP_STEPS), steps, strict=False):
            pass


def run(
    target: Target,
    arms: Sequence[Arm],
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    ignore_eos: bool = False,
) -> Iterator[Measurement]:
    """Decodes every prompt greedily with every arm; yields in the order run.

    The arms take turns within each prompt, and who begins moves on from prompt to prompt, so that a drift of the
    machine's speed hits all alike. Before counting starts each arm is warmed up.
    """
    ids = [target.prompt_ids(prompt.text) for prompt in prompts]
    for arm in arms:
        warm_up(arm.decoder, ids, max_new_tokens=max_new_tokens)
    for number, prompt in enumerate(prompts):
        for turn in range(len(arms)):
            arm = arms[(number + turn) % len(arms)]
            generation = arm.decoder.complete(ids[number], max_new_tokens=max_new_tokens, ignore_eos=ignore_eos)
            yield Measurement(arm.name, prompt, ids[number], generation)
