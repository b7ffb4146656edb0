"""How `doctor` looks into a head. No torch here: the command line takes its defaults from this module."""

from __future__ import annotations

from dataclasses import dataclass, field

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.replay.options import ReplayOptions

WIDE = TreeConfig(depth=8, beam=8, nodes=64)
"""The tree that shows what more drafting would give."""
SURE = 1.03
"""A gain of at least this many times is acted on, if its interval lies above 1 too: of the twenty or so readings that are
tried, one may well lie above it by chance, but hardly by so much."""
SMALLEST_GROUP = 8
"""Answers of a task or a language below which nothing is said of it."""


@dataclass(frozen=True)
class DoctorOptions:
    """How a head is looked into.

    tree: the draft tree of every replay.
    limit: use the first N answers or prompts.
    max_new_tokens, held_out: as in `ReplayOptions`.
    changes: how many things may be read wrongly at once.
    ceilings: also replay a wider tree, the full vocabulary, and a subset of the answers themselves.
    """

    tree: TreeConfig = field(default_factory=TreeConfig)
    limit: int = 24
    max_new_tokens: int | None = None
    held_out: bool = False
    changes: int = 3
    ceilings: bool = True
    seed: int = 0

    @property
    def trees(self) -> tuple[TreeConfig, ...]:
        """The trees that are replayed: all over the same cycles' worth of text."""
        return tuple(dict.fromkeys((self.tree, WIDE) if self.ceilings else (self.tree,)))

    @property
    def replay(self) -> ReplayOptions:
        """What is read or answered, as in a replay of these trees."""
        return ReplayOptions(
            methods=("eagle",),
            trees=self.trees,
            max_new_tokens=self.max_new_tokens,
            held_out=self.held_out,
            limit=self.limit,
            seed=self.seed,
        )
