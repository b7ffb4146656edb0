"""The figures of a replay: what was accepted, why no more was, and what the answers are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from frspec_cli.answers.records import Answer
from frspec_cli.replay.cycles import MISSES, Replayed
from frspec_cli.statistics import ratio

FIRST_TOKENS = 32


@dataclass(frozen=True)
class ReplayedAnswer:
    """One answer replayed by one arm."""

    arm: str
    answer: Answer
    cycles: Replayed


def figures(replayed: Sequence[ReplayedAnswer], *, seed: int) -> dict[str, Any]:
    """Cycles, acceptance length (also over the cycles that begin in the first 32 tokens) with 95 % intervals by bootstrap
    over answers, and why cycles ended. The reasons' counts add up to the cycles."""
    cycles = [len(each.cycles.accepted) for each in replayed]
    emitted = [len(each.cycles.accepted) + sum(each.cycles.accepted) for each in replayed]
    early = [_early(each.cycles) for each in replayed]
    misses = Counter(miss for each in replayed for miss in each.cycles.misses)
    assert misses.total() == sum(cycles)
    length = ratio(emitted, cycles, seed=seed)
    return {
        "cycles": sum(cycles),
        "acceptance_length": length["value"] if length else None,
        "interval": length,
        f"first_{FIRST_TOKENS}": ratio(
            [sum(accepted) + len(accepted) for accepted in early], [len(accepted) for accepted in early], seed=seed
        ),
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


def by_category(replayed: Sequence[ReplayedAnswer], *, seed: int) -> dict[str, dict[str, Any]]:
    """`describe` and `figures` of each category's answers."""
    groups: dict[str, list[ReplayedAnswer]] = {}
    for each in replayed:
        groups.setdefault(each.answer.source, []).append(each)
    return {
        name: {**describe([each.answer for each in group]), **figures(group, seed=seed)}
        for name, group in sorted(groups.items())
    }


def as_record(replayed: ReplayedAnswer) -> dict[str, Any]:
    """One answer's entry under `prompts` in the result."""
    answer, cycles = replayed.answer, replayed.cycles
    misses = Counter(cycles.misses)
    return {
        "id": answer.id,
        "category": answer.source,
        "method": replayed.arm,
        "prompt_tokens": answer.prompt_length,
        "new_tokens": answer.response_length,
        "cycles": len(cycles.accepted),
        "accepted": cycles.accepted,
        "misses": {name: misses[name] for name in MISSES},
    }


def _four_grams(answer: Answer) -> list[tuple[int, ...]]:
    ids = answer.ids[answer.prompt_length :].tolist()
    return list(zip(*(ids[start:] for start in range(4)), strict=False))


def _early(cycles: Replayed) -> list[int]:
    """The accepted drafts of the cycles that begin in the first tokens."""
    return [accepted for root, accepted in zip(cycles.roots, cycles.accepted, strict=True) if root + 1 < FIRST_TOKENS]
