"""Is speculative decoding lossless here? On the user's own model, head, subset and prompts, token by token.

Greedy, float64: the ids of plain decoding, no exceptions. Greedy, float32: by re-scoring (every emitted id is the argmax
of one prefill over prompt and emitted ids: identity by induction), and step by step against plain decoding on some of the
prompts; a near tie counts only if the prompt run again in float64 is identical. Seeded sampling: the ids of plain decoding
with the same seed. Reduced precision: equal ids are counted, and each first difference must lie where the plain run's
margin is at most `ULPS` units in the last place of the top score; the float32 rule is checked in the same report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from frspec_cli.answers.tasks import stratified_sample
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.generation import Generation
from frspec_cli.decoding.pipeline import Method, Pipeline
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.decoding.tree import TreeConfig
from frspec_cli.verification import identity
from frspec_cli.verification.report import SAMPLING, Difference, Outcome

ULPS = 2
EXACT_DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class TokenizedPrompt:
    """One prompt as token ids. id: the file's own. task: what it counts under, '' where the file names none."""

    id: str
    ids: tuple[int, ...]
    task: str = ""


@dataclass(frozen=True)
class Plan:
    """What to run. rescored, stepwise, sampled: how many prompts each check takes, None for all of them."""

    method: Method
    shape: TreeConfig
    max_new_tokens: int = 64
    rescored: int | None = None
    stepwise: int | None = 8
    sampled: int | None = 4
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0, seed=1))


@dataclass(frozen=True)
class Check:
    """One rule, the dtype it runs in, and the questions it takes, by number."""

    name: str
    rule: Literal["rescored", "stepwise", "sampled", "reduced"]
    dtype: str
    questions: tuple[int, ...]


Load = Callable[[str], Pipeline]
"""dtype -> target, head and subset in that dtype."""


def checks(dtype: str, questions: Sequence[TokenizedPrompt], plan: Plan) -> list[Check]:
    """The checks that a dtype calls for, each with its prompts spread evenly over the tasks; none that takes no prompt.

    In float64 every prompt goes step by step, which leaves nothing to re-score.
    """
    labels = [question.task for question in questions]

    def some(count: int | None) -> tuple[int, ...]:
        return tuple(stratified_sample(labels, len(labels) if count is None else count))

    exact = "float64" if dtype == "float64" else "float32"
    found = [
        Check("greedy, re-scored", "rescored", exact, some(0 if dtype == "float64" else plan.rescored)),
        Check("greedy, step by step", "stepwise", exact, some(None if dtype == "float64" else plan.stepwise)),
        Check(SAMPLING, "sampled", exact, some(plan.sampled)),
    ]
    if dtype not in EXACT_DTYPES:
        found.insert(0, Check(f"greedy, {dtype}", "reduced", dtype, some(None)))
    return [check for check in found if check.questions]


class Verifier:
    """Runs checks on prompts, one at a time; target, head and engines of a dtype are made when first needed."""

    def __init__(self, load: Load, plan: Plan) -> None:
        self.load, self.plan = load, plan
        self._engines: dict[str, tuple[Engine, Engine]] = {}

    def outcome(self, check: Check, question: TokenizedPrompt) -> Outcome:
        """One prompt under one check."""
        match check.rule:
            case "rescored":
                generation, differences = self._rescored(check, question)
            case "reduced" | "stepwise":
                generation, differences = self._stepwise(check.dtype, question, None)
            case "sampled":
                generation, differences = self._stepwise(check.dtype, question, self.plan.sampling)
        return Outcome(
            check=check.name,
            prompt=question.id,
            task=question.task,
            prompt_tokens=len(question.ids),
            new_tokens=generation.new_tokens,
            cycles=generation.cycles,
            accepted=sum(generation.accepted),
            differences=tuple(differences),
        )

    def _rescored(self, check: Check, question: TokenizedPrompt) -> tuple[Generation, list[Difference]]:
        """Every emitted id against the argmax of one prefill."""
        speculative, _ = self._pair(check.dtype)
        generation = self._complete(speculative, question, None)
        scored = identity.score(speculative.target, question.ids, generation.token_ids)
        found = identity.differences(scored, generation.token_ids)
        explained = bool(found) and all(each.is_near_tie for each in found) and self._equal_in_float64(question, None)
        return generation, [
            Difference(each.position, each.margin, each.margin / scored.unit[each.position], explained)
            for each in found
        ]

    def _stepwise(
        self, dtype: str, question: TokenizedPrompt, sampling: Sampling | None
    ) -> tuple[Generation, list[Difference]]:
        """Ids against plain decoding's, with the same seed where sampling; what follows the first difference says nothing."""
        speculative, plain = self._pair(dtype)
        reference, margins, units = self._plain(plain, question, sampling)
        generation = self._complete(speculative, question, sampling)
        position = identity.first_difference(reference, generation.token_ids)
        if position is None:
            return generation, []
        if position >= len(reference):
            return generation, [Difference(position, None, None, explained=False)]
        margin, ulps = margins[position], margins[position] / units[position]
        if dtype not in EXACT_DTYPES:
            explained = ulps <= ULPS
        else:
            near = dtype != "float64" and margin < identity.NEAR_TIE
            explained = near and self._equal_in_float64(question, sampling)
        return generation, [Difference(position, margin, ulps, explained)]

    def _plain(
        self, engine: Engine, question: TokenizedPrompt, sampling: Sampling | None
    ) -> tuple[list[int], list[float], list[float]]:
        """Plain decoding: (ids, top-2 margin of each choice, one unit in the last place of each top score)."""
        ids: list[int] = []
        margins: list[float] = []
        units: list[float] = []
        for cycle in engine.generate(question.ids, max_new_tokens=self.plan.max_new_tokens, sampling=sampling):
            ids += cycle.tokens
            top = engine.scores[0].topk(2).values
            margins.append(float(top[0] - top[1]))
            units.append(identity.unit_in_last_place(top[0]))
        return ids, margins, units

    def _complete(self, engine: Engine, question: TokenizedPrompt, sampling: Sampling | None) -> Generation:
        return engine.complete(question.ids, max_new_tokens=self.plan.max_new_tokens, sampling=sampling)

    def _equal_in_float64(self, question: TokenizedPrompt, sampling: Sampling | None) -> bool:
        speculative, plain = self._pair("float64")
        reference, _, _ = self._plain(plain, question, sampling)
        return reference == self._complete(speculative, question, sampling).token_ids

    def _pair(self, dtype: str) -> tuple[Engine, Engine]:
        """(the engine under test, the reference) in `dtype`."""
        if dtype not in self._engines:
            parts = self.load(dtype)
            speculative = parts.engine(self.plan.method, shape=self.plan.shape)
            self._engines[dtype] = speculative, Engine(parts.target, compiler=parts.compiler)
        return self._engines[dtype]
