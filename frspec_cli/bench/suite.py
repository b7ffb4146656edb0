"""A benchmark run: prompts x methods, interleaved, into one JSON with everything that was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from frspec_cli.answers.prompts import Prompt
from frspec_cli.bench.baseline import TransformersBaseline
from frspec_cli.bench.measure import Arm, Measurement, Totals, run
from frspec_cli.bench.profile import profile
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.pipeline import METHODS, Method, Pipeline
from frspec_cli.decoding.tree import TreeConfig
from frspec_cli.environment import environment
from frspec_cli.errors import UsageError
from frspec_cli.statistics import speedup
from frspec_cli.verification import identity

SCHEMA = 1
BASELINE = "transformers"
"""The arm that is no method of ours: transformers' own `generate`."""


@dataclass(frozen=True)
class BenchOptions:
    """What was asked for; stands in the result as it is. ks: subset sizes for frspec, [] for the subset's own."""

    methods: tuple[str, ...] = ("ar", "eagle", "frspec")
    ks: tuple[int, ...] = ()
    depth: int = 5
    beam: int = 4
    nodes: int = 16
    context_slots: int = 0
    max_new_tokens: int = 64
    ignore_eos: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in (*METHODS, BASELINE)]
        if unknown:
            raise UsageError(f"--methods names {unknown[0]}, which is not one of {', '.join((*METHODS, BASELINE))}.")
        if len(set(self.methods)) < len(self.methods):
            raise UsageError("--methods names one method twice.")


@dataclass
class Bench:
    """One run over a target's parts."""

    parts: Pipeline
    options: BenchOptions
    measured: list[Measurement] = field(default_factory=list)

    def arms(self) -> list[Arm]:
        """The arms in order. Several k give `frspec@K` each, of which the first is `frspec` too in the summary."""
        shape = TreeConfig(depth=self.options.depth, beam=self.options.beam, nodes=self.options.nodes)
        found: list[Arm] = []
        for name in self.options.methods:
            if name == BASELINE:
                found.append(Arm(name, TransformersBaseline(self.parts.target)))
                continue
            method: Method = name  # type: ignore[assignment]
            for k in self.options.ks if method == "frspec" and self.options.ks else (None,):
                drafter = self.parts.drafter(method, shape=shape, k=k, context_slots=self.options.context_slots)
                label = f"frspec@{k}" if method == "frspec" and len(self.options.ks) > 1 else name
                found.append(Arm(label, Engine(self.parts.target, drafter, compiler=self.parts.compiler), drafter.k))
        return found

    def run(self, prompts: Sequence[Prompt], *, done: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Measures and returns the result; `done` is called after each text."""
        arms = self.arms()
        for item in run(
            self.parts.target,
            arms,
            prompts,
            max_new_tokens=self.options.max_new_tokens,
            ignore_eos=self.options.ignore_eos,
        ):
            self.measured.append(item)
            done()
        return self._setting() | {
            "prompts": [self._record(item) for item in self.measured],
            "summary": self._summary(arms),
        }

    def profile(self, prompts: Sequence[Prompt], *, done: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Where the time of a cycle goes (see `bench.profile`), in place of the texts' own measurements."""
        if BASELINE in self.options.methods:
            raise UsageError(f"--profile looks into cycles, which {BASELINE} has none of; leave it out of --methods.")
        ids = [self.parts.target.prompt_ids(prompt.text) for prompt in prompts]
        # What is compiled is one piece, so the parts are timed as they are.
        inside = replace(self, parts=replace(self.parts, compiler=None))
        passes = (bench.arms() for bench in (self, inside))
        found = profile(
            lambda: next(passes), ids, max_new_tokens=self.options.max_new_tokens, seed=self.options.seed, done=done
        )
        return self._setting() | {"prompts": [], "summary": {}, "profile": found}

    def _setting(self) -> dict[str, Any]:
        """What a result says about how it was made."""
        target = self.parts.target
        return {
            "schema": SCHEMA,
            "environment": environment(),
            "options": {
                **{name: _plain(value) for name, value in vars(self.options).items()},
                "model": target.name,
                "draft": self.parts.draft,
                "vocab": self.parts.vocab,
                "dtype": str(target.dtype).removeprefix("torch."),
                "device": str(target.device),
                "compiled": self.parts.compiler is not None,
            },
        }

    def _record(self, item: Measurement) -> dict[str, Any]:
        generation = item.generation
        return {
            "id": item.prompt.id,
            "category": item.prompt.category,
            "method": item.arm,
            "prompt_tokens": generation.prompt_tokens,
            "token_ids": generation.token_ids,
            "cycles": generation.cycles,
            "accepted": generation.accepted,
            "seconds": {name: round(value, 6) for name, value in generation.seconds.items()},
        }

    def _summary(self, arms: Sequence[Arm]) -> dict[str, Any]:
        by_arm = {arm.name: [item for item in self.measured if item.arm == arm.name] for arm in arms}
        plain = [by_arm[name] for name in ("ar", BASELINE) if name in by_arm]
        base = min(plain, key=_seconds) if plain else None
        summary: dict[str, Any] = {}
        for arm in arms:
            mine = by_arm[arm.name]
            totals = Totals(arm.name, arm.k)
            for item in mine:
                totals.add(item.generation)
            after = totals.seconds["total"] - totals.seconds["prefill"]
            summary[arm.name] = {
                "k": arm.k or None,
                "draft_lm_head": self.parts.draft_lm_head(arm.decoder.drafter)
                if isinstance(arm.decoder, Engine)
                else None,
                "tokens_per_second": totals.tokens_per_second,
                "decode_tokens_per_second": (totals.new_tokens - len(mine)) / after,
                "acceptance_length": totals.acceptance_length,
                "speedup": None if base is None else {**self._speedup(mine, base), "against": base[0].arm},
                "identical": self._identical(mine, by_arm.get("ar")),
                "failed": 0,
                "seconds": totals.seconds,
                "draft_seconds_per_cycle": totals.draft_seconds_per_cycle,
            }
        first = next((arm.name for arm in arms if arm.name.startswith("frspec@")), None)
        return summary | ({"frspec": summary[first]} if first else {})

    def _speedup(self, mine: Sequence[Measurement], base: Sequence[Measurement]) -> dict[str, float]:
        return speedup(
            [item.generation.new_tokens for item in mine],
            [item.generation.seconds["total"] for item in mine],
            [item.generation.new_tokens for item in base],
            [item.generation.seconds["total"] for item in base],
            seed=self.options.seed,
        )

    def _identical(self, mine: Sequence[Measurement], plain: Sequence[Measurement] | None) -> dict[str, Any] | None:
        """Of how many prompts the ids equal plain decoding's; and where each of the others first differs."""
        if plain is None:
            return None
        reference = {item.prompt.id: item.generation.token_ids for item in plain}
        differences = []
        for item in mine:
            position = identity.first_difference(reference[item.prompt.id], item.generation.token_ids)
            if position is not None:
                differences.append({"prompt": item.prompt.id, "position": position})
        return {"prompts": len(mine), "equal": len(mine) - len(differences), "differences": differences}


def _seconds(items: Sequence[Measurement]) -> float:
    return sum(item.generation.seconds["total"] for item in items)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
