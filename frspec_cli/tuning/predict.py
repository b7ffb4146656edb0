"""Tokens per second before anything is measured: acceptance length over the cost of a cycle, for every way to decode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.tuning.acceptance import Lengths
from frspec_cli.tuning.costs import StepCosts


@dataclass(frozen=True)
class Way:
    """One way to decode, and how fast it is.

    method: ar, eagle or frspec.
    k: rows of the draft's LM head; None for plain decoding.
    tree: None for plain decoding.
    rate: decoded tokens per second, the prompt's pass left out.
    measured: whether `rate` was measured; otherwise it is predicted.
    length: acceptance length.
    step_ms: of a cycle, or of a token of plain decoding.
    """

    method: str
    dtype: str
    rate: float
    k: int | None = None
    tree: TreeConfig | None = None
    length: float = 1.0
    step_ms: float = 0.0
    measured: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells ways apart."""
        return self.method, self.dtype, self.k, self.tree

    def __str__(self) -> str:
        """In words, for a sentence."""
        if self.tree is None:
            return f"plain decoding in {self.dtype}"
        tree = self.tree
        return f"{self.method} in {self.dtype}, k {self.k:,}, depth {tree.depth}, beam {tree.beam}, {tree.nodes} nodes"


def predict(
    costs: Iterable[StepCosts], acceptance: Mapping[int, Lengths], *, context: int, methods: Sequence[str]
) -> list[Way]:
    """Every way that the costs allow, best first, plain decoding in every dtype included.

    acceptance: by rows of the draft's LM head; the costs' own full number of rows is `eagle`, every other `frspec`.
    context: tokens of text that a step stands behind.
    """
    ways = []
    for each in costs:
        plain = each.plain_ms(context)
        ways.append(Way("ar", each.dtype, 1000 / plain, step_ms=plain))
        for k, lengths in acceptance.items():
            method = "eagle" if k == each.k else "frspec"
            if method not in methods:
                continue
            for tree, length in lengths.items():
                cycle = each.cycle_ms(tree, k, context)
                ways.append(Way(method, each.dtype, 1000 * length / cycle, k, tree, length, cycle))
    return sorted(ways, key=lambda way: -way.rate)


def best_few(ways: Sequence[Way], count: int) -> list[Way]:
    """The `count` best ways with a tree, and plain decoding in every dtype."""
    trees = sorted((way for way in ways if way.tree is not None), key=lambda way: -way.rate)
    return [*(way for way in ways if way.tree is None), *trees[:count]]


def with_measured(ways: Sequence[Way], rates: Mapping[tuple[Any, ...], float]) -> list[Way]:
    """The ways that were measured, with their measured rates, best first. rates: by `Way.key`."""
    measured = [replace(way, rate=rates[way.key], measured=True) for way in ways if way.key in rates]
    return sorted(measured, key=lambda way: -way.rate)
