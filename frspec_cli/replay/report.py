"""The figures of a replay: what was accepted, how deep, why no more was, and what the answers are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from frspec_cli.answers.records import Answer
from frspec_cli.answers.repetition import repeated_4grams
from frspec_cli.replay.cycles import MISSES, Replayed
from frspec_cli.statistics import ratio, speedup

FIRST_TOKENS = 32


@dataclass(frozen=True)
class ReplayedAnswer:
    """One answer replayed by one arm.

    answer, cycles: up to its end of sequence.
    after: the cycles over what the target wrote after that; None if it wrote nothing, or if that is not replayed.
    after_tokens: how many tokens it wrote there.
    """

    arm: str
    answer: Answer
    cycles: Replayed
    after: Replayed | None = None
    after_tokens: int = 0


def figures(replayed: Sequence[ReplayedAnswer], *, seed: int) -> dict[str, Any]:
    """Cycles, acceptance length (also over the cycles that begin in the first 32 tokens) with 95 % intervals by bootstrap
    over answers, acceptance by depth, and why cycles ended. The reasons' counts add up to the cycles."""
    cycles, emitted = [_cycles(each) for each in replayed], [_emitted(each) for each in replayed]
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
        "depths": depths([each.cycles for each in replayed]),
        "misses": {name: misses[name] for name in MISSES},
        "miss_shares": {name: misses[name] / max(1, sum(cycles)) for name in MISSES},
    }


def depths(replayed: Sequence[Replayed]) -> list[dict[str, Any]]:
    """For each depth of the tree that was reached: of all cycles, and of those that accepted everything above it.

    cycles: those that accepted this many drafted tokens or more.
    share: of all cycles.
    asked: cycles that accepted everything above this depth and whose answer went on there.
    conditional: cycles / asked, which is what one more draft step is worth; None if `asked` is 0.
    """
    pairs = [pair for each in replayed for pair in zip(each.accepted, each.misses, strict=True)]
    deepest = max((count + (miss not in ("depth", "end")) for count, miss in pairs), default=0)
    rows = []
    for depth in range(1, deepest + 1):
        reached = sum(count >= depth for count, _ in pairs)
        asked = reached + sum(count == depth - 1 and miss not in ("depth", "end") for count, miss in pairs)
        row = {"depth": depth, "cycles": reached, "share": reached / len(pairs), "asked": asked}
        rows.append({**row, "conditional": reached / asked if asked else None})
    return rows


def kept(replayed: Sequence[ReplayedAnswer], full: Sequence[ReplayedAnswer], *, seed: int) -> dict[str, float] | None:
    """The acceptance length over that of the full vocabulary, with a 95 % interval: answers are drawn for both together.

    Item i of each list is of one answer. None if no answer has a cycle.
    """
    pairs = [(a, b) for a, b in zip(replayed, full, strict=True) if _cycles(a) and _cycles(b)]
    if not pairs:
        return None
    ours, theirs = zip(*pairs, strict=True)
    return speedup(
        list(map(_emitted, ours)),
        list(map(_cycles, ours)),
        list(map(_emitted, theirs)),
        list(map(_cycles, theirs)),
        seed=seed,
    )


def after_end(replayed: Sequence[ReplayedAnswer], *, seed: int) -> dict[str, Any] | None:
    """What the text after the end of sequence would have added, of the answers where that was replayed; None if nowhere.

    acceptance_length, interval: over that text alone.
    with_it: the acceptance length of all answers, that text included.
    """
    rest = [each.after for each in replayed if each.after is not None and each.after.accepted]
    if not rest:
        return None
    own = ratio(
        [len(each.accepted) + sum(each.accepted) for each in rest], [len(each.accepted) for each in rest], seed=seed
    )
    assert own is not None
    whole = [[*each.cycles.accepted, *(each.after.accepted if each.after else ())] for each in replayed]
    return {
        "answers": len(rest),
        "tokens": sum(each.after_tokens for each in replayed if each.after is not None),
        "cycles": sum(len(each.accepted) for each in rest),
        "acceptance_length": own["value"],
        "interval": own,
        "with_it": ratio([len(each) + sum(each) for each in whole], [len(each) for each in whole], seed=seed),
    }


def describe(answers: Sequence[Answer]) -> dict[str, Any]:
    """What is replayed: answers, answered tokens, mean prompt length, and how much of it repeats itself."""
    return {
        "answers": len(answers),
        "tokens": sum(answer.response_length for answer in answers),
        "prompt_tokens": sum(answer.prompt_length for answer in answers) / max(1, len(answers)),
        "repeated_4grams": repeated_4grams(answer.ids[answer.prompt_length :].tolist() for answer in answers),
    }


def as_record(replayed: ReplayedAnswer) -> dict[str, Any]:
    """One answer's entry under `prompts` in the result."""
    answer, cycles = replayed.answer, replayed.cycles
    misses = Counter(cycles.misses)
    return {
        "id": answer.id,
        "category": answer.source,
        "language": answer.language,
        "method": replayed.arm,
        "prompt_tokens": answer.prompt_length,
        "new_tokens": answer.response_length,
        "cycles": len(cycles.accepted),
        "accepted": cycles.accepted,
        "misses": {name: misses[name] for name in MISSES},
    }


def _cycles(replayed: ReplayedAnswer) -> int:
    return len(replayed.cycles.accepted)


def _emitted(replayed: ReplayedAnswer) -> int:
    return len(replayed.cycles.accepted) + sum(replayed.cycles.accepted)


def _early(cycles: Replayed) -> list[int]:
    """The accepted drafts of the cycles that begin in the first tokens."""
    return [accepted for root, accepted in zip(cycles.roots, cycles.accepted, strict=True) if root + 1 < FIRST_TOKENS]
