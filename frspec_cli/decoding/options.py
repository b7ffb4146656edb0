"""What texts are decoded with: the method, the draft tree's size, how long. No torch here: the command line reads it too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import UsageError, not_one_of, option

Method = Literal["ar", "eagle", "frspec", "lookup"]
"""ar: plain decoding. eagle: the head's whole LM head. frspec: a subset of its rows. lookup: n-grams of the text."""
METHODS: tuple[Method, ...] = get_args(Method)

_READ_BY: dict[str, tuple[str, ...]] = {
    "draft": ("eagle", "frspec"),
    "norm_output": ("eagle", "frspec"),
    "vocab": ("frspec",),
    "k": ("frspec",),
    "context_slots": ("frspec",),
}


def refuse_unused(methods: Sequence[str], **values: Any) -> None:
    """Raises `UsageError` if a value was given (it is not None, empty or 0) that none of the methods reads.

    values: by name: draft, norm_output, vocab, k, context_slots.
    """
    for name, value in values.items():
        if value and not set(methods) & set(_READ_BY[name]):
            raise UsageError(
                f"{option(name)} has no effect on {' and '.join(methods)}: it is for {' and '.join(_READ_BY[name])} only.",
                hint=f"Leave {option(name)} out, or choose another method.",
            )


TREE_LIMITS = {"depth": (1, 64), "beam": (1, 128), "nodes": (2, 2048)}
"""The smallest and the largest value of each field. At the largest the candidates of a cycle fill a few hundred MB; no tree
of any paper is near them."""


@dataclass(frozen=True)
class TreePrices:
    """What the parts of a tree cost, in tokens: as many as the engine emits in the time that the part takes.

    row: one more row for the target to verify.
    level: one more draft level.

    A node whose path is likely to be accepted with less than `row` is left out, and a level is not drafted that could not
    earn `level`. Raises `UsageError` if a price is negative or no number.
    """

    row: float
    level: float

    def __post_init__(self) -> None:
        for name in ("row", "level"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"the price of a {name}, {getattr(self, name)}, is not a number of at least 0.")

    @staticmethod
    def measured(*, row_seconds: float, level_seconds: float, tokens_per_second: float) -> TreePrices:
        """The prices where a row and a level take these times, and decoding has this speed."""
        return TreePrices(row=row_seconds * tokens_per_second, level=level_seconds * tokens_per_second)


@dataclass(frozen=True)
class TreeConfig:
    """How large a draft tree may grow.

    depth: draft levels = draft forward passes per cycle.
    beam: candidates kept at each level.
    nodes: rows that the target verifies per cycle, root included.
    prices: leave out, cycle by cycle, what does not pay; None for trees of fixed size.

    EAGLE's published tree (depth 5, top-k 10, total-token 60) is (6, 10, 60) here. Raises `UsageError` if a value is outside
    its range.
    """

    depth: int = 5
    beam: int = 4
    nodes: int = 16
    prices: TreePrices | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in TREE_LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise UsageError(f"{option(name)} {value} is not between {least} and {most:,}.")

    def within(self, candidates: int) -> TreeConfig:
        """The tree that a draft of only `candidates` tokens can fill: beam <= candidates, nodes <= pool + root."""
        beam = min(self.beam, candidates)
        pool = beam + (self.depth - 1) * beam * beam
        return replace(self, beam=beam, nodes=min(self.nodes, pool + 1))


def check_method(method: str, **values: Any) -> None:
    """Raises `UsageError` if there is no such method, or if it does not read a value that was given (see `refuse_unused`)."""
    if method not in METHODS:
        raise not_one_of("method", method, METHODS)
    refuse_unused((method,), **values)


@dataclass(frozen=True)
class GenerateOptions:
    """How texts are generated.

    method: None for the best that target, head and subset allow.
    tree: the draft tree's size.
    context_slots: spare draft rows for tokens of the text that the subset lacks; frspec only.
    max_new_tokens: the most tokens of a text.
    sampling: greedy by default.
    stop: strings that end the text and are left out of it.
    raw: continue the prompt as it is, without the chat template.
    ignore_eos: always generate `max_new_tokens` tokens.

    Raises `UsageError` if a value is outside its range, or if the method ignores one that was given.
    """

    method: Method | None = None
    tree: TreeConfig = field(default_factory=TreeConfig)
    context_slots: int = 0
    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    raw: bool = False
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"{option('max_new_tokens')} {self.max_new_tokens} is less than 1.")
        if self.context_slots < 0:
            raise UsageError(f"{option('context_slots')} {self.context_slots} is negative.")
        if self.method is not None:
            check_method(self.method, context_slots=self.context_slots)


DEFAULTS = GenerateOptions()
