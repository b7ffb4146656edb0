"""The engine: one loop for plain decoding, EAGLE-2, FR-Spec and lookup, so that they differ in nothing but the drafter.

A cycle drafts a tree, runs the target once over its nodes, walks the tree and keeps the accepted rows. Shapes are fixed
for a whole text, and the host reads from the device once a cycle: how many tokens were accepted, and which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from transformers.cache_utils import Cache

from frspec_cli.decoding.attention import TargetMasks, use_kernel
from frspec_cli.decoding.cache import SlotBuffer, cache_length
from frspec_cli.decoding.compiling import Compiler
from frspec_cli.decoding.drafters import Drafter, NoDrafter
from frspec_cli.decoding.generation import Cycle, Generation, Stopwatch
from frspec_cli.decoding.sampling import GumbelNoise, Sampling
from frspec_cli.decoding.text import StopStrings
from frspec_cli.decoding.tree import Tree
from frspec_cli.decoding.walk import best, scores, walk
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import Target

PREFILL_ROWS = 512
"""Rows of the prompt that run in one pass; their masks are PREFILL_ROWS x length."""


class Verified(NamedTuple):
    """What the target's step over a tree of N nodes and depth D yields.

    scores: [N, V], what the target maximised. path: int64 [D + 1], the accepted nodes, root first.
    outcome: int64 [D + 2], the number of accepted drafts, then the target's token after each node of the path.
    valid: int64 [1], accepted + 1. root: int64 [1], the last token that counts.
    states: [D + 1, H] each, the tapped hidden states of the path, the post-norm one last.
    """

    scores: torch.Tensor
    path: torch.Tensor
    outcome: torch.Tensor
    valid: torch.Tensor
    root: torch.Tensor
    states: tuple[torch.Tensor, ...]


class Workspace(NamedTuple):
    """The target's cache of one length, and what goes with it."""

    buffer: SlotBuffer
    cache: Cache
    masks: TargetMasks

    @staticmethod
    def of(target: Target, length: int) -> Workspace:
        buffer = SlotBuffer.for_model(target.config, length=length, dtype=target.dtype, device=target.device)
        masks = TargetMasks(target.config, length=length, dtype=target.dtype, device=target.device)
        return Workspace(buffer, buffer.as_cache(), masks)


