"""What `replay` is asked to do. No torch here: the command line takes its defaults from this module."""

from __future__ import annotations

from dataclasses import dataclass

from frspec_cli.decoding.options import TreeConfig, refuse_unused
from frspec_cli.errors import UsageError, option

METHODS = ("eagle", "frspec")
GROUPINGS = ("task", "language", "position")
PROMPT_NEW_TOKENS = 64
"""How many tokens the target answers to a prompt if nothing else is asked for."""
SMALLEST_ON_CURVE = 256
MTP_TREE = TreeConfig(depth=3, beam=1, nodes=4)
"""For the target's own MTP module, unless something else is asked for: engines draft chains with it."""


@dataclass(frozen=True)
class ReplayOptions:
    """What is replayed; the result records it.

    methods: eagle (the full LM head), frspec (a subset's rows).
    ks: subset sizes for frspec; () for the subset's own.
    curve: the subset's own size and its halves, down to `SMALLEST_ON_CURVE`, in place of `ks`.
    context_slots: of frspec, numbers of spare rows for tokens of the text that the subset lacks; 0 is none.
    trees: the draft trees.
    max_new_tokens: no cycle begins once an answer has this many tokens; None for all of a recorded answer, and for
        `PROMPT_NEW_TOKENS` of a prompt's.
    held_out: of recorded answers, only those that `train-draft` never trains on.
    limit: use the first N answers or prompts; None for all.
    ignore_eos: answer prompts past the end of sequence, and replay what comes after it, apart.
    by: what the figures are shown by, of `GROUPINGS`.
    """

    methods: tuple[str, ...] = METHODS
    ks: tuple[int, ...] = ()
    curve: bool = False
    context_slots: tuple[int, ...] = (0,)
    trees: tuple[TreeConfig, ...] = (TreeConfig(),)
    max_new_tokens: int | None = None
    held_out: bool = False
    limit: int | None = None
    ignore_eos: bool = False
    by: tuple[str, ...] = ("task",)
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown:
            raise UsageError(f"a replay compares {' and '.join(METHODS)}, not {unknown[0]}.")
        refuse_unused(self.methods, k=self.ks, context_slots=max(self.context_slots, default=0))
        if negative := [count for count in self.context_slots if count < 0]:
            raise UsageError(f"{option('context_slots')} {negative[0]} is negative.")
        if self.curve and self.ks:
            raise UsageError(f"{option('curve')} chooses the sizes itself: leave out {option('k')}.")
        if self.curve and "frspec" not in self.methods:
            raise UsageError(f"{option('curve')} has no effect on {self.methods[0]}: it is for frspec only.")
        if unknown := [each for each in self.by if each not in GROUPINGS]:
            raise UsageError(f"{option('by')} is one of {', '.join(GROUPINGS)}, not {unknown[0]}.")
        given = {
            "methods": self.methods,
            "k": self.ks,
            "context_slots": self.context_slots,
            "tree": self.trees,
            "by": self.by,
        }
        for name, values in given.items():
            if len(set(values)) < len(values):
                raise UsageError(f"{option(name)} lists a value twice.")

    @property
    def deepest(self) -> int:
        """Levels of the deepest tree."""
        return max(tree.depth for tree in self.trees)


def parse_tree(text: str) -> TreeConfig:
    """The tree that `DEPTH,BEAM,NODES` names. Raises `UsageError` if it is not three such numbers."""
    try:
        depth, beam, nodes = map(int, text.split(","))
        return TreeConfig(depth=depth, beam=beam, nodes=nodes)
    except (ValueError, UsageError):
        raise UsageError(
            f"{option('tree')} {text} is not a tree.",
            hint="Give depth, beam and nodes (at least 1,1,2), such as 5,4,16.",
        ) from None
