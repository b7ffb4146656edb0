"""The figures of every arm of a replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from frspec_cli.replay.arms import ReplayArm
from frspec_cli.replay.groups import group_figures
from frspec_cli.replay.report import ReplayedAnswer, after_end, figures, kept

GROUP_NAMES = {"task": "categories", "language": "languages", "position": "positions"}
"""Under which name a summary holds each grouping."""


def summarize(
    arms: Sequence[ReplayArm], replayed: Sequence[Mapping[str, ReplayedAnswer]], *, seed: int, failed: int
) -> dict[str, Any]:
    """By arm: what it is, its figures, what it keeps of the full vocabulary's acceptance, and both by group.

    The first of several sizes is `frspec` too.
    """
    summary: dict[str, Any] = {}
    for arm in arms:
        answers = [by_arm[arm.name] for by_arm in replayed]
        full = None if arm.full is None else [by_arm[arm.full] for by_arm in replayed]
        tree = arm.drafter.tree
        summary[arm.name] = {
            "method": arm.method,
            "k": arm.drafter.k,
            "context_slots": arm.context_slots,
            "draft": arm.draft,
            "vocab": arm.vocab,
            "depth": tree.depth,
            "beam": tree.beam,
            "nodes": tree.nodes,
            "failed": failed,
            **figures(answers, seed=seed),
            "against": arm.full,
            "kept": None if full is None else kept(answers, full, seed=seed),
            "after_eos": after_end(answers, seed=seed),
            **{key: group_figures(answers, full, by=by, seed=seed) for by, key in GROUP_NAMES.items()},
        }
    first = next((name for name in summary if name.startswith("frspec@")), None)
    return summary | ({"frspec": summary[first]} if first and "frspec" not in summary else {})
