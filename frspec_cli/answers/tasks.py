"""The tasks of a prompt file, and a sample of its prompts that is fair to all of them."""

from __future__ import annotations

from collections.abc import Sequence

MT_BENCH = frozenset({"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"})
"""MT-bench's eight categories: Spec-Bench (arXiv 2401.07851) reports them as one task beside its five others."""


def tasks(categories: Sequence[str]) -> list[str]:
    """The task of each prompt: its category, or `mt_bench` for MT-bench's if the file holds all eight of them."""
    complete = set(categories) >= MT_BENCH
    return ["mt_bench" if complete and category in MT_BENCH else category for category in categories]


def stratified_sample(labels: Sequence[str], count: int) -> list[int]:
    """Indices of `count` prompts (all, if there are fewer), in order: equally many of each task, evenly spaced in it.

    labels: each prompt's task.
    What a small task lacks, and the remainder, is taken from the others in their order.
    """
    members: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    shares = dict.fromkeys(members, 0)
    left = min(count, len(labels))
    while left:
        for label in [label for label in members if shares[label] < len(members[label])][:left]:
            shares[label] += 1
            left -= 1
    return sorted(
        group[number * len(group) // shares[label]]
        for label, group in members.items()
        for number in range(shares[label])
    )
