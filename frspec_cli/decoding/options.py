"""What decoding can be asked for: methods, and the size of the draft tree. No torch here: the command line reads it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from frspec_cli.errors import UsageError, option

Method = Literal["ar", "eagle", "frspec", "lookup"]
METHODS: tuple[Method, ...] = get_args(Method)

_READ_BY: dict[str, tuple[str, ...]] = {
    "draft": ("eagle", "frspec"),
    "vocab": ("frspec",),
    "k": ("frspec",),
    "context_slots": ("frspec",),
}


def refuse_unused(methods: Sequence[str], **values: Any) -> None:
    """Raises `UsageError` if a value was given (it is not None, empty or 0) that none of the methods reads.

    values: by name: draft, vocab, k, context_slots.
    """
    for name, value in values.items():
        if value and not set(methods) & set(_READ_BY[name]):
            raise UsageError(
                f"{option(name)} has no effect on {' and '.join(methods)}: it is for {' and '.join(_READ_BY[name])} only.",
                hint=f"Leave {option(name)} out, or choose another method.",
            )


@dataclass(frozen=True)
class TreeConfig:
    """How large a draft tree may grow.

    depth: draft levels = draft forward passes per cycle.
    beam: candidates kept at each level.
    nodes: rows that the target verifies per cycle, root included.
    EAGLE's published (depth 5, top-k 10, total-token 60) is (6, 10, 60) here.
    """

    depth: int = 5
    beam: int = 4
    nodes: int = 16

    def __post_init__(self) -> None:
        if min(self.depth, self.beam) < 1 or self.nodes < 2:
            raise ValueError(f"a tree has depth >= 1, beam >= 1 and nodes >= 2, not {self}")

    def within(self, candidates: int) -> TreeConfig:
        """The tree that a draft of only `candidates` tokens can fill: beam <= candidates, nodes <= pool + root."""
        beam = min(self.beam, candidates)
        pool = beam + (self.depth - 1) * beam * beam
        return TreeConfig(depth=self.depth, beam=beam, nodes=min(self.nodes, pool + 1))