class Engine:
    """Decodes texts of one target with one drafter, at batch size 1.

    `generate` yields a `Cycle` per step; `complete` folds them into a `Generation`. After each step `scores` [N, V] is
    what the target maximised at the step's nodes. compiler: compiles the target's step; None runs it as it is.
    """

    scores: torch.Tensor

    def __init__(self, target: Target, drafter: Drafter | None = None, *, compiler: Compiler | None = None) -> None:
        self.target = target
        self.drafter = drafter or NoDrafter()
        self.device = target.device
        self.hidden = (*self.drafter.taps, -1)
        self.offsets = torch.arange(max(self.drafter.nodes, self.drafter.depth + 1), device=self.device)
        self.rooms: dict[int, Workspace] = {}
        self.compiled = compiler is not None
        self.step = compiler(self.verify) if compiler is not None else self.verify
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
        self.drafter.append_tokens(prompt_ids)
        for begin in range(0, len(prompt), PREFILL_ROWS):
            chunk = prompt[begin : begin + PREFILL_ROWS]
            rows = torch.arange(begin, begin + len(chunk), device=self.device)
            # An index, not a count: of a strided row, the LM head's product would first copy the whole weight.
            last = torch.full_like(self.valid, len(chunk) - 1)
            logits, states = self._forward(chunk, rows, rows, rows[:, None] >= rows[None, :], keep=last)
            self.scores = self._scores(logits, torch.zeros_like(rows[:1]), self._noise(len(prompt), 1))
            token = best(self.scores)
            following = torch.cat((prompt[begin + 1 : begin + 1 + len(chunk)], token))[: len(chunk)]
            self._observe(following, states)
            self.count.add_(len(chunk))
        self.root = token
        self.valid.fill_((len(prompt) - 1) % PREFILL_ROWS + 1)
        self.committed = len(prompt)
        first = int(token.item())
        self.drafter.append_tokens([first])
        return first

    def _allocate(self, tokens: int) -> None:
        length = cache_length(tokens)
        if length not in self.rooms:
            if not self.compiled:  # a compiled step is bound to its buffer, so there each length keeps its own
                self.rooms.clear()
            self.rooms[length] = Workspace.of(self.target, length)
            if self.compiled:
                self.rooms[length].buffer.mark_static()
        self.buffer, self.cache, self.masks = self.rooms[length]
        self.count = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.valid = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.drafter.reset(length=length, start=self.count)

    def _cycle(self) -> tuple[list[int], int]:
        """One cycle: (emitted ids, accepted drafts)."""
        tree = self.drafter.propose(self.root, self.count, self.valid)
        self.stopwatch.lap("draft")
        done = self.step(tree, self.count, self._noise(self.committed + 1, self.drafter.depth + 1))
        self.scores = done.scores
        if tree.nodes > 1:
            self.buffer.move(self.count + done.path, self.count + self.offsets[: len(done.path)])
        accepted, *emitted = done.outcome.tolist()  # the one host sync of a cycle
        del emitted[accepted + 1 :]
        self.stopwatch.lap("verify")
        self._observe(done.outcome[1:], done.states)
        self.valid, self.root = done.valid, done.root
        self.count.add_(done.valid)
        self.committed += accepted + 1
        self.drafter.append_tokens(emitted)
        self.stopwatch.lap("draft")
        return emitted, accepted

    def verify(self, tree: Tree, count: torch.Tensor, noise: torch.Tensor | None) -> Verified:
        """The target over a tree behind `count` (int64 [1]) committed rows, and the walk.

        noise: float32 [depth + 1, V], None for greedy. All shapes are fixed, so it compiles into one graph.
        """
        rows = count + self.offsets[: tree.nodes]
        logits, states = self._forward(tree.tokens, count + tree.levels, rows, tree.ancestors)
        scored = self._scores(logits, tree.levels, noise)
        path, emitted, accepted = walk(tree, best(scored), self.drafter.depth)
        return Verified(
            scores=scored,
            path=path,
            outcome=torch.cat((accepted[None], emitted)),
            valid=accepted[None] + 1,
            root=emitted.index_select(0, accepted[None]),
            states=tuple(state[path] for state in states),
        )

    def _forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        among: torch.Tensor,
        *,
        keep: torch.Tensor | int = 0,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The target over T new rows: (logits [T, V], hidden states [T, H] of each tap and the post-norm last).

        keep: only these rows' logits, int64 [M]; 0 for all.
        """
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
        self.buffer.slots = None
        return out.logits[0], tuple(out.hidden_states[index][0] for index in self.hidden)

    def _scores(self, logits: torch.Tensor, levels: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """What the target maximises after each row: its logits, or with noise the processed ones plus that."""
        if noise is not None:
            for warper in self.warpers:
                logits = warper(None, logits)
        return scores(logits, noise, levels)

    def _noise(self, position: int, count: int) -> torch.Tensor | None:
        """Noise for the tokens at absolute `position` and the next ones, [count, V]; None for greedy."""
        return None if self.noise is None else self.noise.rows(position, count)

    def _observe(self, tokens: torch.Tensor, states: tuple[torch.Tensor, ...]) -> None:
        self.drafter.append_states(tokens, states[-1], states[:-1])


def _truncate(emitted: list[int], ends: set[int], room: int) -> list[int]:
    """The ids up to the first that ends the text (it included), at most `room` of them."""
    for index, token in enumerate(emitted[:room]):
        if token in ends:
            return emitted[: index + 1]
    return emitted[:room]
