"""Acceptance without the target's work: recorded answers replayed for any number of heads, subset sizes and trees.

Output that is lossless does not depend on any of these, so one pass of the target over each answer serves them all. A
replay says what is accepted and why no more is; of speed it says nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import States, target_states
from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.pipeline import Method, Pipeline
from frspec_cli.decoding.tree import TreeConfig
from frspec_cli.environment import environment
from frspec_cli.errors import UsageError
from frspec_cli.replay.cycles import MISSES, Replayed, replay
from frspec_cli.statistics import ratio

SCHEMA = 1
FIRST_TOKENS = 32
_HELD_TOKENS = 8192  # positions whose states are held at once
_METHODS = ("eagle", "frspec")


@dataclass(frozen=True)
class ReplayOptions:
    """What was asked for. ks: subset sizes for frspec, () for the subset's own. max_new_tokens: no cycle begins once so
    many tokens of an answer are there; None for all of it."""

    methods: tuple[str, ...] = _METHODS
    ks: tuple[int, ...] = ()
    shapes: tuple[TreeConfig, ...] = (TreeConfig(),)
    max_new_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in _METHODS]
        if unknown:
            raise UsageError(f"--replay is of {' and '.join(_METHODS)}, not of {unknown[0]}.")


@dataclass(frozen=True)
class ReplayArm:
    """One head, vocabulary and tree under its name in the tables."""

    name: str
    method: str
    draft: str | None
    drafter: EagleDrafter


@dataclass(frozen=True)
class ReplayedAnswer:
    """One answer replayed by one arm."""

    arm: str
    answer: Answer
    cycles: Replayed


@dataclass
class ReplayBench:
    """One run: the same target in all `parts`, one for each head."""

    parts: Sequence[Pipeline]
    options: ReplayOptions
    found: list[ReplayedAnswer] = field(default_factory=list)

    def arms(self) -> list[ReplayArm]:
        """Every head x method and size x tree. The name says no more than is needed to tell them apart."""
        options, made = self.options, []
        for number, parts in enumerate(self.parts, start=1):
            for shape in options.shapes:
                for method, k in self._methods():
                    drafter = parts.drafter(method, shape=shape, k=k)
                    assert isinstance(drafter, EagleDrafter)
                    name = f"{method}@{k}" if len(options.ks) > 1 and k else method
                    head = f" head {number}" if len(self.parts) > 1 else ""
                    tree = f" {shape.depth},{shape.beam},{shape.nodes}" if len(options.shapes) > 1 else ""
                    made.append(ReplayArm(name + head + tree, method, parts.draft, drafter))
        return made

    def _methods(self) -> Iterator[tuple[Method, int | None]]:
        for method in _METHODS:
            if method in self.options.methods:
                for k in self.options.ks or (None,) if method == "frspec" else (None,):
                    yield method, k  # type: ignore[misc]

    def run(self, answers: Sequence[Answer], *, done: Callable[[int], None] = lambda answers: None) -> dict[str, Any]:
        """Replays and returns the result; `done` is told how many answers are finished."""
        arms, target = self.arms(), self.parts[0].target
        by_arm: dict[str, dict[int, ReplayedAnswer]] = {arm.name: {} for arm in arms}
        taps = tuple(sorted({tap for arm in arms for tap in arm.drafter.taps}))
        for group in _held(target_states(target.model, answers, layers=taps), answers):
            for arm in arms:
                own = [taps.index(tap) for tap in arm.drafter.taps]
                texts = [(answers[i], States(states.last, tuple(states.taps[t] for t in own))) for i, states in group]
                cycles = replay(
                    arm.drafter.head,
                    arm.drafter.lm_head,
                    texts,
                    shape=arm.drafter.shape,
                    new_tokens=self.options.max_new_tokens,
                )
                for (i, _), each in zip(group, cycles, strict=True):
                    by_arm[arm.name][i] = ReplayedAnswer(arm.name, answers[i], each)
            done(len(group))
        self.found = [by_arm[arm.name][i] for i in range(len(answers)) for arm in arms]
        return {
            "schema": SCHEMA,
            "kind": "replay",
            "environment": environment(),
            "options": {
                "methods": list(self.options.methods),
                "ks": list(self.options.ks),
                "trees": [[shape.depth, shape.beam, shape.nodes] for shape in self.options.shapes],
                "max_new_tokens": self.options.max_new_tokens,
                "seed": self.options.seed,
                "model": target.name,
                "drafts": [parts.draft for parts in self.parts],
                "vocab": self.parts[0].vocab,
                "dtype": str(target.dtype).removeprefix("torch."),
                "device": str(target.device),
            },
            "answers": describe(answers),
            "prompts": [_record(each) for each in self.found],
            "summary": self._summary(arms),
        }

    def _summary(self, arms: Sequence[ReplayArm]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for arm in arms:
            mine = [each for each in self.found if each.arm == arm.name]
            shape = arm.drafter.shape
            made[arm.name] = {
                "method": arm.method,
                "k": arm.drafter.k,
                "draft": arm.draft,
                "depth": shape.depth,
                "beam": shape.beam,
                "nodes": shape.nodes,
                **figures(mine, seed=self.options.seed),
                "categories": {
                    name: {**describe([each.answer for each in some]), **figures(some, seed=self.options.seed)}
                    for name, some in _by_category(mine).items()
                },
            }
        first = next((name for name in made if name.startswith("frspec@")), None)
        return made | ({"frspec": made[first]} if first and "frspec" not in made else {})


def figures(found: Sequence[ReplayedAnswer], *, seed: int) -> dict[str, Any]:
    """Cycles, acceptance length (also over the cycles that begin in the first 32 tokens) with 95 % intervals by bootstrap
    over answers, and why cycles ended. The reasons' counts add up to the cycles."""
    cycles = [len(each.cycles.accepted) for each in found]
    emitted = [len(each.cycles.accepted) + sum(each.cycles.accepted) for each in found]
    early = [_early(each.cycles) for each in found]
    misses = Counter(miss for each in found for miss in each.cycles.misses)
    assert misses.total() == sum(cycles)
    length = ratio(emitted, cycles, seed=seed)
    return {
        "cycles": sum(cycles),
        "acceptance_length": length["value"] if length else None,
        "interval": length,
        f"first_{FIRST_TOKENS}": ratio([sum(each) + len(each) for each in early], [len(e) for e in early], seed=seed),
        "misses": {name: misses[name] for name in MISSES},
        "miss_shares": {name: misses[name] / max(1, sum(cycles)) for name in MISSES},
    }


