"""What counts as identical. On the user's own model, head, subset and prompts, token by token.

Greedy, float64: the ids of plain decoding, no exceptions. Greedy, float32: by re-scoring (every emitted id is the argmax
of one prefill over prompt and emitted ids: identity by induction), and step by step against plain decoding on some of the
prompts; a near tie counts only if the prompt decoded again in float64 is identical. Some prompts are re-scored by
transformers alone, which shares no code with the engine (`stock`). Seeded sampling: the ids of plain decoding with the same
seed. Reduced precision: equal ids are counted, and at each first difference the plain run's margin must be at most twice the
largest difference between one row's logits and many rows', measured on all of these prompts with this model on this
machine; the float32 rule is checked in the same report, unless that is left out.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from frspec_cli.answers.batched_decode import TokenizedPrompt
from frspec_cli.answers.tasks import stratified_sample
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.generation import Generation
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.verification import identity, stock
from frspec_cli.verification.options import EXACT_DTYPES, VerifyOptions
from frspec_cli.verification.report import SAMPLING, Difference, Outcome, explained_margin, rounding

STOCK = "greedy, by transformers alone"


@dataclass(frozen=True)
class Check:
    """One rule, the dtype in which it runs, and the indices of the prompts that it takes."""

    name: str
    rule: Literal["rescored", "stock", "stepwise", "sampled", "reduced"]
    dtype: str
    prompts: tuple[int, ...]


def plan_checks(options: VerifyOptions, prompts: Sequence[TokenizedPrompt]) -> list[Check]:
    """The checks that a dtype calls for, in the order of their dtypes; none that takes no prompt.

    Each check's prompts are spread evenly over the tasks. In float64 every prompt goes step by step, which leaves nothing
    to re-score.
    """
    labels = [prompt.source for prompt in prompts]

    def sample(count: int | None) -> tuple[int, ...]:
        return tuple(stratified_sample(labels, len(labels) if count is None else count))

    float64 = options.dtype == "float64"
    exact = "float64" if float64 else "float32"
    checks = [
        Check("greedy, re-scored", "rescored", exact, sample(0 if float64 else options.rescored)),
        Check("greedy, step by step", "stepwise", exact, sample(None if float64 else options.stepwise)),
        Check(SAMPLING, "sampled", exact, sample(options.sampled)),
        Check(STOCK, "stock", exact, sample(options.stock)),
    ]
    if options.float32 == "skip":
        checks = []
    if options.dtype not in EXACT_DTYPES:
        checks.insert(0, Check(f"greedy, {options.dtype}", "reduced", options.dtype, sample(None)))
    return [check for check in checks if check.prompts]


@dataclass(frozen=True)
class _Loaded:
    """A pipeline in one dtype, the engine under test, and plain decoding's."""

    dtype: str
    pipeline: Pipeline
    speculative: Engine
    plain: Engine


def _outcome(
    check: Check,
    prompt: TokenizedPrompt,
    generation: Generation,
    differences: Sequence[Difference],
    rounding: float | None = None,
) -> Outcome:
    return Outcome(
        check=check.name,
        prompt=prompt.id,
        task=prompt.source,
        prompt_tokens=len(prompt.ids),
        new_tokens=generation.new_tokens,
        cycles=generation.cycles,
        accepted=sum(generation.accepted),
        differences=tuple(differences),
        rounding=rounding,
    )


def _mismatches(scores: identity.Scores, token_ids: Sequence[int]) -> list[Difference]:
    """What re-scoring finds, left open where all of it may be near ties."""
    mismatches = identity.differences(scores, token_ids)
    explained = None if all(each.is_near_tie for each in mismatches) else False
    ulps = [each.margin / scores.unit[each.position] if scores.unit else None for each in mismatches]
    return [
        Difference(each.position, each.margin, units, explained) for each, units in zip(mismatches, ulps, strict=True)
    ]


