"""What a draft vocabulary gives a model whose vocabulary has another size, by recorded costs and acceptance lengths."""

from __future__ import annotations

from frspec_cli.tuning.costs import AcceptancePoint, CostFile, StepCosts


def speedup_at(file: CostFile, rows: int, *, context: int) -> tuple[float, int]:
    """(how many times as fast FR-Spec is as EAGLE-2 with a vocabulary of `rows`, the k at which it is).

    The file's own tree, text and acceptance lengths are taken. Where `rows` is not the file's vocabulary, only the LM
    heads change, the draft's and the target's, by the recorded cost of a row.

    Raises `ValueError` if the file records no acceptance with its full vocabulary or none with a smaller one.
    """
    costs = file.costs[0]
    full = [point for point in file.acceptance if point.k == costs.k]
    subsets = [point for point in file.acceptance if point.k < costs.k]
    eagle = max(point.length / _cycle_ms(costs, point, rows, rows, context) for point in full)
    rate, k = max((point.length / _cycle_ms(costs, point, point.k, rows, context), point.k) for point in subsets)
    return rate / eagle, k


def _cycle_ms(costs: StepCosts, point: AcceptancePoint, k: int, rows: int, context: int) -> float:
    """A cycle that drafts with k rows in front of a target whose LM head has `rows`."""
    tree = point.tree
    targets = costs.head_ms(rows, tree.beam) - costs.head_ms(costs.k, tree.beam)
    return costs.cycle_ms(tree, k, context) + targets
