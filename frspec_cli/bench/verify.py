"""Is speculative decoding lossless here? On the user's own model, head, subset and prompts, token by token.

Greedy, float64: the ids of plain decoding, no exceptions. Greedy, float32: by re-scoring (every emitted id is the argmax
of one prefill over prompt and emitted ids: identity by induction), and step by step against plain decoding on the first
prompts; a near tie counts only if the prompt run again in float64 is identical. Seeded sampling: the ids of plain decoding
with the same seed. Reduced precision: equal ids are counted, and each first difference must lie where the plain run's
margin is at most `ULPS` units in the last place of the top score; the float32 rule is checked in the same report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from frspec_cli.decoding import identity
from frspec_cli.decoding.drafters import NoDrafter, PaddedDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.decoding.session import Method, Parts
from frspec_cli.decoding.tree import Shape

ULPS = 2
EXACT_DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Difference:
    """One output that is not the reference's: where it begins, how near the tie was, and whether the rule explains it.

    prompt: number from 1. position: index of the emitted token. margin: the reference's top-2 margin there. ulps: the
    same in units in the last place (reduced precision only). explained: rounding accounts for it.
    """

    prompt: int
    position: int
    margin: float
    explained: bool
    check: str
    ulps: float | None = None


@dataclass
class Check:
    """One rule over a number of prompts."""

    name: str
    prompts: int = 0
    identical: int = 0
    accepted: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every difference is explained."""
        return all(difference.explained for difference in self.differences)


@dataclass(frozen=True)
class Plan:
    """What to run. stepwise, sampled: how many of the prompts go step by step, and through seeded sampling."""

    method: Method
    shape: Shape
    max_new_tokens: int = 64
    stepwise: int = 8
    sampled: int = 4
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0, seed=1))
    padded: bool = False


Load = Callable[[str], Parts]
"""dtype -> target, head and subset in that dtype."""


def verify(
    load: Load, dtype: str, prompts: Sequence[Sequence[int]], plan: Plan, *, done: Callable[[], None] = lambda: None
) -> list[Check]:
    """Runs every check that the dtype calls for; `done` is called after each prompt of each check."""
    runner = _Runner(load, prompts, plan, done)
    checks = []
    if dtype not in EXACT_DTYPES:
        checks.append(runner.reduced(load(dtype)))
    exact = load("float64" if dtype == "float64" else "float32")
    if dtype == "float64":
        checks.append(runner.stepwise(exact, len(prompts), None, "greedy, step by step"))
    else:
        checks.append(runner.rescored(exact))
        checks.append(runner.stepwise(exact, plan.stepwise, None, "greedy, step by step"))
    if plan.sampled:
        checks.append(runner.stepwise(exact, plan.sampled, plan.sampling, "seeded sampling"))
    return checks


def report(checks: Sequence[Check]) -> dict[str, Any]:
    """The command's JSON object: verdict, the first check's counts, all differences, and the sampling check apart."""
    greedy = [check for check in checks if check.name != "seeded sampling"]
    sampling = next((check for check in checks if check.name == "seeded sampling"), None)
    return {
        "passed": all(check.passed for check in checks),
        "prompts": greedy[0].prompts,
        "identical": greedy[0].identical,
        "differences": [asdict(difference) for check in greedy for difference in check.differences],
        "sampling": None
        if sampling is None
        else {
            "prompts": sampling.prompts,
            "identical": sampling.identical,
            "differences": [asdict(difference) for difference in sampling.differences],
        },
        "checks": [
            {
                "name": check.name,
                "prompts": check.prompts,
                "identical": check.identical,
                "accepted": check.accepted,
                "passed": check.passed,
            }
            for check in checks
        ],
    }


