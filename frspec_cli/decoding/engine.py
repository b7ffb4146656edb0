"""The engine: one loop for plain decoding, EAGLE-2, FR-Spec and lookup, so that they differ in nothing but the drafter.

A cycle drafts a tree, runs the target once over its nodes, walks the tree and keeps the accepted rows: `Engine.cycle`, a
function from state to state. The host reads from the device once a cycle: how many tokens were accepted, and which. Attention
reads the slots that the text has reached, however long it may become.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from frspec_cli.decoding.attention import unsupported, use_kernel
from frspec_cli.decoding.cache import attended, cache_length
from frspec_cli.decoding.compiling import Compiler
from frspec_cli.decoding.drafters import Drafter, NoDrafter
from frspec_cli.decoding.family_check import check_family
from frspec_cli.decoding.generation import Cycle, Generation, Stopwatch
from frspec_cli.decoding.noise import GumbelNoise
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.decoding.state import State, Verified, Workspace
from frspec_cli.decoding.text import TextStream
from frspec_cli.decoding.tree import Tree
from frspec_cli.decoding.walk import best, scores, walk
from frspec_cli.errors import FrspecError, option
from frspec_cli.models.finite import finite_rows, not_finite
from frspec_cli.models.target import Target

_NOT_FINITE = -1
"""What is read in place of a number of drafts, or of a token, if a logit that decides is NaN or infinite."""

PREFILL_ROWS = 1024
"""Rows of the prompt that run in one pass."""


class Engine:
    """Decodes texts of one target with one drafter, at batch size 1, one text at a time.

    `generate` yields a `Cycle` per step; `complete` folds them into a `Generation`. compiler: compiles the target's step;
    None runs it as it is.
    """

    def __init__(self, target: Target, drafter: Drafter | None = None, *, compiler: Compiler | None = None) -> None:
        self.target = target
        self.drafter = drafter or NoDrafter()
        self.device = target.device
        self.hidden = (*self.drafter.taps, -1)
        # A cycle writes the tree's rows behind the text, and then a block of depth + 1 rows that may be longer.
        self.rows = max(self.drafter.nodes, self.drafter.depth + 1)
        self.offsets = torch.arange(self.rows, device=self.device)
        self._workspace: Workspace | None = None
        self.compiled = compiler is not None
        self.step = compiler(self.verify) if compiler is not None else self.verify
        self._text: object = None
        use_kernel(target.model)

    def complete(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        ignore_eos: bool = False,
        text: TextStream | None = None,
    ) -> Generation:
        """Runs `generate` to its end. Raises as it does."""
        cycles = self.generate(
            prompt_ids, max_new_tokens=max_new_tokens, sampling=sampling, ignore_eos=ignore_eos, text=text
        )
        generation = Generation.of(cycles, prompt_tokens=len(prompt_ids))
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
        text: TextStream | None = None,
    ) -> Iterator[Cycle]:
        """Yields the prefill's token, then each cycle's tokens, up to EOS, a stop string or `max_new_tokens`.

        The ids do not depend on the drafter (up to near ties of the target's logits in reduced precision). text: decodes
        them, and ends the text at its stop strings.

        Raises `FrspecError` if the prompt is empty, has ids that the target lacks, or does not fit into its context; if the
        target's logits are not finite, or its family's are others than transformers' own (`check_family`); and if the engine
        has started another text since: its memory is that text's then.
        """
        self.check(prompt_ids, max_new_tokens)
        check_family(self)
        ends = set() if ignore_eos else set(self.target.eos_ids)
        sampling = sampling or Sampling()
        warpers, noise = sampling.warpers(), self.noise(sampling)
        self._text = mine = object()
        watch = Stopwatch(self.device)
        first = None if noise is None else noise.rows(len(prompt_ids), 1)
        state, scored = self.prefill(prompt_ids, self.cache_length(len(prompt_ids), max_new_tokens), warpers, first)
        emitted, accepted, drafted, prefill = [int(state.root.item())], 0, 0, True
        if emitted[0] == _NOT_FINITE:
            raise self._not_finite(state.workspace, prompt_ids, 0)
        text_ids = list(prompt_ids)
        self.drafter.append_tokens(emitted)
        watch.lap("prefill")
        position, produced = len(prompt_ids), 0  # of the root, which the cache does not hold yet
        while True:
            kept, shown = _truncate(emitted, ends, max_new_tokens - produced), ""
            if text is not None:
                count, shown = text.push(kept)
                kept = kept[:count]
            produced += len(kept)
            text_ids += kept
            ended = produced == max_new_tokens or kept[-1] in ends or (text is not None and text.stopped)
            if ended and text is not None:
                shown += text.rest()
            cut = len(emitted) - len(kept)
            yield Cycle(kept, accepted, drafted, cut, prefill, shown, scored, watch.timing() if ended else None)
            if ended:
                return
            if self._text is not mine:
                raise FrspecError(
                    "this engine has started another text: an engine decodes one text at a time.",
                    hint="Finish one text before the next, or make an engine for each.",
                )
            watch.begin_cycle()
            rows = None if noise is None else noise.rows(position + 1, self.drafter.depth + 1)
            state, done = self.cycle(state, warpers, rows, watch.lap)
            accepted, *emitted = done.outcome.tolist()  # the one host sync of a cycle
            if accepted == _NOT_FINITE:
                raise self._not_finite(state.workspace, text_ids, produced)
            del emitted[accepted + 1 :]
            watch.lap("verify")
            self.drafter.append_tokens(emitted)
            watch.lap("draft")
            position += accepted + 1
            state = state._replace(reach=position)
            scored, drafted, prefill = done.scores, len(done.scores) - 1, False

    def _not_finite(self, workspace: Workspace, token_ids: Sequence[int], produced: int) -> FrspecError:
        """The error for logits that are not finite behind the ids, of which `produced` are new.

        The caches hold such numbers too now, and the next text would meet them: a masked NaN is a NaN.
        """
        for part in (workspace, getattr(self.drafter, "cache", None)):
            if part is not None:
                part.buffer.data.zero_()
        return not_finite(self.target.model, token_ids, f"at new token {produced + 1} (position {len(token_ids)})")

    def cache_length(self, prompt_tokens: int, max_new_tokens: int) -> int:
        """Slots of the cache that a text needs."""
        return cache_length(prompt_tokens + max_new_tokens + self.rows, compiled=self.compiled)

    def check(self, prompt_ids: Sequence[int], max_new_tokens: int) -> None:
        """Raises `FrspecError` if this text cannot be decoded."""
        if not prompt_ids:
            raise FrspecError("the prompt has no tokens.", hint="Give a text to continue.")
        if max_new_tokens < 1:
            raise FrspecError(f"{option('max_new_tokens')} {max_new_tokens} is less than 1.")
        foreign = [token for token in prompt_ids if not 0 <= token < self.target.rows]
        if foreign:
            raise FrspecError(f"the prompt contains token id {foreign[0]}, but the model has {self.target.rows} rows.")
        context = getattr(self.target.config, "max_position_embeddings", None)
        if context is None:
            raise unsupported(self.target.config, "does not state `max_position_embeddings`, which frspec needs")
        if len(prompt_ids) + max_new_tokens > context:
            raise FrspecError(
                f"{len(prompt_ids)} prompt tokens and {max_new_tokens} new ones do not fit into the model's context of "
                f"{context}.",
                hint=f"Shorten the prompt or lower {option('max_new_tokens')}.",
            )

    def noise(self, sampling: Sampling) -> GumbelNoise | None:
        """What sampling draws from; None for greedy."""
        return None if sampling.greedy else GumbelNoise(sampling.seed, self.target.rows, self.device)

    def workspace(self, length: int) -> Workspace:
        """A cache of at least `length` slots: the last text's, or a new one. What is compiled for one is not for the next."""
        if self._workspace is None or self._workspace.buffer.length < length:
            self._workspace = Workspace.of(self.target, length)
            if self.compiled:
                self._workspace.buffer.mark_static()
        return self._workspace

    @torch.inference_mode()
    def prefill(
        self, prompt_ids: Sequence[int], length: int, warpers: Sequence[Any] = (), noise: torch.Tensor | None = None
    ) -> tuple[State, torch.Tensor]:
        """Runs the prompt through target and drafter, in a cache of `length` slots.

        noise: of the first new token's position, float32 [1, V]; None for greedy. Returns the state before the first
        cycle, and the scores [1, V] of the token that is its root; the root is -1 if the logits are not all finite.
        """
        workspace = self.workspace(length)
        self.drafter.reset(length=length)
        self.drafter.append_tokens(prompt_ids)
        prompt = torch.tensor(prompt_ids, dtype=torch.int64, device=self.device)
        for begin in range(0, len(prompt), PREFILL_ROWS):
            chunk = prompt[begin : begin + PREFILL_ROWS]
            rows = torch.arange(begin, begin + len(chunk), device=self.device)
            # An index, not a count: of a strided row, the LM head's product would first copy the whole weight.
            last = torch.tensor([len(chunk) - 1], device=self.device)
            end = begin + len(chunk)
            logits, states = self.forward(workspace, chunk, rows, rows, None, end=end, keep=last)
            scored = _scores(logits, warpers, noise, torch.zeros_like(last))
            root = best(scored)
            following = torch.cat((prompt[begin + 1 : begin + 1 + len(chunk)], root))[: len(chunk)]
            self.drafter.reach = begin
            self.drafter.append_states(following, states[-1], states[:-1], rows[:1])
        count = torch.tensor([len(prompt)], device=self.device)
        root = root.masked_fill(~finite_rows(logits), _NOT_FINITE)
        return State(workspace, len(prompt), count, last + 1, root), scored

    @torch.inference_mode()
    def cycle(
        self,
        state: State,
        warpers: Sequence[Any] = (),
        noise: torch.Tensor | None = None,
        lap: Callable[[str], None] = lambda name: None,
    ) -> tuple[State, Verified]:
        """One cycle, without making the host wait: the state after it, and what the target's step yielded.

        warpers, noise: as in `verify`. lap: called when drafting and verifying end. The next cycle may run once the
        drafter has been given the emitted tokens (`append_tokens`).
        """
        self.drafter.reach = state.reach
        tree = self.drafter.propose(state.root, state.committed, state.valid)
        lap("draft")
        end = min(attended(state.reach + self.rows, compiled=self.compiled), state.workspace.buffer.length)
        done = self.step(state.workspace, tree, state.committed, end, warpers, noise)
        # Elsewhere than in this memory reading the number would make the host wait, and what is compiled has one shape.
        count = int(done.valid) if self.device.type == "cpu" and not self.compiled else len(done.path)
        if tree.nodes > 1 and count > 1:
            state.workspace.buffer.move(state.committed + done.path[1:count], state.committed + self.offsets[1:count])
        lap("verify")
        states = tuple(each[:count] for each in done.states)
        self.drafter.append_states(done.outcome[1 : count + 1], states[-1], states[:-1], state.committed)
        lap("draft")
        reach = state.reach + len(done.path)
        return State(state.workspace, reach, state.committed + done.valid, done.valid, done.root), done

    def verify(
        self,
        workspace: Workspace,
        tree: Tree,
        count: torch.Tensor,
        end: int,
        warpers: Sequence[Any],
        noise: torch.Tensor | None,
    ) -> Verified:
        """The target over a tree behind `count` (int64 [1]) committed rows, and the walk.

        end: slots before this one are attended; the tree's rows are among them.
        warpers: transformers' logits warpers. noise: float32 [depth + 1, V], None for greedy. All shapes are fixed, so it
        compiles into one graph.
        """
        rows = count + self.offsets[: tree.nodes]
        logits, states = self.forward(workspace, tree.tokens, count + tree.levels, rows, tree.ancestors, end=end)
        scored = _scores(logits, warpers, noise, tree.levels)
        path, emitted, accepted = walk(tree, best(scored), self.drafter.depth)
        finite = finite_rows(logits.index_select(0, path)).all()
        return Verified(
            scores=scored,
            path=path,
            outcome=torch.cat((accepted.masked_fill(~finite, _NOT_FINITE)[None], emitted)),
            valid=accepted[None] + 1,
            root=emitted.index_select(0, accepted[None]),
            states=tuple(state[path] for state in states),
        )

    def forward(
        self,
        workspace: Workspace,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        among: torch.Tensor | None,
        *,
        end: int | None = None,
        keep: torch.Tensor | int = 0,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The target over T new rows: (logits [T, V], hidden states [T, H] of each tap and the post-norm last).

        tokens, positions, slots: int64 [T].
        among: bool [T, T], which of the new rows each sees; None for causal, where they are the last before `end`.
        end: slots before this one are attended; None for all.
        keep: only these rows' logits, int64 [M]; 0 for all.
        """
        workspace.buffer.expect(slots, 0, end)
        end = workspace.buffer.end
        masks = workspace.masks.causal(slots, end) if among is None else workspace.masks(slots, positions, among, end)
        out = self.target.model(
            input_ids=tokens[None],
            position_ids=positions[None],
            attention_mask=masks,
            past_key_values=workspace.cache,
            use_cache=True,
            output_hidden_states=list(self.hidden),
            logits_to_keep=keep,
        )
        workspace.buffer.expect(None)
        return out.logits[0], tuple(out.hidden_states[index][0] for index in self.hidden)


def _scores(
    logits: torch.Tensor, warpers: Sequence[Any], noise: torch.Tensor | None, levels: torch.Tensor
) -> torch.Tensor:
    """What the target maximises after each row: its logits, or with noise the processed ones plus that."""
    if noise is not None:
        if logits.dtype == torch.float16:  # divided by a small temperature they would be infinite
            logits = logits.float()
        for warper in warpers:
            logits = warper(None, logits)
    return scores(logits, noise, levels)


def _truncate(emitted: list[int], ends: set[int], most: int) -> list[int]:
    """The ids up to the first that ends the text (it included), at most `most` of them."""
    for index, token in enumerate(emitted[:most]):
        if token in ends:
            return emitted[: index + 1]
    return emitted[:most]
