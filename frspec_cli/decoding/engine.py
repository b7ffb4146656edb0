"""The engine: one loop for plain decoding, EAGLE-2, FR-Spec and lookup, so that they differ in nothing but the drafter.

A cycle drafts a tree, runs the target once over its nodes, walks the tree and keeps the accepted rows. Shapes are fixed
for a whole text, and the host reads from the device once a cycle: how many tokens were accepted, and which.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from frspec_cli.decoding.attention import TargetMasks, use_kernel
from frspec_cli.decoding.cache import SlotBuffer, cache_length
from frspec_cli.decoding.drafters import Drafter, NoDrafter
from frspec_cli.decoding.sampling import GumbelNoise, Sampling
from frspec_cli.decoding.text import StopStrings
from frspec_cli.decoding.walk import scores, walk
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import Target

PREFILL_ROWS = 512
"""Rows of the prompt that run in one pass; their masks are PREFILL_ROWS x length."""


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


class Engine:
    """Decodes texts of one target with one drafter, at batch size 1.

    `generate` yields a `Cycle` per step; `complete` folds them into a `Generation`. After each step `scores` [N, V] is
    what the target maximised at the step's nodes.
    """

    scores: torch.Tensor

    def __init__(self, target: Target, drafter: Drafter | None = None) -> None:
        self.target = target
        self.drafter = drafter or NoDrafter()
        self.device = target.device
        self.hidden = (*self.drafter.taps, -1)
        self.buffer: SlotBuffer | None = None
        use_kernel(target.model)

    def complete(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        ignore_eos: bool = False,
        stop: StopStrings | None = None,
    ) -> Generation:
        """Runs `generate` to its end. Raises as it does."""
        generation = Generation(prompt_tokens=len(prompt_ids))
        for cycle in self.generate(
            prompt_ids, max_new_tokens=max_new_tokens, sampling=sampling, ignore_eos=ignore_eos, stop=stop
        ):
            generation.add(cycle)
        generation.seconds = self.stopwatch.seconds()
        emitted = 1 + sum(generation.accepted) + generation.cycles - generation.truncated
        assert generation.new_tokens == emitted, (generation.new_tokens, emitted)
        return generation

    @torch.inference_mode()
    def generate(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        ignore_eos: bool = False,
        stop: StopStrings | None = None,
    ) -> Iterator[Cycle]:
        """Yields the prefill's token, then each cycle's tokens, up to EOS, a stop string or `max_new_tokens`.

        The ids do not depend on the drafter (up to near ties of the target's logits in reduced precision). Raises
        `FrspecError` when the prompt is empty, holds ids that the target lacks, or does not fit into its context.
        """
        ends = set() if ignore_eos else set(self.target.eos_ids)
        self._check(prompt_ids, max_new_tokens)
        self.stopwatch = Stopwatch(self.device)
        token = self._prefill(prompt_ids, max_new_tokens, sampling or Sampling())
        self.stopwatch.lap("prefill")
        yield Cycle([token], accepted=0, drafted=0, prefill=True)
        produced = 1
        if stop is not None:
            stop.keep([token])
        ended = token in ends or (stop is not None and stop.found)
        while produced < max_new_tokens and not ended:
            emitted, accepted = self._cycle()
            kept = _truncate(emitted, ends, max_new_tokens - produced)
            if stop is not None:
                kept = kept[: stop.keep(kept)]
            ended = kept[-1] in ends or (stop is not None and stop.found)
            produced += len(kept)
            yield Cycle(kept, accepted, self.drafter.nodes - 1, truncated=len(emitted) - len(kept))

    def _check(self, prompt_ids: Sequence[int], max_new_tokens: int) -> None:
        if not prompt_ids:
            raise FrspecError("the prompt has no tokens.", hint="Give some text to go on from.")
        if max_new_tokens < 1:
            raise FrspecError(f"--max-new-tokens {max_new_tokens} is less than 1.")
        if max(prompt_ids) >= self.target.rows or min(prompt_ids) < 0:
            raise FrspecError(
                f"the prompt holds token id {max(prompt_ids)}, but the model has {self.target.rows} rows."
            )
        context = self.target.config.max_position_embeddings
        if len(prompt_ids) + max_new_tokens > context:
            raise FrspecError(
                f"{len(prompt_ids)} prompt tokens and {max_new_tokens} new ones do not fit into the model's context of "
                f"{context}.",
                hint="Shorten the prompt or lower --max-new-tokens.",
            )

    def _prefill(self, prompt_ids: Sequence[int], max_new_tokens: int, sampling: Sampling) -> int:
        """Runs the prompt through target and drafter; returns the first new token."""
        self._allocate(len(prompt_ids) + max_new_tokens + self.drafter.nodes)
        self.warpers = [] if sampling.greedy else sampling.warpers()
        self.noise = None if sampling.greedy else GumbelNoise(sampling.seed, self.target.rows, self.device)
        prompt = torch.tensor(prompt_ids, dtype=torch.int64, device=self.device)
        self.drafter.know(prompt_ids)
        for begin in range(0, len(prompt), PREFILL_ROWS):
            chunk = prompt[begin : begin + PREFILL_ROWS]
            rows = torch.arange(begin, begin + len(chunk), device=self.device)
            logits, states = self._forward(chunk, rows, rows, rows[:, None] >= rows[None, :], keep=1)
            token = self._choose(logits, torch.zeros_like(rows[:1]), len(prompt), count=1)
            following = torch.cat((prompt[begin + 1 : begin + 1 + len(chunk)], token))[: len(chunk)]
            self._observe(following, states)
            self.count.add_(len(chunk))
        self.root = token
        self.valid.fill_((len(prompt) - 1) % PREFILL_ROWS + 1)
        self.committed = len(prompt)
        first = int(token.item())
        self.drafter.know([first])
        return first

    def _allocate(self, tokens: int) -> None:
        length = cache_length(tokens)
        if self.buffer is None or self.buffer.length != length:
            config, dtype = self.target.config, self.target.dtype
            self.buffer = SlotBuffer.for_model(config, length=length, dtype=dtype, device=self.device)
            self.cache = self.buffer.as_cache()
            self.masks = TargetMasks(config, length=length, dtype=dtype, device=self.device)
        self.count = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.valid = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.offsets = torch.arange(max(self.drafter.nodes, self.drafter.depth + 1), device=self.device)
        self.drafter.begin(length=length, start=self.count)

    def _cycle(self) -> tuple[list[int], int]:
        """One cycle: (emitted ids, accepted drafts)."""
        tree = self.drafter.draft(self.root, self.count, self.valid)
        self.stopwatch.lap("draft")
        rows = self.count + self.offsets[: tree.nodes]
        logits, states = self._forward(tree.tokens, self.count + tree.levels, rows, tree.ancestors)
        chosen = self._choose(logits, tree.levels, self.committed + 1, count=self.drafter.depth + 1)
        step = walk(tree, chosen, self.drafter.depth)
        path = step.path
        assert self.buffer is not None
        if tree.nodes > 1:
            self.buffer.move(self.count + path, self.count + self.offsets[: len(path)])
        outcome = torch.cat((step.accepted[None], step.emitted)).tolist()  # the one host sync of a cycle
        accepted, emitted = outcome[0], outcome[1 : outcome[0] + 2]
        self.stopwatch.lap("verify")
        self._observe(step.emitted, tuple(state[path] for state in states))
        self.valid = step.accepted[None] + 1
        self.root = step.emitted.index_select(0, step.accepted[None])
        self.count.add_(self.valid)
        self.committed += accepted + 1
        self.drafter.know(emitted)
        self.stopwatch.lap("draft")
        return emitted, accepted

    def _forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        among: torch.Tensor,
        *,
        keep: int = 0,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The target over T new rows: (logits [T or keep, V], hidden states [T, H] of each tap and the post-norm last)."""
        assert self.buffer is not None
        self.buffer.slots = slots
        out = self.target.model(
            input_ids=tokens[None],
            position_ids=positions[None],
            attention_mask=self.masks(slots, positions, among),
            past_key_values=self.cache,
            use_cache=True,
            output_hidden_states=list(self.hidden),
            logits_to_keep=keep,
        )
        return out.logits[0], tuple(out.hidden_states[index][0] for index in self.hidden)

    def _choose(self, logits: torch.Tensor, levels: torch.Tensor, position: int, *, count: int) -> torch.Tensor:
        """The target's next token after each row; the token after a row of level 0 stands at absolute `position`."""
        noise = None
        if self.noise is not None:
            for warper in self.warpers:
                logits = warper(None, logits)
            noise = self.noise.rows(position, count)
        self.scores = scores(logits, noise, levels)
        return self.scores.argmax(dim=-1)

    def _observe(self, tokens: torch.Tensor, states: tuple[torch.Tensor, ...]) -> None:
        self.drafter.observe(tokens, states[-1], states[:-1])


def _truncate(emitted: list[int], ends: set[int], room: int) -> list[int]:
    """The ids up to the first that ends the text (it included), at most `room` of them."""
    for index, token in enumerate(emitted[:room]):
        if token in ends:
            return emitted[: index + 1]
    return emitted[:room]