class _Runner:
    def __init__(self, load: Load, prompts: Sequence[Sequence[int]], plan: Plan, done: Callable[[], None]) -> None:
        self.load, self.prompts, self.plan, self.done = load, prompts, plan, done
        self._double: Parts | None = None

    def rescored(self, parts: Parts) -> Check:
        """Every emitted id against the argmax of one prefill."""
        check = Check("greedy, re-scored")
        engine = parts.engine(self.plan.method, shape=self.plan.shape)
        for number, prompt in enumerate(self.prompts, start=1):
            generation = engine.complete(prompt, max_new_tokens=self.plan.max_new_tokens)
            scored = identity.score(parts.target, prompt, generation.token_ids)
            found = identity.differences(scored, generation.token_ids)
            self._count(check, not found, generation.accepted)
            if found:
                near = all(each.is_near_tie for each in found)
                explained = near and self._equal_in_float64(prompt, None)
                first = found[0]
                check.differences.append(Difference(number, first.position, first.margin, explained, check.name))
        return check

    def stepwise(self, parts: Parts, count: int, sampling: Sampling | None, name: str) -> Check:
        """Ids against plain decoding's, with the same seed where sampling."""
        check = Check(name)
        exact = parts.target.dtype == torch.float64
        for number, prompt in enumerate(self.prompts[:count], start=1):
            plain, margins, _ = self._plain(parts, prompt, sampling)
            generation = self._speculative(parts, prompt, sampling)
            position = identity.first_difference(plain, generation.token_ids)
            self._count(check, position is None, generation.accepted)
            if position is not None:
                margin = margins[position] if position < len(margins) else float("inf")
                near = not exact and margin < identity.NEAR_TIE
                explained = near and self._equal_in_float64(prompt, sampling)
                check.differences.append(Difference(number, position, margin, explained, name))
        return check

    def reduced(self, parts: Parts) -> Check:
        """Ids against plain decoding's in reduced precision, by units in the last place."""
        check = Check(f"greedy, {str(parts.target.dtype).removeprefix('torch.')}")
        for number, prompt in enumerate(self.prompts, start=1):
            plain, margins, units = self._plain(parts, prompt, None)
            generation = self._speculative(parts, prompt, None)
            position = identity.first_difference(plain, generation.token_ids)
            self._count(check, position is None, generation.accepted)
            if position is not None:
                margin = margins[position] if position < len(margins) else float("inf")
                ulps = margin / units[position] if position < len(units) else float("inf")
                check.differences.append(Difference(number, position, margin, ulps <= ULPS, check.name, ulps))
        return check

    def _plain(
        self, parts: Parts, prompt: Sequence[int], sampling: Sampling | None
    ) -> tuple[list[int], list[float], list[float]]:
        """Plain decoding: (ids, top-2 margin of each choice, one unit in the last place of each top score)."""
        nodes = self.plan.shape.nodes
        engine = Engine(parts.target, PaddedDrafter(nodes) if self.plan.padded else NoDrafter())
        ids: list[int] = []
        margins: list[float] = []
        units: list[float] = []
        for cycle in engine.generate(prompt, max_new_tokens=self.plan.max_new_tokens, sampling=sampling):
            ids += cycle.tokens
            top = engine.scores[0].topk(2).values
            margins.append(float(top[0] - top[1]))
            units.append(identity.unit_in_last_place(top[0]))
        return ids, margins, units

    def _speculative(self, parts: Parts, prompt: Sequence[int], sampling: Sampling | None) -> Any:
        engine = parts.engine(self.plan.method, shape=self.plan.shape)
        return engine.complete(prompt, max_new_tokens=self.plan.max_new_tokens, sampling=sampling)

    def _equal_in_float64(self, prompt: Sequence[int], sampling: Sampling | None) -> bool:
        self._double = self._double or self.load("float64")
        plain, _, _ = self._plain(self._double, prompt, sampling)
        return plain == self._speculative(self._double, prompt, sampling).token_ids

    def _count(self, check: Check, identical: bool, accepted: list[int]) -> None:
        check.prompts += 1
        check.identical += identical
        check.accepted += sum(accepted)
        self.done()
