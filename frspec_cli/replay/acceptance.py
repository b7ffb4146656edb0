"""Acceptance length of a head over held-out answers while it is trained: see `training.replay`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import States
from frspec_cli.decoding.tree import TreeConfig
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.replay import cycles as replaying


@dataclass(frozen=True)
class Acceptance:
    """cycles, and the tokens that they accepted, the target's own one per cycle not counted."""

    cycles: int = 0
    accepted: int = 0

    @property
    def length(self) -> float:
        """(accepted + 1) averaged over cycles; 1 where there was no cycle."""
        return 1.0 + self.accepted / self.cycles if self.cycles else 1.0


def replay(
    head: EagleHead, lm_head: LmHead, texts: Sequence[tuple[Answer, States]], *, shape: TreeConfig | None = None
) -> Acceptance:
    """Replays the answers, many at once; see `training.replay.replay`."""
    found = replaying.replay(head, lm_head, texts, shape=shape or TreeConfig())
    return Acceptance(sum(len(each.accepted) for each in found), sum(sum(each.accepted) for each in found))