def describe(answers: Sequence[Answer]) -> dict[str, Any]:
    """What is replayed: answers, answered tokens, mean prompt length, and how much of it repeats itself."""
    grams = [_four_grams(answer) for answer in answers]
    total = sum(map(len, grams))
    return {
        "answers": len(answers),
        "tokens": sum(answer.response_length for answer in answers),
        "prompt_tokens": sum(answer.prompt_length for answer in answers) / max(1, len(answers)),
        "repeated_4grams": sum(len(each) - len(set(each)) for each in grams) / max(1, total),
    }


def _four_grams(answer: Answer) -> list[tuple[int, ...]]:
    ids = answer.ids[answer.prompt_length :].tolist()
    return list(zip(*(ids[start:] for start in range(4)), strict=False))


def _early(cycles: Replayed) -> list[int]:
    return [n for root, n in zip(cycles.roots, cycles.accepted, strict=True) if root + 1 < FIRST_TOKENS]


def _by_category(found: Sequence[ReplayedAnswer]) -> dict[str, list[ReplayedAnswer]]:
    groups: dict[str, list[ReplayedAnswer]] = {}
    for each in found:
        groups.setdefault(each.answer.source, []).append(each)
    return dict(sorted(groups.items()))


def _held(states: Iterator[tuple[int, States]], answers: Sequence[Answer]) -> Iterator[list[tuple[int, States]]]:
    """The states in groups whose answers have at most `_HELD_TOKENS` ids together."""
    group: list[tuple[int, States]] = []
    held = 0
    for index, each in states:
        if group and held + len(answers[index].ids) > _HELD_TOKENS:
            yield group
            group, held = [], 0
        group.append((index, each))
        held += len(answers[index].ids)
    yield group


def _record(each: ReplayedAnswer) -> dict[str, Any]:
    answer, cycles = each.answer, each.cycles
    misses = Counter(cycles.misses)
    return {
        "id": answer.id,
        "category": answer.source,
        "method": each.arm,
        "prompt_tokens": answer.prompt_length,
        "new_tokens": answer.response_length,
        "cycles": len(cycles.accepted),
        "accepted": cycles.accepted,
        "misses": {name: misses[name] for name in MISSES},
    }