def settle_by_rounding(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Reduced precision's outcomes with their differences decided, by what all of them show of rounding."""
    largest = rounding(outcomes)
    most = explained_margin(largest) if largest is not None else 0.0
    return [
        replace(
            outcome,
            differences=tuple(
                replace(each, explained=each.margin is not None and each.margin <= most) for each in outcome.differences
            ),
        )
        for outcome in outcomes
    ]


class Verifier:
    """Runs checks on prompts, one at a time. Only one dtype's target, head and engines are in memory.

    load: dtype -> target, head and subset in that dtype; the verifier must be the only one to keep them.
    """

    def __init__(self, load: Callable[[str], Pipeline], options: VerifyOptions) -> None:
        self.load, self.options = load, options
        self._loaded: _Loaded | None = None

    def pipeline(self, dtype: str) -> Pipeline:
        """Target, head and subset in `dtype`. Keep no reference to it: asking for another dtype frees it."""
        return self._engines(dtype).pipeline

    def outcome(self, check: Check, prompt: TokenizedPrompt) -> Outcome:
        """One prompt under one check, which is not `stock`. Near ties are left open, for `settle`."""
        rounding = None
        if check.rule == "rescored":
            generation, differences = self._rescored(check.dtype, prompt)
        else:
            generation, differences, rounding = self._stepwise(check, prompt)
        return _outcome(check, prompt, generation, differences, rounding)

    def by_transformers(self, check: Check, prompts: Sequence[TokenizedPrompt]) -> list[Outcome]:
        """The prompts under the check `stock`, in one process that loads the model by itself. Ours leaves memory first."""
        engines = self._engines(check.dtype)
        generations = [self._complete(engines.speculative, prompt, None) for prompt in prompts]
        folder, device = engines.pipeline.target.folder, str(engines.pipeline.target.device)
        del engines
        self._free()
        texts = [(prompt.ids, each.token_ids) for prompt, each in zip(prompts, generations, strict=True)]
        found = stock.scores(folder, texts, dtype=check.dtype, device=device)
        return [
            _outcome(check, prompt, generation, _mismatches(identity.Scores(**scores), generation.token_ids))
            for prompt, generation, scores in zip(prompts, generations, found, strict=True)
        ]

    def settle(self, check: Check, prompt: TokenizedPrompt, outcome: Outcome) -> Outcome:
        """The outcome with its near ties decided: rounding explains them if the prompt is identical in float64."""
        sampling = self._sampling(check)
        engines = self._engines("float64")
        reference, _ = self._plain(engines.plain, prompt, sampling)
        identical = reference == self._complete(engines.speculative, prompt, sampling).token_ids
        differences = [
            replace(each, explained=identical) if each.explained is None else each for each in outcome.differences
        ]
        return replace(outcome, differences=tuple(differences))

    def _sampling(self, check: Check) -> Sampling | None:
        return Sampling(temperature=1.0, seed=self.options.seed) if check.rule == "sampled" else None

    def _rescored(self, dtype: str, prompt: TokenizedPrompt) -> tuple[Generation, list[Difference]]:
        """Every emitted id against the argmax of one prefill."""
        engine = self._engines(dtype).speculative
        generation = self._complete(engine, prompt, None)
        return generation, _mismatches(
            identity.score(engine.target, prompt.ids, generation.token_ids), generation.token_ids
        )

    def _stepwise(self, check: Check, prompt: TokenizedPrompt) -> tuple[Generation, list[Difference], float | None]:
        """Ids against plain decoding's, with the same seed if sampled; what follows the first difference says nothing.

        The number is what rounding does to this text's logits, in reduced precision.
        """
        engines, sampling = self._engines(check.dtype), self._sampling(check)
        reference, top = self._plain(engines.plain, prompt, sampling)
        generation = self._complete(engines.speculative, prompt, sampling)
        rounding = None
        if check.rule == "reduced":
            drafter = engines.speculative.drafter
            rounding = identity.rounding(
                engines.plain, prompt.ids, reference, top, nodes=drafter.nodes, depth=drafter.depth
            )
        position = identity.first_difference(reference, generation.token_ids)
        if position is None:
            return generation, [], rounding
        if position >= len(reference):
            return generation, [Difference(position, None, None, explained=False)], rounding
        values = top[position].values
        margin = float(values[0] - values[1])
        ulps = margin / identity.unit_in_last_place(values[0])
        is_open = check.rule == "reduced" or (check.dtype == "float32" and margin < identity.NEAR_TIE)
        return generation, [Difference(position, margin, ulps, None if is_open else False)], rounding

    def _plain(self, engine: Engine, prompt: TokenizedPrompt, sampling: Sampling | None) -> tuple[list[int], list[Any]]:
        """Plain decoding: (ids, the two highest scores before each: `torch.topk`'s values and indices [2])."""
        ids: list[int] = []
        top: list[Any] = []
        for cycle in engine.generate(prompt.ids, max_new_tokens=self.options.max_new_tokens, sampling=sampling):
            ids += cycle.tokens
            assert cycle.scores is not None
            top.append(cycle.scores[0].topk(2))
        return ids, top

    def _complete(self, engine: Engine, prompt: TokenizedPrompt, sampling: Sampling | None) -> Generation:
        return engine.complete(prompt.ids, max_new_tokens=self.options.max_new_tokens, sampling=sampling)

    def _engines(self, dtype: str) -> _Loaded:
        if self._loaded is None or self._loaded.dtype != dtype:
            self._free()
            pipeline = self.load(dtype)
            speculative = pipeline.engine(self.options.method, tree=self.options.tree)
            plain = Engine(pipeline.target, compiler=pipeline.compiler)
            self._loaded = _Loaded(dtype, pipeline, speculative, plain)
        return self._loaded

    def _free(self) -> None:
        """Gives the memory of the last dtype back before the next one is loaded."""
        if self._loaded is None:
            return
        compiled, self._loaded = self._loaded.pipeline.compiler is not None, None
        if compiled:
            torch.compiler.reset()  # compiled steps keep the weights that they were traced with
        gc.collect()  # engines hold their own bound methods: a cycle
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
